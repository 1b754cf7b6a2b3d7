"""Engines that die, are killed, or refuse what they were told."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from apps.vllm.environments.layout import EngineEnvironment
from tests.e2e.instances import KEY, Instance, assert_all_gone, running_instance, wait_for
from tests.vllm.conftest import TinyModels
from tests.vllm.engine_environment import ENVIRON, GENERAL, READY_S, SMALL
from tests.vllm.tiny_models import make_model

pytestmark = [pytest.mark.engine, pytest.mark.timeout(500)]

NAME = "by-cli"


@pytest.fixture(scope="module")
def instance(vllm_environment: EngineEnvironment, tiny: TinyModels) -> Iterator[Instance]:
    """One engine, told everything by CLI: the fields that it replaces must not count."""
    parameters = {
        **GENERAL,
        "Model/model": str(tiny.base),
        "Model/cli": f"--enforce-eager --max-model-len=192 --served-model-name {NAME} --dtype bfloat16",
        "Model/max_context_length": 64,
    }
    with running_instance(parameters, app="vllm", environ=ENVIRON, ready_s=READY_S) as running:
        yield running


def of_engine(instance: Instance, words: str) -> psutil.Process:
    """The engine's process whose command line, or name, has these words."""
    found = [
        process for process in instance.family() if words in " ".join(process.cmdline() or [""])
    ]
    assert found, [process.cmdline() for process in instance.family()]
    return found[-1]


def titles(instance: Instance) -> str:
    """The command lines of all that runs now, as vLLM renames them."""
    lines = []
    for process in instance.family():
        with contextlib.suppress(psutil.NoSuchProcess):
            lines += process.cmdline()
    return " ".join(lines)


def answer(instance: Instance, tokens: int = 4) -> requests.Response:
    return requests.post(
        f"{instance.url}/v1/completions",
        json={"model": NAME, "prompt": "x" * 100, "max_tokens": tokens},
        headers=instance.headers,
        timeout=READY_S,
    )


def kill_and_wait(instance: Instance, victim: psutil.Process) -> None:
    """Kill one process of the engine; returns once another engine serves."""
    old = [process for process in instance.family() if process.pid != instance.process.pid]
    started = instance.console.count(": ready after")
    victim.kill()
    wait_for(
        lambda: instance.console.count(": ready after") > started,
        READY_S,
        "a new engine",
    )
    assert answer(instance).status_code == 200
    engines = [p for p in old if "vllm" in " ".join(p.cmdline() if p.is_running() else [])]
    assert_all_gone([process for process in old if process in engines], 10)


def test_cli_replaces_the_fields(instance: Instance) -> None:
    assert answer(instance).status_code == 200
    (model,) = instance.models()
    assert model["id"] == NAME
    argv = of_engine(instance, "--served-model-name").cmdline()
    assert "64" not in argv
    assert '"Max Context Length"' in instance.console


def test_killed_engine_core_is_replaced(instance: Instance) -> None:
    kill_and_wait(instance, of_engine(instance, "EngineCore"))


def test_killed_api_server_is_replaced(instance: Instance) -> None:
    kill_and_wait(instance, of_engine(instance, f"--served-model-name {NAME}"))


def test_killed_instance_leaves_no_process(instance: Instance) -> None:
    family = instance.family()
    assert len(family) > 3
    instance.process.kill()
    instance.process.wait(10)
    assert_all_gone(family, 15)


def test_terminated_while_loading_leaves_no_process(
    vllm_environment: EngineEnvironment, tiny: TinyModels
) -> None:
    parameters = {
        **GENERAL,
        "Model/model": str(tiny.base),
        **{f"Model/{name}": value for name, value in SMALL.items()},
    }
    with running_instance(parameters, app="vllm", environ=ENVIRON, serving=False) as instance:
        wait_for(lambda: "EngineCore" in titles(instance), READY_S, "an engine that loads")
        assert [model["status"] for model in instance.models()] == ["loading"]
        family = instance.family()
        instance.process.send_signal(signal.SIGTERM)
        assert instance.wait_end(30) == 0
        assert_all_gone(family, 10)
        assert "ready after" not in instance.console
        assert "Traceback" not in instance.console


def test_engine_that_refuses_its_model_ends_the_instance(
    vllm_environment: EngineEnvironment, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "odd", architectures=["NobodyForCausalLM"])
    parameters = {
        **GENERAL,
        "Model/model": str(model),
        **{f"Model/{name}": value for name, value in SMALL.items()},
    }
    with running_instance(parameters, app="vllm", environ=ENVIRON, serving=False) as instance:
        assert instance.wait_end(READY_S) == 1
        assert "does not know the model's architecture 'NobodyForCausalLM'" in instance.console
        assert "not restarted" in instance.console


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"Model/max_context_length": 4096}, "is above the model's own 512"),
        ({"Model/gpus_tensor_parallel_size": 3}, "does not divide the model's 2 attention heads"),
        ({"Model/cli": "--enforce-eagr"}, "--enforce-eager"),
        ({"Model/tool_call_parser": "herms"}, "did you mean hermes?"),
        ({"Model/model": "/nowhere/model"}, "There is no folder /nowhere/model"),
    ],
)
def test_bad_settings_start_no_engine(
    vllm_environment: EngineEnvironment,
    tiny: TinyModels,
    parameters: dict[str, object],
    words: str,
) -> None:
    given = {**GENERAL, "Model/model": str(tiny.base), **parameters}
    with running_instance(given, app="vllm", environ=ENVIRON, serving=False) as instance:
        assert instance.wait_end(120) != 0
        assert words in instance.console
        assert "EngineCore" not in instance.console
        assert KEY not in instance.console
