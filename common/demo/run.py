"""The demo's steps, in order; what it started is stopped at the end, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from common.clearml.api import ClearMLApi
from common.cli.inputs import load_app
from common.cli.progress import show_progress
from common.demo.chat import stream_chat
from common.demo.model import MODEL_NAME, packaged_model, register_model
from common.errors import ControlPlaneError, DeployError, UserError
from common.launch.follow import Followed, follow, read_task
from common.launch.launcher import Launch, launch
from common.launch.source import local_checkout
from common.launch.stop import stop_task
from common.local_server import (
    RunningServer,
    default_data_dir,
    running,
    start_background,
    stop,
    wait_for_agent,
)
from common.runtime.status import ModelRow, access_example

QUEUE = "default"
PROJECT = "Demo"
_STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class DemoRequest:
    """What the demo was asked for.

    Attributes:
        is_once: Stop after the answer.
        data_dir: Of the local server; None for its default.
        model_file: A GGUF file instead of SmolLM2.
        prompt: What to ask the model.
    """

    is_once: bool
    data_dir: Path | None
    model_file: Path | None
    prompt: str


class _Interrupted(Exception):
    """Ctrl-C or SIGTERM: stop in order."""


class _Interrupts:
    """Turns SIGINT and SIGTERM into `_Interrupted`, not before a held step is done."""

    def __init__(self) -> None:
        self._is_held = False
        self._is_pending = False
        self._handle(self._arrive)

    def hold(self) -> None:
        """Keep interrupts back until `release`."""
        self._is_held = True

    def release(self) -> None:
        """Let them through again; raises the one that came meanwhile."""
        self._is_held = False
        if self._is_pending:
            raise _Interrupted

    def ignore(self) -> None:
        """Let a second Ctrl-C not cut the clean-up short."""
        self._handle(signal.SIG_IGN)

    def _handle(self, handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
        signal.signal(signal.SIGTERM, handler)
        signal.signal(signal.SIGINT, handler)

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        sys.stdout.write("\n")
        self._is_pending = True
        if not self._is_held:
            raise _Interrupted


def run_demo(request: DemoRequest) -> int:
    """Run the demo; returns its exit code."""
    out = Console(highlight=False)
    interrupts = _Interrupts()
    try:
        with _local_server(request.data_dir or default_data_dir(), out, interrupts) as server:
            os.environ["CLEARML_CONFIG_FILE"] = str(server.config_file)
            return _with_server(request, server, out, interrupts)
    except _Interrupted:
        return 0 if not request.is_once else 1
    except DeployError as error:
        out.print(f"The demo failed: {error}", markup=False, soft_wrap=True)
        return 1


def _with_server(
    request: DemoRequest, server: RunningServer, out: Console, interrupts: _Interrupts
) -> int:
    file = request.model_file or packaged_model()
    api = ClearMLApi()
    out.print(f"Model      {file.name} into the model registry", markup=False)
    name = MODEL_NAME if request.model_file is None else file.stem
    model_id = register_model(api, file, name)
    queue = server.agent_queue or QUEUE
    _say_who_is_before(api, queue, out)
    started = time.monotonic()
    # Cut off in its middle it would leave a task in the queue, for the next demo to wait behind.
    interrupts.hold()
    task_id = launch(
        Launch(
            app=load_app("llamacpp"),
            parameters={"Model/model": model_id, "General/host": "127.0.0.1"},
            queue=queue,
            project=PROJECT,
            name=f"{name} demo",
            source=local_checkout("llamacpp"),
        ),
        api,
    )
    try:
        interrupts.release()
        out.print(
            f"Launched   task {task_id} on queue {queue}, ClearML model {model_id}",
            markup=False,
            soft_wrap=True,
        )
        wait_for_agent(server)
        return _follow_and_chat(request, out, api, task_id, started)
    finally:
        _stop_instance(api, task_id, out)


def _say_who_is_before(api: ClearMLApi, queue: str, out: Console) -> None:
    """Tell what the demo's task will wait for: the agent runs one task at a time."""
    workers = api.call("workers", "get_all")["workers"]
    running_now = [
        str(worker["task"]["id"])
        for worker in workers
        if worker.get("task") and queue in [row.get("name") for row in worker.get("queues") or []]
    ]
    queues = [row for row in api.call("queues", "get_all")["queues"] if row.get("name") == queue]
    waiting = [str(entry["task"]) for row in queues for entry in row.get("entries") or []]
    # A worker reports a task for some seconds after its end.
    before = [task for task in running_now if read_task(api, task).stage != "ended"] + waiting
    for task_id in before:
        out.print(
            f"Waiting    for task {task_id}, which the agent runs first; to end it: "
            f"clearml-deploy stop {task_id}",
            markup=False,
            soft_wrap=True,
        )


