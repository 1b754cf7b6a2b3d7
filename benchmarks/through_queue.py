"""A local server, an agent, and instances launched through the queue as the demo launches its own."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from benchmarks.instance import instance_of_task, is_instance
from benchmarks.processes import BenchmarkError, family_of, lives, wait_until
from common.clearml.api import ClearMLApi
from common.cli.inputs import load_app
from common.errors import DeployError
from common.launch.follow import Followed, read_task
from common.launch.launcher import Launch, launch
from common.launch.source import local_checkout
from common.local_server import RunningServer, start_background, stop, wait_for_agent

_QUEUE = "default"
_POLL_S = 0.05
_READY_S = 90.0
_STOP_S = 60.0
_LOG_LINES = 25


@contextlib.contextmanager
def local_world(*, with_agent: bool) -> Iterator[RunningServer]:
    """A local server of our own in a temporary folder, with an agent or without.

    This program is pointed at it too. Both are ended, and all they wrote is removed, at the end.
    """
    # The SDK logs to standard output, which is for the result.
    with (
        contextlib.redirect_stdout(sys.stderr),
        tempfile.TemporaryDirectory(prefix="cd-bench-", ignore_cleanup_errors=True) as name,
    ):
        folder = Path(name)
        try:
            server = start_background(folder, agent_queue=_QUEUE if with_agent else None)
            if with_agent:
                wait_for_agent(server)
            os.environ.update(server.environment)
            yield server
        finally:
            stop(folder)


def launch_instance(api: ClearMLApi, parameters: Mapping[str, object]) -> str:
    """Put an instance of the llama.cpp app into the queue; returns the task's ID."""
    return launch(
        Launch(
            app=load_app("llamacpp"),
            parameters={"General/host": "127.0.0.1", **parameters},
            queue=_QUEUE,
            project="Benchmarks",
            name="benchmark instance",
            source=local_checkout("llamacpp"),
        ),
        api,
    )


def watch_until_ready(
    api: ClearMLApi, task_id: str, agent_pid: int
) -> tuple[Followed, dict[str, float]]:
    """Follow a task until it serves.

    Returns:
        Its last state, and when each stage was first seen (``time.monotonic``): ``picked up`` by
        the agent, ``process`` when our program runs, ``loading`` from the instance's first
        ``Status/*``, and ``ready``.

    Raises:
        BenchmarkError: It ended, or was not ready in time.
    """
    seen: dict[str, float] = {}
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        state = read_task(api, task_id)
        now = time.monotonic()
        if state.stage == "ended":
            raise BenchmarkError(
                f"the instance ended ({state.task_status}): {state.reason}\n{_log(api, task_id)}"
            )
        if state.stage != "queued":
            seen.setdefault("picked up", now)
        # The agent turns its own process into ours, so the process's age would not tell.
        if "picked up" in seen and "process" not in seen and _runs_instance(agent_pid):
            seen["process"] = time.monotonic()
        if state.status.get("status"):
            seen.setdefault("loading", now)
        if state.stage == "ready":
            seen["ready"] = now
            return state, seen
        time.sleep(_POLL_S)
    raise BenchmarkError(f"the instance was not ready within {_READY_S:g} s")


def _log(api: ClearMLApi, task_id: str) -> str:
    """The end of the task's console."""
    events = api.call("events", "get_task_log", task=task_id, batch_size=10).get("events", [])
    text = "\n".join(str(event.get("msg")).rstrip() for event in reversed(events))  # newest first
    return "\n".join(text.splitlines()[-_LOG_LINES:])


def _runs_instance(agent_pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(agent_pid).children(recursive=True)
        return any(is_instance(process) for process in below)
    return False


def stop_instance(api: ClearMLApi, task_id: str) -> None:
    """Abort a task and wait until nothing of it runs; whatever state it is in."""
    processes: list[psutil.Process] = []
    with contextlib.suppress(BenchmarkError, psutil.Error):
        family = family_of(instance_of_task(task_id).pid)
        processes = [*family.instance, *family.guards, *family.engines]
    with contextlib.suppress(DeployError):
        if read_task(api, task_id).stage == "ended":
            return
        api.call("tasks", "stop", task=task_id, status_reason="the benchmark is done with it")
        deadline = time.monotonic() + _STOP_S
        while read_task(api, task_id).stage != "ended" and time.monotonic() < deadline:
            time.sleep(0.25)
    wait_until(lambda: not any(map(lives, processes)), _STOP_S, "the end of the instance")
