"""Names that vLLM looks up only when it starts: checked before anything is fetched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apps.vllm.cli import read_cli, read_overrides
from apps.vllm.registered_names import unregistered
from tests.vllm.samples import catalogue, check, value_of, write

VERSION = "0.32.0"
PARSERS = ("--reasoning-parser", "--tool-call-parser")
LOOKED_UP = (*PARSERS, "--load-format", "--quantization", "--tokenizer-mode")


def field_of(flag: str) -> str:
    name = flag.removeprefix("--").replace("-", "_")
    return f"General/{name}" if name == "load_format" else name


@pytest.mark.parametrize("version", ["0.27.1", VERSION])
@pytest.mark.parametrize("flag", LOOKED_UP)
def test_every_registered_name_is_taken(version: str, flag: str) -> None:
    known = catalogue(version)
    names = known.flags[flag].registered
    assert len(names) >= 10
    for name in names:
        assert check(version, **{field_of(flag): name}) == []
        assert read_cli(f"{flag} {name}", known).problems == ()
        assert read_overrides({flag.lstrip("-"): name}, known).problems == ()


@pytest.mark.parametrize(
    ("flag", "wrong", "near"),
    [
        ("--tool-call-parser", "herms", "hermes"),
        ("--tool-call-parser", "Hermes", "hermes"),
        ("--tool-call-parser", "llama3-json", "llama3_json"),
        ("--reasoning-parser", "deepseek-r1", "deepseek_r1"),
        ("--reasoning-parser", "QWEN3", "qwen3"),
        ("--quantization", "compresed-tensors", "compressed-tensors"),
        ("--quantization", "compressed_tensors", "compressed-tensors"),
        ("--load-format", "safetensor", "safetensors"),
        ("--load-format", "Safetensor", "safetensors"),
        ("--tokenizer-mode", "mistrall", "mistral"),
    ],
)
def test_a_misspelt_name_is_told_with_the_nearest(flag: str, wrong: str, near: str) -> None:
    known = catalogue(VERSION)
    told = f"; did you mean {near}? There are {', '.join(known.flags[flag].registered)}"
    (problem,) = check(VERSION, **{field_of(flag): wrong})
    assert problem.message.startswith(
        f"is known to no vLLM: vLLM 0.32.0 has no {wrong!r} for {flag}{told}"
    )
    assert problem.path == field_of(flag)
    assert problem.value == wrong
    (problem,) = check(VERSION, cli=f"{flag}={wrong}")
    assert problem.message.startswith(f"{flag} cannot be {wrong!r}{told}")
    (problem,) = check(VERSION, model_overrides=json.dumps({flag.lstrip("-"): wrong}))
    assert problem.message.startswith(f"{flag.lstrip('-')} cannot be {wrong!r}{told}")
    assert value_of(write(VERSION, **{field_of(flag): wrong}), flag) is None


@pytest.mark.parametrize("flag", PARSERS)
def test_a_parser_like_no_other_is_a_mistake_too(flag: str) -> None:
    (problem,) = check(VERSION, **{field_of(flag): "0123456789"})
    assert f"has no '0123456789' for {flag}. There are " in problem.message
    assert "did you mean" not in problem.message
    assert "One of your own needs --" in problem.message


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        # vLLM reads these in any case.
        ("--quantization", "FP8"),
        ("--load-format", "Fastsafetensors"),
        ("--tokenizer-mode", "Mistral"),
        # A checkpoint, or its own code, may bring them.
        ("--quantization", "ours"),
        ("--load-format", "ours"),
        ("--tokenizer-mode", "slow"),
        # Former names that vLLM may still translate.
        ("--quantization", "gptq_marlin_24"),
    ],
)
def test_what_vllm_may_take_is_passed(flag: str, value: str) -> None:
    assert check(VERSION, **{field_of(flag): value}) == []
    assert value_of(write(VERSION, **{field_of(flag): value}), flag) == value
    assert check(VERSION, cli=f"{flag} {value}") == []


@pytest.mark.parametrize("flag", LOOKED_UP)
def test_what_leaves_the_choice_to_vllm_is_taken(flag: str) -> None:
    assert check(VERSION, cli=f"{flag} None") == []
    assert check(VERSION, cli=f"{flag}=") == []


@pytest.mark.parametrize("flag", LOOKED_UP)
def test_any_name_is_taken_where_none_are_known(flag: str) -> None:
    opened = catalogue(VERSION).without_values({flag})
    assert unregistered(opened.flags[flag], "hermess") is None
    assert check(opened, **{field_of(flag): "mistrall"}) == []
    assert value_of(write(opened, **{field_of(flag): "mistrall"}), flag) == "mistrall"


def test_a_parser_of_another_version_is_unavailable() -> None:
    command = write("0.27.1", tool_call_parser="qwen3_json", enable_auto_tool_choice=True)
    assert value_of(command, "--tool-call-parser") is None
    reasons = {item.path: item.reason for item in command.unavailable}
    assert "vLLM 0.27.1 has no 'qwen3_json'" in reasons["Model/tool_call_parser"]
    assert "is not available" in reasons["Model/enable_auto_tool_choice"]
    assert check("0.27.1", tool_call_parser="qwen3_json") == []


TOOLS = {"tool_parser_plugin": "/p/tools.py"}
REASONING = "--reasoning-parser-plugin"


@pytest.mark.parametrize(
    "given",
    [
        {"tool_call_parser": "ours", **TOOLS},
        {"model_overrides": '{"tool_call_parser": "ours"}', **TOOLS},
        {"tool_call_parser": "ours", "model_overrides": '{"tool-parser-plugin": "/p/tools.py"}'},
        {"model_overrides": '{"tool_call_parser": "ours", "tool_parser_plugin": "/p/tools.py"}'},
        {"cli": "--tool-call-parser ours --tool-parser-plugin=/p/tools.py"},
        {"cli": "--tool_parser_plugin /p/tools.py --tool_call_parser ours"},
        {"reasoning_parser": "ours", "model_overrides": '{"reasoning_parser_plugin": "/p/r.py"}'},
        {"cli": f"--reasoning-parser ours {REASONING} /p/r.py"},
    ],
)
def test_a_plugin_may_register_any_parser(given: dict[str, Any]) -> None:
    assert check(VERSION, **given) == []
    command = write(VERSION, **given)
    assert "ours" in command.argv
    assert not command.unavailable


@pytest.mark.parametrize(
    "given",
    [
        # The plugin is of the other kind, or a field that CLI replaces.
        {"reasoning_parser": "ours", **TOOLS},
        {"tool_call_parser": "ours", "model_overrides": '{"reasoning_parser_plugin": "/p/r.py"}'},
        {"cli": "--tool-call-parser ours", **TOOLS},
        {"cli": f"--tool-call-parser ours {REASONING} /p/r.py"},
        {"cli": "--tool-call-parser ours", "model_overrides": json.dumps(TOOLS)},
    ],
)
def test_a_plugin_that_does_not_count_registers_nothing(given: dict[str, Any]) -> None:
    (problem,) = check(VERSION, **given)
    assert "'ours'" in problem.message