def _follow_and_chat(
    request: DemoRequest, out: Console, api: ClearMLApi, task_id: str, started: float
) -> int:
    last = show_progress(follow(api, task_id), out)
    if last.stage != "ready":
        raise ControlPlaneError(f"the instance ended ({last.task_status}): {last.reason}")
    model = last.models[0]
    key = last.status["api_key"]
    out.print(f"\nYou        {request.prompt}", markup=False)
    out.print("Model      ", end="")
    answer = ""
    for piece in stream_chat(model["url"], key, model["name"], request.prompt):
        if not answer:
            first = time.monotonic() - started
        answer += piece
        out.print(piece, end="", markup=False, soft_wrap=True)
    if not answer.strip():
        raise ControlPlaneError("the model gave an empty answer")
    out.print(f"\n\nFrom launch to the first token: {first:.1f} s", markup=False)
    _show_access(out, last, key)
    if request.is_once:
        return 0
    out.print("\nServing. Ctrl-C stops the instance, the agent and the local server.")
    while (now := read_task(api, task_id)).stage != "ended":
        time.sleep(2)
    raise ControlPlaneError(f"the instance ended ({now.task_status}): {now.reason}")


def _show_access(out: Console, state: Followed, key: str) -> None:
    model = state.models[0]
    row = ModelRow(name=model["name"], url=model["url"], status=model["status"])
    out.print(f"Page       {state.status['endpoint']}/", markup=False, soft_wrap=True)
    out.print(f"Endpoint   {row.url}", markup=False, soft_wrap=True)
    out.print(f"Key        {key}", markup=False, soft_wrap=True)
    out.print(access_example(row, is_embedding=False, key=key), markup=False, soft_wrap=True)


def _stop_instance(api: ClearMLApi, task_id: str, out: Console) -> None:
    """Abort the task and wait until its worker has ended it."""
    with contextlib.suppress(DeployError):
        state = read_task(api, task_id)
        if state.stage == "ended":
            return
        out.print("Stopping the instance ...")
        stop_task(api, task_id, reason="the demo ended", timeout_s=_STOP_TIMEOUT_S)


@contextlib.contextmanager
def _local_server(data_dir: Path, out: Console, interrupts: _Interrupts) -> Iterator[RunningServer]:
    """The local server and its agent; stopped at the end unless they ran before."""
    before = running(data_dir)
    try:
        server = before or start_background(data_dir, agent_queue=QUEUE)
        state = "running already" if before else "started"
        out.print(
            f"Server     {server.api_url} ({state}), data in {data_dir}",
            markup=False,
            soft_wrap=True,
        )
        out.print(
            f"ClearML    export CLEARML_CONFIG_FILE={server.config_file}",
            markup=False,
            soft_wrap=True,
        )
        if server.agent_queue is None:
            raise UserError(
                "The local server that runs already has no agent to run the demo's task. Start one: "
                f"clearml-deploy local up --data-dir {data_dir}"
            )
        yield server
    finally:
        interrupts.ignore()
        if before is None:
            out.print("Stopping the agent and the local server ...")
            stop(data_dir)
