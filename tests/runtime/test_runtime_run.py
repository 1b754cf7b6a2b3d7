"""A whole run on a real server: what its task shows, and a stop while the engine is installed."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from common.local_server import RunningServer
from tests.fixtures_clearml import clearml_environment

SCRIPT = Path(__file__).with_name("stub_instance.py")
KEY = "a-fixed-key-0123456789"


class Process:
    """A running instance, its console and its task."""

    limit_s = 40.0

    def __init__(self, process: subprocess.Popen[bytes], log: Path, server: RunningServer) -> None:
        self._process = process
        self._log = log
        self._server = server

    @property
    def console(self) -> str:
        return self._log.read_text()

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + self.limit_s
        while not (found := condition()):
            assert self._process.poll() is None, self.console
            assert time.monotonic() < deadline, self.console
            time.sleep(0.05)
        return found

    def task(self, task_id: str = "") -> dict[str, Any]:
        """Its task, found by the console's line unless it is named."""
        if not task_id:
            lines = self.console.splitlines()
            line = next(line for line in lines if "Stub: stub instance (" in line)
            task_id = line.rpartition("(")[2].rstrip(")")
        with self._server.client() as client:
            found: dict[str, Any] = client.call("tasks.get_by_id", task=task_id)["task"]
        return found

    def status(self, task_id: str = "") -> dict[str, str]:
        if not task_id and "Stub: stub instance (" not in self.console:
            return {}
        section = self.task(task_id)["hyperparams"].get("Status", {})
        return {name: item["value"] for name, item in section.items()}

    def wait(self) -> int:
        """Wait for its own end."""
        return self._process.wait(40)

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20)


It = TypeVar("It", bound=Process)


@contextmanager
def instance(
    server: RunningServer,
    folder: Path,
    kind: str,
    *,
    environ: Mapping[str, str] | None = None,
    kept: type[It] = Process,
    **parameters: str,
) -> Iterator[It]:
    model = folder / "m.gguf"
    model.write_bytes(b"GGUF" + b"\0" * 60)
    given = {"Model/model": str(model), "General/host": "127.0.0.1", **parameters}
    log = folder / "console"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), kind, json.dumps(given)],
            env={
                **clearml_environment(server, folder / "cache"),
                "HOME": str(folder),
                **(environ or {}),
            },
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            yield kept(process, log, server)
        finally:
            process.kill()
            process.wait()


def answer(command: str) -> dict[str, Any]:
    """Do what a curl command says."""
    words = shlex.split(command)
    assert words[0] == "curl"
    headers = [words[i + 1] for i, word in enumerate(words) if word == "-H"]
    request = urllib.request.Request(
        words[1],
        words[words.index("-d") + 1].encode(),
        dict(header.split(": ", 1) for header in headers),
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        found: dict[str, Any] = json.load(response)
    return found


@pytest.mark.parametrize("given", [KEY, ""])
def test_a_dashboard_that_shows_the_key_has_a_command_that_works(
    given: str, clearml_server: RunningServer, tmp_path: Path
) -> None:
    parameters = {"General/fixed_api_access_key": given} if given else {}
    with instance(clearml_server, tmp_path, "legacy", **parameters) as it:
        it.wait_for(lambda: it.status().get("test_command"))
        it.wait_for(lambda: it.status().get("status") in ("active", "idle"))
        shown = it.status()
        assert shown["api_key"] == given or (not given and len(shown["api_key"]) > 20)
        assert shown["api_base"] == f"{shown['endpoint']}/m/v1"
        assert shown["api_base"] in shown["test_command"]
        assert shown["api_key"] in shown["test_command"]
        assert "choices" in answer(shown["test_command"])
        assert shown["api_key"] not in shown["curl_example"]
        assert it.stop() == 0
        assert shown["api_key"] not in it.console


def test_a_dashboard_that_hides_the_key_has_neither_key_nor_command(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    with instance(clearml_server, tmp_path, "installing", **{"General/api_key": KEY}) as it:
        it.wait_for(lambda: it.status().get("endpoint"))
        assert {"api_key", "api_base", "test_command"}.isdisjoint(it.status())


def test_a_signal_ends_an_installation(clearml_server: RunningServer, tmp_path: Path) -> None:
    with instance(clearml_server, tmp_path, "installing") as it:
        it.wait_for(lambda: "installing for ever" in it.status().get("models_table", ""))
        assert it.status()["status"] == "loading"
        assert it.stop() == 0
        assert "the installation was given up" in it.console
        assert "Stopped: received SIGTERM." in it.console
        assert "Engine:" not in it.console
        assert it.task()["status"] == "stopped"
        assert it.status()["stop_reason"] == "received SIGTERM"


def test_an_abort_ends_an_installation(clearml_server: RunningServer, tmp_path: Path) -> None:
    with instance(clearml_server, tmp_path, "installing") as it:
        it.wait_for(lambda: it.status().get("endpoint"))
        with clearml_server.client() as client:
            client.call("tasks.stop", task=it.task()["id"], status_reason="test")
        it.wait_for(lambda: "the installation was given up" in it.console)
        it.wait_for(lambda: it.task()["status"] == "stopped")
        assert "Stopped: aborted by a user." in it.console
