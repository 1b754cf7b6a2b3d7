"""Several processes and one cache: one download, no stale locks, nothing pruned that is served."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.models.fetch import fetch
from tests.fakes.hub_server import HubServer

MB = 10**6
ROOT = Path(__file__).parents[2]

FETCH = """
import json, sys, time
from common.models.fetch import fetch
from common.models.use import InUse
with InUse() as held:
    files = fetch(sys.argv[1], in_use=held, progress=lambda event: print(event, flush=True))
    print(json.dumps({"first": str(files.first), "size": files.size_bytes}), flush=True)
    sys.stdin.read()
"""


class Processes:
    """Starts fetching processes, which hold their model until their stdin closes."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def fetch(self, reference: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", FETCH, reference],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(child)
        return child

    def stop(self) -> None:
        for child in self.started:
            if child.poll() is None:
                child.kill()
            child.communicate()


@pytest.fixture
def processes() -> Iterator[Processes]:
    found = Processes()
    yield found
    found.stop()


def lines_until_result(child: subprocess.Popen[str]) -> tuple[list[str], dict[str, object]]:
    lines: list[str] = []
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("{"):
            return lines, json.loads(line)
        lines.append(line.strip())
    raise AssertionError(f"ended without a result: {lines}")


def wait_for(condition: object, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.02)
    raise AssertionError("did not happen in time")


def test_two_processes_download_once(hub: HubServer, processes: Processes) -> None:
    data = os.urandom(6 * MB)
    hub.add_repo("org/repo", {"m.gguf": data})
    hub.bytes_per_second = 3 * MB
    first = processes.fetch("org/repo/m.gguf")
    wait_for(lambda: hub.gets("m.gguf"))
    second = processes.fetch("org/repo/m.gguf")
    lines, result = lines_until_result(second)
    _, same = lines_until_result(first)

    assert result == same
    assert Path(str(result["first"])).read_bytes() == data
    assert len(hub.gets("m.gguf")) == 1
    waiting = [line for line in lines if line.startswith("another instance is downloading")]
    assert any("of 6.0 MB" in line for line in waiting)


def test_lock_of_a_killed_process_is_free_and_its_bytes_are_used(
    hub: HubServer, processes: Processes
) -> None:
    data = os.urandom(6 * MB)
    hub.add_repo("org/repo", {"m.gguf": data})
    hub.bytes_per_second = 3 * MB
    first = processes.fetch("org/repo/m.gguf")
    cache = Path(os.environ["HF_HOME"])
    wait_for(lambda: any(f.stat().st_size >= MB for f in cache.rglob("*.incomplete")))
    first.send_signal(signal.SIGKILL)
    first.wait(5)
    hub.bytes_per_second = None
    assert fetch("org/repo/m.gguf").first.read_bytes() == data
    assert int((hub.gets("m.gguf")[-1].range or "bytes=0-")[6:-1]) >= MB


def prune(*options: str) -> dict[str, list[dict[str, object]]]:
    done = subprocess.run(
        [sys.executable, "-m", "common.cli.cache", "prune", "--json", *options],
        cwd=ROOT,
        env=os.environ.copy(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, list[dict[str, object]]] = json.loads(done.stdout)
    return result


def test_prune_never_removes_a_model_that_a_process_serves(
    hub: HubServer, processes: Processes
) -> None:
    hub.add_repo("org/repo", {"served.gguf": b"x" * 5000, "idle.gguf": b"y" * 5000})
    idle = fetch("org/repo/idle.gguf")
    child = processes.fetch("org/repo/served.gguf")
    _, result = lines_until_result(child)
    served = Path(str(result["first"]))

    pruned = prune("--keep-gib", "0")
    assert [model["name"] for model in pruned["removed"]] == ["org/repo/idle.gguf"]
    assert [model["name"] for model in pruned["kept_in_use"]] == ["org/repo/served.gguf"]
    assert served.read_bytes() == b"x" * 5000
    assert not idle.first.exists()

    # The kernel frees the mark of a process that dies without saying so.
    child.kill()
    child.wait(5)
    assert [model["name"] for model in prune("--keep-gib", "0")["removed"]] == [
        "org/repo/served.gguf"
    ]
    assert not served.exists()
