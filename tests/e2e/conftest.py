"""A local server with an agent, for the tests that go through the queue."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.demo.model import packaged_model
from common.local_server import RunningServer, start_background, stop, wait_for_agent
from tests.e2e.instances import ROOT, wait_for


@dataclass(frozen=True)
class Workplace:
    """A server, an agent on queue ``default``, and the command line pointed at them."""

    server: RunningServer

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, **self.server.environment}

    def cli(self, *arguments: str, check: bool = True) -> str:
        """Run ``clearml-deploy``; its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "common.cli.main", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self.environ,
            timeout=120,
        )
        if check:
            assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout if check else done.stdout + done.stderr

    def script(self, code: str, *arguments: str) -> str:
        """Run Python that uses the SDK as a user would, in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            env=self.environ,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def launch(self, **parameters: str) -> str:
        """Launch the llama.cpp app; the task's ID."""
        given = {"General/host": "127.0.0.1", "General/engine": "xllamacpp", **parameters}
        sets = [word for path, value in given.items() for word in ("--set", f"{path}={value}")]
        return self.cli(
            "launch", "llamacpp", "--queue", "default", "--name", "test instance", *sets
        ).split()[0]

    def task(self, task_id: str) -> dict[str, Any]:
        with self.server.client() as client:
            task: dict[str, Any] = client.call("tasks.get_by_id", task=task_id)["task"]
        return task

    def status(self, task_id: str) -> dict[str, Any]:
        return dict(json.loads(self.cli("status", task_id, "--json")))

    def wait_stage(self, task_id: str, stage: str, timeout_s: float = 60) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            now = self.status(task_id)
            assert stage == "ended" or now["stage"] != "ended", (now, self.log(task_id))
            return now if now["stage"] == stage else None

        found: dict[str, Any] = wait_for(reached, timeout_s, f"{task_id} {stage}")
        return found

    def stop_all(self) -> None:
        """End what a failed test left: the agent runs one task at a time."""
        with self.server.client() as client:
            left = client.call(
                "tasks.get_all", status=["queued", "in_progress"], only_fields=["id"]
            )
        for task in left.get("tasks", []):
            self.cli("stop", task["id"], check=False)

    def log(self, task_id: str) -> str:
        """The task's console as the server has it."""
        with self.server.client() as client:
            answer = client.call("events.get_task_log", task=task_id, batch_size=2000)
        return "\n".join(str(event.get("msg")) for event in answer.get("events", []))


@pytest.fixture(scope="session")
def workplace() -> Iterator[Workplace]:
    """One server and agent for the session."""
    folder = Path(tempfile.mkdtemp(prefix="cd-work-"))
    server = start_background(folder, agent_queue="default")
    try:
        wait_for_agent(server)
        yield Workplace(server)
    finally:
        stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def model_id(workplace: Workplace) -> str:
    """SmolLM2 in the registry, uploaded through the SDK."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from common.clearml.api import ClearMLApi\n"
        "from common.demo.model import register_model\n"
        "print(register_model(ClearMLApi(), Path(sys.argv[1]), 'SmolLM2 test'))\n"
    )
    return workplace.script(code, str(packaged_model())).split()[-1]
