"""LoRA Modules: what can be written, what is wrong with it, and which model an adapter belongs to."""

from __future__ import annotations

import json

import pytest

from apps.vllm.lora import LoraModule, assign_adapters, parse_lora_modules
from common.errors import ConfigurationError

CLEARML_ID = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        (None, []),
        ("  ", []),
        ("sql=org/repo", [LoraModule("sql", "org/repo")]),
        (" sql = org/repo ", [LoraModule("sql", "org/repo")]),
        (
            f"a=org/a, b=./b\nc={CLEARML_ID} d=org/d",
            [
                LoraModule("a", "org/a"),
                LoraModule("b", "./b"),
                LoraModule("c", CLEARML_ID),
                LoraModule("d", "org/d"),
            ],
        ),
        ("a=/data/run=3/best", [LoraModule("a", "/data/run=3/best")]),
        ("Org/Model-1.5:sql=org/a", [LoraModule("sql", "org/a", "Org/Model-1.5")]),
        ("team:chat:sql=org/a", [LoraModule("sql", "org/a", "team:chat")]),
        ("org/sql.v2=org/a", [LoraModule("org/sql.v2", "org/a")]),
        ("a=org/a@refs%2Fpr%2F3", [LoraModule("a", "org/a@refs%2Fpr%2F3")]),
        ('{"name": "a", "path": "/my models/a, b"}', [LoraModule("a", "/my models/a, b")]),
        (
            '{"name": "a", "path": "org/a"} {"name": "m:b", "path": "org/b"}',
            [LoraModule("a", "org/a"), LoraModule("b", "org/b", "m")],
        ),
        (
            '[{"name": "a", "path": "org/a", "base_model_name": "org/base"}, "b=org/b"]',
            [LoraModule("a", "org/a", base_model_name="org/base"), LoraModule("b", "org/b")],
        ),
    ],
)
def test_what_can_be_written(text: str | None, modules: list[LoraModule]) -> None:
    parsed = parse_lora_modules(text)
    assert parsed.problems == ()
    assert list(parsed.modules) == modules


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sql", ["'sql' is not written as name=reference"]),
        ("=org/a", ["'=org/a' has no name"]),
        ("m:=org/a", ["'m:=org/a' has no name"]),
        (":a=org/a", ["has no endpoint name before the colon"]),
        ("a=", ["'a=' has no reference"]),
        ("a=org/a a=org/b", ["the name 'a' is given twice"]),
        ("x:a=org/a y:a=org/b", ["the name 'a' is given twice"]),
        ("a=https://huggingface.co/org/a", ["Give it as 'org/a'"]),
        ("a=nowhere", ["'nowhere' is no existing path"]),
        ('{"name": "a"}', ["has no reference"]),
        ('{"path": "org/a"}', ["has no name"]),
        ('{"name": "a", "path": "org/a", "rank": 8}', ["'rank' is none of the keys"]),
        ('{"name": 1, "path": "org/a"}', ["must be text"]),
        ('{"name": "a b", "path": "org/a"}', ["has a space"]),
        ('{"name": "a"', ["is not valid JSON"]),
        ('[{"name": "a", "path": "org/a"}', ["is not valid JSON"]),
        ("[7]", ["7 is neither name=reference nor an object"]),
        ("one, b=org/b, two", ["'one' is not", "'two' is not"]),
    ],
)
def test_every_problem_is_said_in_words(text: str, words: list[str]) -> None:
    problems = parse_lora_modules(text).problems
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems, strict=True))


def test_right_ones_are_read_beside_wrong_ones() -> None:
    assert parse_lora_modules("one, b=org/b").modules == (LoraModule("b", "org/b"),)


def test_a_bare_adapter_belongs_to_the_only_model() -> None:
    bare, told = LoraModule("a", "org/a"), LoraModule("b", "org/b", "Org/M.1")
    assert assign_adapters([bare, told], ["Org/M.1"]) == {"Org/M.1": (bare, told)}


def test_an_adapter_belongs_to_the_endpoint_that_it_names() -> None:
    first, second = LoraModule("a", "org/a", "org/m"), LoraModule("b", "org/b", "n.2")
    assert assign_adapters([second, first], ["org/m", "n.2", "o"]) == {
        "org/m": (first,),
        "n.2": (second,),
        "o": (),
    }


def test_no_adapters_are_none_for_every_model() -> None:
    assert assign_adapters([], ["m", "n"]) == {"m": (), "n": ()}


def test_adapters_that_belong_to_no_model_are_refused_together() -> None:
    modules = parse_lora_modules("a=org/a, q:b=org/b, m:n=org/c").modules
    with pytest.raises(ConfigurationError) as caught:
        assign_adapters(modules, ["m", "n"])
    messages = [problem.message for problem in caught.value.problems]
    assert {problem.path for problem in caught.value.problems} == {"LoRA/lora_modules"}
    assert len(messages) == 3
    assert "write endpoint:a=" in messages[0]
    assert '"m", "n"' in messages[0]
    assert '\'q\', which no model has; known: "m", "n"' in messages[1]
    assert "'n' is the endpoint name of a model" in messages[2]


def test_a_json_list_and_text_say_the_same() -> None:
    listed = [{"name": "a", "path": "org/a"}, {"name": "m:b", "path": "org/b"}]
    assert (
        parse_lora_modules(json.dumps(listed)).modules
        == parse_lora_modules("a=org/a\nm:b=org/b").modules
    )
