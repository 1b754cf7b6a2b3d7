"""Every field of both forms with every shipped catalogue: one outcome each, and arguments that pass.

The parser that judges is argparse itself, set up from the catalogue's JSON by what the format says,
without any of the code under test.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

import pytest

from apps.vllm.catalogue import SHIPPED, parse_catalogue
from common.engines.contract import EngineCommand
from common.options.declaration import Option
from tests.vllm.samples import FORMS, VERSIONS, check, names_in, outcome_of, write

# What each field is set to where its type alone does not say: none of these is a default.
VALUES: dict[str, tuple[Any, ...]] = {
    "--limit-mm-per-prompt": ("image=16,video=2", '{"image": 3}', '{"image": {"count": 2}}'),
    "--tool-call-parser": ("hermes", "mistral"),
    "--tool-parser-plugin": ("/plugins/mine.py",),
    "--reasoning-parser": ("deepseek_r1", "granite"),
    "--quantization": ("awq", "gptq", "fp8", "aqlm", "marlin", "hqq", "gguf", "bitsandbytes"),
    "--speculative-model-quantization": ("awq", "gguf"),
    "--rope-scaling": ('{"rope_type":"dynamic","factor":2.0}',),
    "--max-model-len": (4096,),
    "--seed": (7, -7),
    "--block-size": (16, 1, 8, 256),
    "--gpu-memory-utilization": (0.5,),
    "--max-logprobs": (5, -1),
    "--speculative-model": (
        "org/draft",
        "[ngram]",
        "ngram",
        "yuhuili/EAGLE-LLaMA3-Instruct-8B",
        "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B",
        "org/medusa-vicuna",
        "org/glm-mtp",
        "org/llama3-8b-accelerator",
        "0123456789abcdef0123456789abcdef",
    ),
    "--lora-modules": ("sql=org/sql other=org/other", '{"name": "sql", "path": "org/sql"}'),
    "--long-lora-scaling-factors": ("2.0,4.0",),
    "--max-lora-rank": (7, 16, 100, 512, 1024),
    "--lora-extra-vocab-size": (256, 512),
    "--hf-overrides": ('{"max_position_embeddings": 8192}',),
    "--model-loader-extra-config": ('{"concurrency": 4}',),
    "--tokenizer-pool-extra-config": ('{"runtime_env": {}}',),
    "--override-pooler-config": ('{"pooling_type": "MEAN", "normalize": true}',),
    "--ignore-patterns": ("*.bin,old*", "original/**"),
    "--revision": ("refs/pr/2",),
    "--code-revision": ("main",),
    "--tokenizer": ("org/tokenizer",),
    "--tokenizer-revision": ("v2",),
    "--num-lookahead-slots": (4,),
}
BY_TYPE: dict[str, tuple[Any, ...]] = {
    "boolean": (True, False),
    "integer": (4,),
    "float": (2.5,),
    "string": ("x",),
}

# Flags that announce their end and still do what they did.
STILL_WORK = {"--lora-extra-vocab-size", "--enable-lora-bias", "--no-enable-lora-bias"}

# Fields that cannot stand alone.
NEEDS: dict[str, dict[str, Any]] = {
    "Model/enable_auto_tool_choice": {"Model/tool_call_parser": "hermes"},
    "Model/enable_reasoning": {"Model/reasoning_parser": "deepseek_r1"},
    "LoRA/lora_modules": {"LoRA/enable_lora": True},
    "Advanced/enable_prompt_adapter": {"Advanced/max_prompt_adapter_token": 4},
}


def fields(form: str) -> list[Option]:
    """Every engine option of a form."""
    return [option for option in FORMS[form].options(entry=False) if option.flag]


def values(option: Option) -> tuple[Any, ...]:
    """What to set a field to, each a case of its own."""
    return VALUES.get(option.flag or "") or option.choices or BY_TYPE[option.type]


ALONE = [
    pytest.param(form, option, value, id=f"{form}-{option.path}={value}")
    for form in FORMS
    for option in fields(form)
    for value in values(option)
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("form", "option", "value"), ALONE)
def test_a_field_alone(form: str, option: Option, value: Any, version: str) -> None:
    given = {**NEEDS.get(option.path, {}), option.path: value}
    command = write(version, form, **given)
    assert_accepted(command, read(version))
    assert_one_outcome(command, option, read(version))
    if form == "vllm":
        assert check(version, **given) == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("v1", [None, True, False])
@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize("form", FORMS)
def test_all_fields_together(form: str, case: int, v1: bool | None, version: str) -> None:
    given = {
        option.path: values(option)[case % len(values(option))]
        for option in fields(form)
        if option.flag != "VLLM_USE_V1"
    }
    if form == "vllm":
        given["Advanced/hf_overrides"] = '{"vocab_size": 5}'
        given["Model/rope_theta"] = 1e6
        if case == 1:
            given |= {"Model/enable_auto_tool_choice": True, "LoRA/enable_lora": True}
            # A rope_scaling of its own beside RoPE Theta's is no mistake; a plugin's parser is.
            given.pop("Model/tool_parser_plugin")
        if v1 is not None:
            given["General/use_v1_engine"] = v1
    else:
        given["LoRA/enable_lora"] = True
    command = write(version, form, **given)
    assert_accepted(command, read(version))
    for option in fields(form):
        if option.path in given:
            assert_one_outcome(command, option, read(version))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("form", FORMS)
def test_catalogues_that_nobody_has_seen(form: str, seed: int) -> None:
    document = mutated(read(VERSIONS[seed % len(VERSIONS)]), random.Random(seed))
    known = parse_catalogue(document)
    given = {option.path: values(option)[seed % len(values(option))] for option in fields(form)}
    given |= {"LoRA/enable_lora": True}
    if form == "vllm":
        # Values of the user's own that a parser of closed choices refuses are mistakes.
        given |= {"Advanced/hf_overrides": '{"vocab_size": 5}', "Model/tool_parser_plugin": ""}
    command = write(known, form, **given)
    assert_accepted(command, document)
    for option in fields(form):
        if given[option.path] != "":
            assert_one_outcome(command, option, document)


def mutated(document: Any, chance: random.Random) -> Any:
    """A catalogue of a later version: flags are gone, renamed, turned round, on their way out."""
    kept = {"--served-model-name", "--host", "--port", "--uds"}
    flags: dict[str, Any] = {}
    for name, old in document["flags"].items():
        flag, what = dict(old), chance.random()
        is_switch = flag["takes_value"] == "none"
        if name in kept:
            pass
        elif what < 0.15:
            continue
        elif what < 0.2:
            flag["aliases"], name = [*flag["aliases"], name], f"{name}-renamed"
        elif what < 0.3 and is_switch:
            flag["negations"] = []
        elif what < 0.4 and is_switch:
            flag |= {"takes_value": chance.choice(["optional", "required"]), "type": "bool"}
        elif what < 0.45 and is_switch:
            flag |= {"takes_value": "required", "type": "str"}
        elif what < 0.55 and is_switch and flag["negations"]:
            name, flag["negations"] = flag["negations"][0], [name]
        elif what < 0.35 and flag["type"] == "str":
            flag["type"] = chance.choice(["list[str]", "append[str]"])
        elif what < 0.4:
            flag |= {"takes_value": "none", "type": None, "choices": None}
        flags[name] = flag
    return {"version": "0.99.0", "flags": flags}


def assert_one_outcome(command: EngineCommand, option: Option, document: Any) -> None:
    """Assert that a field is told once, or else passed under its own name."""
    told = outcome_of(command, option)
    assert len(told) <= 1, told
    known = next(
        (
            {name, *flag["aliases"], *flag["negations"]}
            for name, flag in document["flags"].items()
            if option.flag in (name, *flag["aliases"])
        ),
        set(),
    )
    own = {option.flag, *known}
    if not told:
        assert own & (names_in(command) | set(command.env)), f"{option.path} was dropped"
    else:
        assert told[0].partition(": ")[2].strip(), "told nothing"
    if told and told[0].startswith("unavailable") and option.flag not in known_names(command):
        assert not own & names_in(command)


def known_names(command: EngineCommand) -> set[str]:
    """Flags that some other field than the one that was given up passed."""
    return {"--speculative-config", "--hf-overrides", "--trust-remote-code"} & names_in(command)


def assert_accepted(command: EngineCommand, document: Any) -> None:
    """Assert that a parser made of the catalogue takes the arguments as they are meant."""
    assert command.argv[:2] == ("vllm", "serve")
    parsed = parser_of(json.dumps(document)).parse_args(list(command.argv[2:]))
    assert parsed.model_tag == "/cache/base"
    assert len(parsed.__dict__["--served-model-name"]) == 1
    deprecated = {
        name
        for flag_name, flag in document["flags"].items()
        if flag["deprecated"] and document["version"] in VERSIONS
        for name in (flag_name, *flag["negations"])
    }
    # What these do, they still do in the versions that announce their end.
    assert names_in(command) & deprecated <= STILL_WORK
    once = [name for name in map(name_of, command.argv) if name in document["flags"]]
    repeated = {name for name in once if once.count(name) > 1}
    assert all(document["flags"][name]["type"].startswith("append") for name in repeated)


def name_of(argument: str) -> str:
    return argument.partition("=")[0]


@cache
def read(version: str) -> Any:
    return json.loads((SHIPPED / f"{version}.json").read_text(encoding="utf-8"))


class StrictParser(argparse.ArgumentParser):
    """A parser whose mistakes are failures of the test."""

    def error(self, message: str) -> NoReturn:
        raise AssertionError(message)


@cache
def parser_of(text: str) -> argparse.ArgumentParser:
    """A parser that takes what the catalogue says, and no abbreviations."""
    document = json.loads(text)
    parser = StrictParser(allow_abbrev=False, add_help=False)
    parser.add_argument("model_tag", nargs="?")
    for name, flag in document["flags"].items():
        names = [name, *flag["aliases"]]
        kind = flag["type"] or ""
        if flag["takes_value"] == "none":
            parser.add_argument(*names, dest=name, action="store_true")
            for negation in flag["negations"]:
                parser.add_argument(negation, dest=name, action="store_false")
            continue
        element = kind[kind.index("[") + 1 : -1] if "[" in kind else kind
        choices = [str(choice) for choice in flag["choices"]] if flag["choices"] else None
        details: dict[str, Any] = {"dest": name, "type": reader(element), "choices": choices}
        if kind.startswith("append"):
            details["action"] = "append"
        elif kind.startswith("list"):
            details["nargs"] = "+"
        elif flag["takes_value"] == "optional":
            details["nargs"] = "?"
        parser.add_argument(*names, **details)
        for negation in flag["negations"]:
            parser.add_argument(negation, dest=name, action="store_const", const=None)
    return parser


def reader(kind: str) -> Callable[[str], str]:
    """Check a value by its type and give it back, so that choices compare as text."""

    def read_value(text: str) -> str:
        if kind == "int":
            int(text)
        elif kind == "float":
            float(text)
        elif kind == "bool":
            assert text.lower() in ("true", "false")
        elif kind == "json":
            json.loads(text)
        elif kind == "json_or_str":
            assert not text.startswith("{") or isinstance(json.loads(text), dict)
        elif kind == "kv_list":
            assert all(part.partition("=")[2].isdigit() for part in text.split(","))
        elif kind.startswith("human_int"):
            assert text.removesuffix("k").removesuffix("K").isdigit()
        else:
            assert kind == "str", kind
        return text

    return read_value
