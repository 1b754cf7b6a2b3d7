"""The demo as a person runs it: its output, its exit codes, and what an interrupt leaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.local_server import start_background, stop
from tests.fixtures_clearml import wait_for

ROOT = Path(__file__).parents[2]


class Demo:
    """A running demo, its output read as it comes."""

    def __init__(self, data_dir: Path, home: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "common.cli.main", "demo", "--data-dir", data_dir, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, "HOME": str(home), "PYTHONUNBUFFERED": "1"},
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, text: str) -> str:
        """Wait until the output has the text; what follows it on its line."""

        def found() -> str | None:
            match = re.search(f"{text}(.*)\n", self.output)
            assert match or self.process.poll() is None, self.output
            return match.group(1).strip() if match else None

        wait_for(lambda: found() is not None, (True,), 60, 0.02)
        return found() or ""

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(60)
        self._reader.join()
        return code

    def _read(self) -> None:
        with self.process.stdout as stream:  # type: ignore[union-attr]
            for line in stream:
                self.output += line


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Start demos on one data directory; what is left of them is ended."""
    started: list[Demo] = []

    def start(*arguments: str) -> Demo:
        (tmp_path / "home").mkdir(exist_ok=True)
        started.append(Demo(tmp_path / "data", tmp_path / "home", *arguments))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.end()
    stop(tmp_path / "data")


def left_of(data_dir: Path) -> list[list[str]]:
    """Command lines of the processes that have to do with a data directory."""
    found = []
    for process in psutil.process_iter():
        try:
            command, environ = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        if process.pid != os.getpid() and str(data_dir) in " ".join([*command, *environ.values()]):
            found.append(command)
    return found


def open_tasks(data_dir: Path) -> Any:
    server = start_background(data_dir, agent_queue=None)
    with server.client() as client:
        return client.call("tasks.get_all", status=["queued", "in_progress"])["tasks"]


def test_once_answers_and_leaves_nothing(demo: Callable[..., Demo], tmp_path: Path) -> None:
    run = demo("--once", "--prompt", "Say hello.")
    assert run.end() == 0, run.output
    lines = run.output.splitlines()
    stages = [line.split("s  ", 1)[1] for line in lines if re.match(r" *\d+\.\d s  ", line)]
    assert stages[0] == "queued"
    assert stages[-1] == "ready"
    assert any(re.match(r"downloading SmolLM2.* of 98\.4 MB", stage) for stage in stages)
    launched = re.search(
        r"Launched   task (\w{32}) on queue default, ClearML model (\w{32})\n", run.output
    )
    assert launched, run.output
    answer = run.output.partition("You        Say hello.\nModel      ")[2].partition("\n")[0]
    assert len(answer) > 10
    key = re.search(r"Key        (cdk-\S+)", run.output)
    assert key
    assert f"Authorization: Bearer {key.group(1)}" in run.output
    assert re.search(r"^Page       http://127\.0\.0\.1:\d+/$", run.output, re.MULTILINE)
    assert "clearml.storage" not in run.output  # what it uploads is told by the demo itself
    assert left_of(tmp_path / "data") == []
    # The agent would have git trust every directory from then on, in the user's own configuration.
    assert not (tmp_path / "home" / ".gitconfig").exists()


def test_interrupt_while_the_server_starts(demo: Callable[..., Demo], tmp_path: Path) -> None:
    run = demo()
    wait_for(lambda: len(left_of(tmp_path / "data")) > 1, (True,), 30, 0.01)
    run.interrupt()
    assert left_of(tmp_path / "data") == []


def test_interrupt_while_launching(demo: Callable[..., Demo], tmp_path: Path) -> None:
    run = demo("--once")
    run.wait_for("Model  ")
    assert run.interrupt() == 1
    assert left_of(tmp_path / "data") == []
    assert open_tasks(tmp_path / "data") == []


def test_second_demo_tells_what_it_waits_for(demo: Callable[..., Demo], tmp_path: Path) -> None:
    first = demo()
    task_id = first.wait_for("Launched   task ").split()[0]
    first.wait_for("Serving")
    second = demo()
    assert second.wait_for("Waiting    for task ").startswith(task_id)
    second.wait_for("Launched")
    assert second.interrupt() == 0
    assert "(running already)" in second.output
    assert first.process.poll() is None
    assert first.interrupt() == 0
    assert left_of(tmp_path / "data") == []
    assert open_tasks(tmp_path / "data") == []


def test_server_without_an_agent(demo: Callable[..., Demo], tmp_path: Path) -> None:
    start_background(tmp_path / "data", api_port=0, files_port=0, agent_queue=None)
    run = demo("--once")
    assert run.end() == 1
    assert "no agent" in run.output
    assert f"clearml-deploy local up --data-dir {tmp_path / 'data'}" in run.output
