"""A real local ClearML server, and one with a real agent, for the whole suite.

Both are started once per session in directories of their own, on ports of the system's choice, and
stopped at its end with everything that the agent started.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.local_server import RunningServer, start_background, stop, wait_for_agent

# Ends a script that hangs, and shows where each of its threads does.
_WATCHED = """
import faulthandler, runpy, sys
faulthandler.dump_traceback_later(float(sys.argv[1]), exit=True)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def clearml_environment(server: RunningServer, cache: Path) -> dict[str, str]:
    """Variables for a process whose SDK is to use `server` and nothing else of this machine."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CLEARML_", "TRAINS_"))
    }
    root = str(Path(__file__).parent.parent)
    env.update(
        server.environment,
        CLEARML_CACHE_DIR=str(cache),
        PYTHONPATH=os.pathsep.join(filter(None, [root, env.get("PYTHONPATH", "")])),
        NO_PROXY="127.0.0.1,localhost",
    )
    return env


def run_sdk_script(
    server: RunningServer, script: Path, *args: str, cache: Path, timeout_s: float = 60.0
) -> Any:
    """Run a script with the SDK on `server`; returns the JSON of its line ``SEEN ...``."""
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, str(timeout_s), str(script), *args],
        env=clearml_environment(server, cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s + 10,
    )
    output = done.stdout
    assert done.returncode == 0, output[-8000:]
    lines = [line for line in output.splitlines() if line.startswith("SEEN ")]
    assert lines, output[-6000:]
    return json.loads(lines[-1].removeprefix("SEEN "))


def wait_for(
    read: Callable[[], Any], wanted: Sequence[Any], timeout_s: float, period_s: float = 0.1
) -> Any:
    """Ask until the answer is one of `wanted`; fails with the last answer."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = read()
        if value in wanted:
            return value
        assert time.monotonic() < deadline, f"{value!r} after {timeout_s} s, not one of {wanted}"
        time.sleep(period_s)


@pytest.fixture(scope="session")
def clearml_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A local server without an agent; its traffic is kept in ``traffic.jsonl``."""
    yield from _session_server(tmp_path_factory.mktemp("clearml"), None)


@pytest.fixture(scope="session")
def clearml_server_with_agent(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningServer]:
    """A local server with a real agent on queue ``default``; traffic as `clearml_server`'s."""
    yield from _session_server(tmp_path_factory.mktemp("clearml-agent"), "default")


def traffic_file(server: RunningServer) -> Path:
    """Where a session's server keeps its calls and answers."""
    return server.data_dir.parent / "traffic.jsonl"


def _session_server(folder: Path, queue: str | None) -> Iterator[RunningServer]:
    data_dir = folder / "server"
    try:
        server = start_background(
            data_dir,
            api_port=0,
            files_port=0,
            agent_queue=queue,
            record=folder.resolve() / "traffic.jsonl",
        )
        if queue is not None:
            wait_for_agent(server)
        yield server
    finally:
        stop(data_dir)
