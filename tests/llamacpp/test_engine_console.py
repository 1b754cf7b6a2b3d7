"""What an instance prints over each real way to run llama.cpp: the log options of the form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from apps.llamacpp.engines.installed import EngineKind
from tests.e2e.instances import KEY, Instance, running_instance, wait_for
from tests.llamacpp.running_engine import real_model

pytestmark = pytest.mark.engine

ALL: tuple[EngineKind, ...] = ("llama-server", "xllamacpp", "llama_cpp.server")
TOKEN = "hf_0123456789abcdefghijkl"
PROMPT = "What is gravity-4711?"


@contextmanager
def chatted(kind: EngineKind, **parameters: object) -> Iterator[Instance]:
    """An instance that has answered a request, with a token that must not be seen."""
    given = {
        "Model/model": str(real_model()),
        "Model/model_endpoint_name": "tiny",
        "Model/context_size": 512,
        "General/engine": kind,
        "General/hugging_face_token": TOKEN,
        **{name.replace("__", "/"): value for name, value in parameters.items()},
    }
    with running_instance(given) as instance:
        wait_for(lambda: "tiny: ready after" in instance.console, 10, "the state on the console")
        instance.chat("tiny", PROMPT)
        yield instance
        assert KEY not in instance.console
        assert TOKEN not in instance.console


def of_engine(instance: Instance) -> list[str]:
    return [line for line in instance.console.splitlines() if line.startswith("[tiny] ")]


@pytest.mark.parametrize("kind", ALL)
def test_the_start_is_told_and_single_requests_are_not(kind: EngineKind) -> None:
    with chatted(kind) as instance:
        said = instance.console
        lines = of_engine(instance)
    assert re.search(r"^tiny: starting .*\d", said, re.MULTILINE)
    assert lines[0].startswith("[tiny] $ ")
    assert "gravity-4711" not in said
    assert "/v1/chat/completions" not in said
    assert not [line for line in lines if "slot" in line and "task" in line]
    # The console's log has times of its own.
    assert not [line for line in lines if re.search(r"\d\.\d\d\.\d{3}\.\d{3} ", line)]
    assert "\x1b" not in said


@pytest.mark.parametrize("kind", ALL)
def test_verbose_tells_what_the_engine_does_for_a_request(kind: EngineKind) -> None:
    with chatted(kind, Model__verbose=True) as instance:
        telling = {"llama_cpp.server": "POST /v1/chat/completions"}.get(kind, "slot launch_slot_")
        wait_for(lambda: telling in "\n".join(of_engine(instance)), 10, telling)


@pytest.mark.parametrize("kind", ALL)
def test_disable_logs_leaves_the_states(kind: EngineKind) -> None:
    with chatted(kind, General__disable_logs=True) as instance:
        said = instance.console
        assert of_engine(instance) == []
    assert "tiny: starting " in said
    assert "tiny: ready after " in said


def test_disable_logs_leaves_the_errors() -> None:
    given = {
        "Model/model": str(real_model()),
        "Model/model_endpoint_name": "tiny",
        "Model/cli": "--ctx-size 512 --lora /nowhere/to/be/found.gguf",
        "General/engine": "llama-server",
        "General/disable_logs": True,
    }
    with running_instance(given, serving=False) as instance:
        assert instance.wait_end(60) != 0
        said = instance.console
    errors = [line for line in said.splitlines() if line.startswith("[tiny] ")]
    assert any("/nowhere/to/be/found.gguf" in line for line in errors), said
    assert all(line.startswith("[tiny] E ") for line in errors)
    # Once as the model's state when it happened, once as the reason of the end.
    assert said.count('The engine of "tiny"') == 2, said


@pytest.mark.parametrize("kind", ALL)
def test_debug_mode_has_a_line_for_each_request(kind: EngineKind) -> None:
    with chatted(kind, General__enable_debug_mode=True) as instance:
        line = r"^POST /v1/chat/completions tiny 200 in \d+ ms"
        wait_for(lambda: re.search(line, instance.console, re.MULTILINE), 10, "the access line")
        assert "gravity-4711" not in instance.console
