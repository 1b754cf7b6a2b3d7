"""What an instance prints over real vLLMs: the log options of the form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.instances import KEY, Instance, running_instance, wait_for
from tests.vllm.conftest import TinyModels
from tests.vllm.engine_environment import ENVIRON, READY_S, SMALL, VERSION

# An older one has to be installed first where it is not there.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]

VERSIONS = (VERSION, "0.27.1")
INSTALL_S = 600.0
TOKEN = "hf_0123456789abcdefghijkl"
PROMPT = "Once upon a time there was a request."


@contextmanager
def chatted(tiny: TinyModels, version: str, **parameters: object) -> Iterator[Instance]:
    """An instance that has answered a request, with a token that must not be seen."""
    given = {
        **{f"Model/{name}": value for name, value in SMALL.items()},
        "Model/model": str(tiny.base),
        "Model/model_endpoint_name": "tiny",
        "General/vllm_version": f"{version}+cpu",
        "General/device": "cpu",
        "General/hugging_face_token": TOKEN,
        **{f"General/{name}": value for name, value in parameters.items()},
    }
    ready_s = READY_S + INSTALL_S
    with running_instance(given, app="vllm", environ=ENVIRON, ready_s=ready_s) as instance:
        wait_for(lambda: "tiny: ready after" in instance.console, 10, "the state on the console")
        instance.chat("tiny", PROMPT)
        yield instance
        assert KEY not in instance.console
        assert TOKEN not in instance.console


def of_engine(instance: Instance) -> list[str]:
    return [line for line in instance.console.splitlines() if line.startswith("[tiny] ")]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_start_is_told_and_single_requests_are_not(tiny: TinyModels, version: str) -> None:
    with chatted(tiny, version) as instance:
        said = instance.console
        lines = of_engine(instance)
    assert f"tiny: starting vLLM {version}" in said
    assert lines[0].startswith("[tiny] $ ")
    assert "Received request" not in said
    assert "HTTP/1.1" not in said
    assert "Started server process" not in said
    # The console's log has times of its own.
    assert not [line for line in lines if re.search(r"(INFO|WARNING) \d\d-\d\d \d\d:", line)]
    assert "\x1b" not in said


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_are_logged_on_demand_and_their_prompts_are_cut(
    tiny: TinyModels, version: str
) -> None:
    options = {"disable_log_requests": False, "max_log_length": 17, "vllm_log_level": "DEBUG"}
    with chatted(tiny, version, uvicorn_log_level="info", **options) as instance:
        wait_for(lambda: "Received request" in instance.console, 10, "the request")
        wait_for(lambda: "details: prompt: " in instance.console, 10, "its prompt")
        access = '"POST /v1/chat/completions HTTP/1.1" 200 OK'
        wait_for(lambda: access in instance.console, 10, "the HTTP server's line")
        shown = re.findall(r"details: prompt: '([^']*)'", instance.console)
        # Whoever asks for these is not told of the questions that this program asks.
        assert "GET /health" not in instance.console
        assert [len(prompt) for prompt in shown] == [17]
        assert PROMPT not in instance.console


@pytest.mark.parametrize("version", VERSIONS)
def test_the_level_of_the_engine_counts(tiny: TinyModels, version: str) -> None:
    with chatted(tiny, version, vllm_log_level="ERROR") as instance:
        lines = of_engine(instance)
    assert not [line for line in lines if re.search(r"\b(DEBUG|INFO|WARNING)\b.*\.py:\d+\]", line)]


@pytest.mark.parametrize("version", VERSIONS)
def test_debug_mode_tells_more_and_has_a_line_for_each_request(
    tiny: TinyModels, version: str
) -> None:
    with chatted(tiny, version, enable_debug_mode=True) as instance:
        line = r"^POST /v1/chat/completions tiny 200 in \d+ ms"
        wait_for(lambda: re.search(line, instance.console, re.MULTILINE), 10, "the access line")
        assert any(" DEBUG " in line for line in of_engine(instance))
        assert PROMPT not in instance.console
