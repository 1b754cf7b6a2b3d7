"""Which engines can sleep, and what their commands say for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apps.vllm.command import vllm_offloads, write_vllm_command
from apps.vllm.installed import VllmEngine
from common.engines.contract import EngineAddress, EngineCommand
from common.memory.engine_ways import EngineOffloads, MachineFacts
from tests.vllm.samples import VERSIONS, address, facts, load, plan_of

OFFLOADING: dict[str, Any] = {"Advanced/enable_automatic_cpu_offloading": "true"}
SWAPPING: dict[str, Any] = {"Advanced/enable_disk_swapping": "true"}
PORT = EngineAddress(port=8001, key="engine-key")


def found(
    version: str = "0.32.0",
    /,
    *,
    known: dict[str, Any] | None = None,
    plan: dict[str, Any] | None = None,
    **parameters: Any,
) -> tuple[EngineCommand, EngineOffloads]:
    """The command for some parameters, and the ways to put its engine aside."""
    settings = load(**parameters)
    known_facts = facts(version, **(known or {}))
    made = plan_of(settings, **{"address": address(known_facts.catalogue), **(plan or {})})
    return (
        write_vllm_command(made, settings, known_facts),
        vllm_offloads(made, settings, known_facts),
    )


def labels(ways: EngineOffloads) -> tuple[list[str], list[str]]:
    return [way.label for way in ways.asleep], [way.label for way in ways.emptied]


@pytest.mark.parametrize("shared", [OFFLOADING, SWAPPING])
@pytest.mark.parametrize("version", ["0.20.2", "0.27.1", "0.32.0", "0.33.0"])
def test_models_that_take_turns_can_sleep(version: str, shared: dict[str, Any]) -> None:
    command, ways = found(version, **shared)
    assert command.argv.count("--enable-sleep-mode") == 1
    assert command.env["VLLM_SERVER_DEV_MODE"] == "1"
    assert "--no-log-error-stack" in command.argv
    assert labels(ways) == (["sleep level 1"], ["sleep level 2"])
    assert ways.notes == ()


@pytest.mark.parametrize("version", [v for v in VERSIONS if v != "0.6.6"])
@pytest.mark.parametrize("build", ["gpu", "cpu"])
def test_without_turns_nothing_is_opened(version: str, build: str) -> None:
    command, ways = found(version, known={"build": build})
    assert "--enable-sleep-mode" not in command.argv
    assert "VLLM_SERVER_DEV_MODE" not in command.env
    assert ways == EngineOffloads()


@pytest.mark.parametrize("shared", [OFFLOADING, SWAPPING])
def test_a_cpu_build_never_gets_the_flag_that_it_refuses(shared: dict[str, Any]) -> None:
    command, ways = found(known={"build": "cpu"}, **shared)
    assert "--enable-sleep-mode" not in command.argv
    assert "VLLM_SERVER_DEV_MODE" not in command.env
    assert ways == EngineOffloads()


@pytest.mark.parametrize(
    ("version", "words", "more"),
    [
        ("0.10.0", "0.11.0 and later", {}),
        ("0.6.6", "0.11.0 and later", {}),
        ("0.32.0", "ask for no key", {"plan": {"address": PORT}}),
        ("0.32.0", "data parallelism", {"model_overrides": {"data_parallel_size": 2}}),
        ("0.32.0", "several machines", {"model_overrides": {"nnodes": 2}}),
        ("0.32.0", "switched off", {"model_overrides": {"enable_sleep_mode": False}}),
        ("0.32.0", "switched off", {"cli": "--no-enable-sleep-mode"}),
    ],
)
def test_what_cannot_sleep_is_told_and_not_opened(
    version: str, words: str, more: dict[str, Any]
) -> None:
    if overrides := more.pop("model_overrides", None):
        more["model_overrides"] = json.dumps(overrides)
    command, ways = found(version, **OFFLOADING, **more)
    assert "--enable-sleep-mode" not in command.argv
    assert "VLLM_SERVER_DEV_MODE" not in command.env
    assert labels(ways) == ([], [])
    assert len(ways.notes) == 1
    assert words in ways.notes[0]


@pytest.mark.parametrize("cli", ["--tensor-parallel-size 2", "--pipeline-parallel-size 2"])
def test_engines_over_several_gpus_can_sleep(cli: str) -> None:
    command, ways = found(cli=cli, **OFFLOADING)
    assert "--enable-sleep-mode" in command.argv
    assert labels(ways) == (["sleep level 1"], ["sleep level 2"])


def test_a_flag_of_the_user_is_not_repeated() -> None:
    command, _ = found(cli="--enable-sleep-mode --log-error-stack", **OFFLOADING)
    assert command.argv.count("--enable-sleep-mode") == 1
    assert "--no-log-error-stack" not in command.argv
    assert command.env["VLLM_SERVER_DEV_MODE"] == "1"


@pytest.mark.parametrize(
    ("version", "more", "words"),
    [
        ("0.14.1", {}, "0.20.0 and later"),
        ("0.32.0", {"cli": "--quantization fp8"}, "quantised when"),
        ("0.32.0", {"cli": "--enable-lora"}, "adapters"),
        ("0.32.0", {"cli": "--cpu-offload-gb 2"}, "host RAM"),
        ("0.32.0", {"cli": '--speculative-config \'{"method":"mtp"}\''}, "draft model"),
        ("0.32.0", {"cli": "--load-format dummy"}, "a way of their own"),
    ],
)
def test_weights_that_would_come_back_as_garbage_are_kept(
    version: str, more: dict[str, Any], words: str
) -> None:
    for shared, is_told in ((OFFLOADING, False), (SWAPPING, True)):
        _, ways = found(version, **shared, **more)
        assert labels(ways) == (["sleep level 1"], [])
        assert [words in note for note in ways.notes] == [True] * is_told


@pytest.mark.parametrize("nested", [False, True])
def test_quantised_files_are_not_reloaded(tmp_path: Path, nested: bool) -> None:
    config: dict[str, Any] = {"quantization_config": {"quant_method": "awq"}}
    config = {"text_config": config} if nested else config
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, ways = found(**SWAPPING, plan={"path": tmp_path})
    assert labels(ways) == (["sleep level 1"], [])
    assert "quantised" in ways.notes[0]


@pytest.mark.parametrize(("version", "waits"), [("0.14.1", False), ("0.20.2", True)])
def test_requests_are_waited_for_where_the_version_can(version: str, waits: bool) -> None:
    _, ways = found(version, **OFFLOADING)
    assert [way.waits for way in ways.asleep] == [waits]  # type: ignore[attr-defined]


def test_the_engine_offers_them_and_keeps_no_cache() -> None:
    settings = load(**OFFLOADING)
    engine = VllmEngine("0.32.0", facts("0.32.0"))
    plan = plan_of(settings)
    assert labels(engine.offloads(plan, settings, MachineFacts("x86_64"))) == (
        ["sleep level 1"],
        ["sleep level 2"],
    )
    assert engine.cache_hooks(plan, settings, lambda line: None) is None
