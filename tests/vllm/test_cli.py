"""The fields "CLI" and "Model Overrides" against the catalogues of released versions."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from apps.vllm.catalogue import SHIPPED, Catalogue, load_catalogue
from apps.vllm.cli import base_name, engine_argv, flag_table, read_cli, read_overrides
from apps.vllm.cli_rules import REFUSED, refusal


@cache
def shipped(version: str) -> Catalogue:
    return load_catalogue(SHIPPED / f"{version}.json")


def argv_of(text: str, version: str) -> list[tuple[str, ...]]:
    parsed = read_cli(text, shipped(version))
    assert not parsed.problems
    return [engine_argv(item) for item in parsed.items]


@pytest.mark.parametrize(
    ("version", "text", "argv"),
    [
        ("0.32.0", "--max-model-len 4096", [("--max-model-len", "4096")]),
        ("0.32.0", "--max_model_len=32k", [("--max-model-len", "32k")]),
        ("0.32.0", "--max-model-len auto", [("--max-model-len", "auto")]),
        ("0.32.0", "-tp 2 -q awq", [("--tensor-parallel-size", "2"), ("--quantization", "awq")]),
        ("0.32.0", "--no-enable-prefix-caching", [("--no-enable-prefix-caching",)]),
        ("0.33.0", "--no-enable-prefix-caching", [("--disable-prefix-caching",)]),
        ("0.33.0", "--disable-log-requests", [("--disable-log-requests",)]),
        ("0.32.0", "--seed -1", [("--seed=-1",)]),
        ("0.32.0", "--chat-template=--odd", [("--chat-template=--odd",)]),
        ("0.32.0", "--lora-modules a=b c=d --seed 1", [("--lora-modules", "a=b", "c=d"), ("--seed", "1")]),
        ("0.32.0", "--hf-overrides '{\"a\": 1}'", [("--hf-overrides", '{"a": 1}')]),
        ("0.32.0", "--hf-overrides.a.b=1", [("--hf-overrides.a.b", "1")]),
        ("0.9.2", "--compilation_config.pass_config.x 3", [("--compilation-config.pass_config.x", "3")]),
        ("0.32.0", "--compilation-config.ops+ a,b", [("--compilation-config.ops+", "a,b")]),
        ("0.32.0", "-O3", [("--optimization-level", "3")]),
        ("0.32.0", "-O=2", [("--optimization-level", "2")]),
        ("0.10.0", "-O 3", [("-O", "3")]),
        ("0.10.0", "-O.level 3", [("--compilation-config.level", "3")]),
        ("0.7.2", "-O3", [("--compilation-config", "3")]),
        ("0.7.2", "--limit-mm-per-prompt image=2,video=1", [("--limit-mm-per-prompt", "image=2,video=1")]),
        ("0.7.2", "--enable-chunked-prefill", [("--enable-chunked-prefill",)]),
        ("0.7.2", "--enable-chunked-prefill False", [("--enable-chunked-prefill", "False")]),
        (
            "0.7.2",
            "--ignore-patterns a --ignore-patterns b",
            [("--ignore-patterns", "a"), ("--ignore-patterns", "b")],
        ),
        ("0.32.0", "--max-lora-rank 16", [("--max-lora-rank", "16")]),
        ("0.9.2", "--limit-mm-per-prompt image=2", [("--limit-mm-per-prompt", "image=2")]),
        ("0.8.5", "--compilation-config 3", [("--compilation-config", "3")]),
    ],
)  # fmt: skip
def test_cli_gives_what_the_parser_takes(
    version: str, text: str, argv: list[tuple[str, ...]]
) -> None:
    assert argv_of(text, version) == argv


@pytest.mark.parametrize(
    ("version", "text", "problem"),
    [
        (
            "0.32.0",
            "--max-model-length 1",
            "--max-model-length is no flag of this engine; did you mean --max-model-len?",
        ),
        ("0.32.0", "--max-model 1", "--max-model is no flag of this engine; did you mean --max-model-len?"),
        (
            "0.27.1",
            "--device cuda",
            "--device is no flag of this engine: vLLM 0.27.1 has no --device: absent from 0.10.0 on; "
            "vLLM detects what it runs on",
        ),
        ("0.27.1", "--device-id 1", "--device-id is no flag of this engine; did you mean --device-ids?"),
        (
            "0.32.0",
            "--dtype int3",
            "--dtype cannot be 'int3'; vLLM knows auto, bfloat16, float, float16, float32, half",
        ),
        (
            "0.32.0",
            "--max-lora-rank 17",
            "--max-lora-rank cannot be '17'; vLLM knows 1, 8, 16, 32, 64, 128, 256, 320, 512",
        ),
        ("0.32.0", "--seed x", "--seed cannot be 'x': a whole number is needed"),
        (
            "0.32.0",
            "--gpu-memory-utilization much",
            "--gpu-memory-utilization cannot be 'much': a number is needed",
        ),
        ("0.7.2", "--max-model-len 32k", "--max-model-len cannot be '32k': a whole number is needed"),
        (
            "0.9.2",
            "--max-model-len auto",
            "--max-model-len cannot be 'auto': a whole number, one such as 32k or 32K is needed",
        ),
        (
            "0.32.0",
            "--max-model-len 1.5K",
            "--max-model-len cannot be '1.5K': a whole number, one such as 32k or 32K, or "
            "auto is needed",
        ),
        (
            "0.32.0",
            "--speculative-config {a",
            "--speculative-config cannot be '{a': JSON such as {\"key\": 1} is needed",
        ),
        (
            "0.32.0",
            "--compilation-config 3",
            "--compilation-config cannot be '3': JSON such as {\"key\": 1} is needed",
        ),
        (
            "0.10.0",
            "--limit-mm-per-prompt image=2",
            "--limit-mm-per-prompt cannot be 'image=2': JSON such as {\"key\": 1} is needed",
        ),
        (
            "0.10.0",
            "--preemption-mode None",
            "--preemption-mode cannot be 'None'; to leave it to vLLM, leave the flag out",
        ),
        (
            "0.10.0",
            "--preemption-mode x",
            "--preemption-mode cannot be 'x'; vLLM knows swap, recompute",
        ),
        ("0.32.0", "--hf-overrides {a", "--hf-overrides cannot be '{a': JSON is needed"),
        (
            "0.7.2",
            "--limit-mm-per-prompt image",
            "--limit-mm-per-prompt cannot be 'image': a list such as image=2,video=1 is needed",
        ),
        (
            "0.7.2",
            "--enable-chunked-prefill=maybe",
            "--enable-chunked-prefill cannot be 'maybe': true or false is needed",
        ),
        (
            "0.32.0",
            "--cudagraph-capture-sizes 1 x",
            "--cudagraph-capture-sizes cannot be 'x': a whole number is needed",
        ),
        ("0.32.0", "--served-model-name --odd", "--served-model-name takes no value that begins with a dash"),
        ("0.32.0", "--enforce-eager=true", "--enforce-eager takes no value"),
        ("0.32.0", "--enforce-eager true", "'true' is not a flag, and no flag before it takes it"),
        ("0.32.0", "org/model --seed 1", "'org/model' is not a flag, and no flag before it takes it"),
        (
            "0.7.2",
            "--compilation-config.level 3",
            "--compilation-config.level is no flag of this engine; did you mean --compilation-config?",
        ),
        ("0.32.0", "--seed.a 3", "--seed.a is no flag of this engine; did you mean --seed?"),
        (
            "0.32.0",
            "--hf-overrides {} --hf-overrides.a 1",
            "--hf-overrides is given both as a whole and by --hf-overrides.<key>: vLLM "
            "would forget the former; give all keys one way",
        ),
        ("0.32.0", "--seed '1", "has a quote that is never closed; the rules of a shell apply"),
    ],
)  # fmt: skip
def test_cli_says_what_is_wrong(version: str, text: str, problem: str) -> None:
    assert read_cli(text, shipped(version)).problems == (problem,)


def test_a_long_list_of_choices_is_cut() -> None:
    (problem,) = read_cli("--tool-call-parser x --quantization x", shipped("0.7.2")).problems
    assert "--quantization cannot be 'x'; vLLM knows aqlm, awq" in problem
    assert len(problem) < 400


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_refused_flags_are_refused_in_every_version_by_any_name(path: Any) -> None:
    catalogue = load_catalogue(path)
    table = flag_table(catalogue)
    for name in (*REFUSED, "--ssl-keyfile", "--ssl-ca-certs", "--ssl-ciphers"):
        flag = table.find(name)
        for spelt in flag.names if flag else (name,):
            parsed = read_cli(f"{spelt} hush --seed 1", catalogue)
            assert [item.argv for item in parsed.items] == [("--seed", "1")]
            assert parsed.problems[0].startswith(f"{spelt} {refusal(name)}"), spelt
            assert not any("hush" in problem for problem in parsed.problems[:1])


def test_no_flag_that_opens_a_port_or_holds_a_key_is_forgotten() -> None:
    words = ("ssl", "api-key", "hf-token", "uds", "headless", "grpc", "root-path")
    for path in SHIPPED.glob("*.json"):
        for flag in load_catalogue(path):
            if any(word in flag.name for word in words):
                assert refusal(flag.name), flag.name


def test_the_model_is_ignored_and_its_served_name_only_read() -> None:
    parsed = read_cli("--model a --served-model-name b c --seed 1", shipped("0.32.0"))
    assert not parsed.problems
    assert [item.argv for item in parsed.items] == [("--seed", "1")]
    assert [note.split()[0] for note in parsed.notes] == ["--model", "--served-model-name"]


def test_every_problem_is_found_at_once() -> None:
    parsed = read_cli("--sed 1 --host h --dtype x --seed 1", shipped("0.32.0"))
    assert len(parsed.problems) == 3
    assert [item.argv for item in parsed.items] == [("--seed", "1")]


@pytest.mark.parametrize(
    ("version", "overrides", "argv"),
    [
        ("0.32.0", {"max_model_len": 4096}, [("--max-model-len", "4096")]),
        ("0.32.0", {"--max-model-len": "32k"}, [("--max-model-len", "32k")]),
        ("0.32.0", {"-tp": 2}, [("--tensor-parallel-size", "2")]),
        ("0.32.0", {"max_num_seqs": 8.0}, [("--max-num-seqs", "8")]),
        ("0.32.0", {"gpu_memory_utilization": 0.5}, [("--gpu-memory-utilization", "0.5")]),
        ("0.32.0", {"enforce_eager": True}, [("--enforce-eager",)]),
        ("0.32.0", {"enforce_eager": "False"}, [("--no-enforce-eager",)]),
        ("0.32.0", {"no_enforce_eager": True}, [("--no-enforce-eager",)]),
        ("0.32.0", {"no_enforce_eager": False}, [("--enforce-eager",)]),
        ("0.7.2", {"enable_chunked_prefill": False}, [("--enable-chunked-prefill", "false")]),
        ("0.32.0", {"hf_overrides": {"a": {"b": [1]}}}, [("--hf-overrides", '{"a":{"b":[1]}}')]),
        ("0.32.0", {"hf_overrides.a": {"b": 1}}, [("--hf-overrides.a", '{"b":1}')]),
        ("0.32.0", {"allowed_origins": ["*"]}, [("--allowed-origins", '["*"]')]),
        ("0.32.0", {"cudagraph_capture_sizes": [1, 2]}, [("--cudagraph-capture-sizes", "1", "2")]),
        ("0.32.0", {"cudagraph_capture_sizes": 1}, [("--cudagraph-capture-sizes", "1")]),
        ("0.7.2", {"ignore_patterns": ["a", "b"]}, [("--ignore-patterns", "a"), ("--ignore-patterns", "b")]),
        (
            "0.7.2",
            {"limit_mm_per_prompt": {"image": 2, "video": 1}},
            [("--limit-mm-per-prompt", "image=2,video=1")],
        ),
        ("0.10.0", {"limit_mm_per_prompt": {"image": 2}}, [("--limit-mm-per-prompt", '{"image":2}')]),
        (
            "0.32.0",
            {"lora_modules": [{"name": "a", "path": "b"}]},
            [("--lora-modules", '{"name":"a","path":"b"}')],
        ),
        ("0.32.0", {"seed": -1}, [("--seed=-1",)]),
    ],
)  # fmt: skip
def test_overrides_give_what_the_parser_takes(
    version: str, overrides: dict[str, Any], argv: list[tuple[str, ...]]
) -> None:
    parsed = read_overrides(overrides, shipped(version))
    assert not parsed.problems
    assert [engine_argv(item) for item in parsed.items] == argv
    assert parsed.names == {base_name(item) for item in parsed.items}


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"max_len": 1}, "max_len is no flag of this engine; did you mean --max-log-len?"),
        (
            {"rope_theta": 1},
            "rope_theta is no flag of this engine: vLLM 0.32.0 has no --rope-theta: absent from 0.11.1 on; "
            "it is part of the model's config. Nearest: --hf-overrides",
        ),
        ({"max_model": 1}, "max_model is no flag of this engine; did you mean --max-model-len?"),
        ({"dtype": "x"}, "dtype cannot be 'x'; vLLM knows auto, bfloat16, float, float16, float32, half"),
        ({"seed": "x"}, "seed cannot be 'x': a whole number is needed"),
        ({"seed": True}, "seed cannot be 'true': a whole number is needed"),
        ({"seed": 1.5}, "seed cannot be '1.5': a whole number is needed"),
        ({"seed": [1]}, "seed takes one value, not a list"),
        ({"enforce_eager": 1}, "enforce_eager is a switch: true, false, or null to leave it to the engine"),
        ({"speculative_config": "{"}, "speculative_config cannot be '{': JSON such as {\"key\": 1} is needed"),
        ({"seed": 1, "--seed": 2}, "--seed is the same option as seed: say it once"),
        (
            {"enforce_eager": True, "no-enforce-eager": True},
            "no-enforce-eager is the same option as enforce_eager: say it once",
        ),
        ({"hf_overrides.a": "x\0"}, "hf_overrides.a cannot hold a zero character: no argument can"),
        (
            {"chat_template": "a\0"},
            "chat_template cannot hold a zero character: no argument can",
        ),
        ({"lora_modules": ["--x"]}, "lora_modules takes no value that begins with a dash"),
    ],
)  # fmt: skip
def test_overrides_say_what_is_wrong(overrides: dict[str, Any], problem: str) -> None:
    assert read_overrides(overrides, shipped("0.32.0")).problems == (problem,)


def test_overrides_refuse_what_cli_refuses() -> None:
    overrides = {
        "host": "h",
        "api_key": "hush",
        "ssl-keyfile": "k",
        "model": "m",
        "hf_token": "hush",
    }
    parsed = read_overrides(overrides, shipped("0.32.0"))
    assert [problem.split()[0] for problem in parsed.problems] == [
        "host", "api_key", "ssl-keyfile", "hf_token",
    ]  # fmt: skip
    assert "hush" not in " ".join(parsed.problems)
    assert not parsed.items
    assert len(parsed.notes) == 1


def test_null_and_a_switch_without_opposite_remove_what_the_form_set() -> None:
    overrides = {"max-model-len": None, "disable_log_stats": False, "lora_modules": [], "seed": 1}
    parsed = read_overrides(overrides, shipped("0.32.0"))
    assert not parsed.problems
    assert parsed.removed == ("--max-model-len", "--disable-log-stats", "--lora-modules")
    assert parsed.names == {*parsed.removed, "--seed"}


def test_the_table_has_every_name_of_the_catalogue() -> None:
    table = flag_table(shipped("0.33.0"))
    for flag in shipped("0.33.0"):
        for name in (flag.name, *flag.aliases, *flag.negations):
            found = table.find(name)
            assert found is not None
            assert found.name == flag.name
    assert "--hf-overrides.key" in table
