"""The demo's steps, in order; what it started is stopped at the end, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from common.clearml.api import ClearMLApi
from common.cli.inputs import load_app
from common.cli.progress import show_progress
from common.demo.chat import stream_chat
from common.demo.model import MODEL_NAME, packaged_model, register_model
from common.errors import ControlPlaneError, DeployError
from common.launch.follow import Followed, follow, read_task
from common.launch.launcher import Launch, launch
from common.launch.source import local_checkout
from common.local_server import RunningServer, default_data_dir, running, start_background, stop
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


def run_demo(request: DemoRequest) -> int:
    """Run the demo; returns its exit code."""
    out = Console(highlight=False)
    data_dir = request.data_dir or default_data_dir()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        with _local_server(data_dir, out) as server:
            os.environ["CLEARML_CONFIG_FILE"] = str(server.config_file)
            return _with_server(request, out)
    except _Interrupted:
        return 0 if not request.is_once else 1
    except DeployError as error:
        out.print(f"The demo failed: {error}", markup=False)
        return 1


def _with_server(request: DemoRequest, out: Console) -> int:
    file = request.model_file or packaged_model()
    api = ClearMLApi()
    out.print(f"Model      {file.name} into the model registry", markup=False)
    name = MODEL_NAME if request.model_file is None else file.stem
    model_id = register_model(api, file, name)
    started = time.monotonic()
    task_id = launch(
        Launch(
            app=load_app("llamacpp"),
            parameters={"Model/model": model_id, "General/host": "127.0.0.1"},
            queue=QUEUE,
            project=PROJECT,
            name="SmolLM2 demo",
            source=local_checkout("llamacpp"),
        ),
        api,
    )
    out.print(f"Launched   task {task_id} on queue {QUEUE}, ClearML model {model_id}", markup=False)
    try:
        return _follow_and_chat(request, out, api, task_id, started)
    finally:
        _stop_instance(api, task_id, out)


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
        api.call("tasks", "stop", task=task_id, status_reason="the demo ended")
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while state.stage not in ("queued", "ended") and time.monotonic() < deadline:
            time.sleep(0.25)
            state = read_task(api, task_id)


@contextlib.contextmanager
def _local_server(data_dir: Path, out: Console) -> Iterator[RunningServer]:
    """The local server and its agent; stopped at the end unless they ran before."""
    server = running(data_dir)
    was_running = server is not None
    if server is None:
        server = start_background(data_dir, agent_queue=QUEUE)
    state = "running already" if was_running else "started"
    out.print(
        f"Server     {server.api_url} ({state}), data in {data_dir}", markup=False, soft_wrap=True
    )
    out.print(
        f"ClearML    export CLEARML_CONFIG_FILE={server.config_file}", markup=False, soft_wrap=True
    )
    try:
        yield server
    finally:
        # A second Ctrl-C must not leave the server behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if not was_running:
            out.print("Stopping the agent and the local server ...")
            stop(data_dir)


def _interrupt(number: int, frame: object) -> None:
    sys.stdout.write("\n")
    raise _Interrupted
