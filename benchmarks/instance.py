"""Instances to measure: run in a child process as ``clearml-deploy run`` does, or launched."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from benchmarks.load import Target
from benchmarks.machine import ROOT
from benchmarks.processes import BenchmarkError, end_process, family_of, wait_until

_READY_S = 90.0
_SERVING = re.compile(r"Serving on (http://\S+)")


@dataclass(frozen=True)
class ServedInstance:
    """A ready instance with one model.

    Attributes:
        pid: Its own process.
        gateway: Its model by way of the gateway.
        engine: The same model at its engine.
    """

    pid: int
    gateway: Target
    engine: Target


@contextmanager
def local_instance(
    parameters: Mapping[str, object], *, environ: Mapping[str, str] | None = None
) -> Iterator[ServedInstance]:
    """Run ``clearml-deploy run llamacpp`` until its model is ready; it is ended at the end.

    Args:
        parameters: ``Section/name`` to value; host and key are added.
        environ: Names a ClearML server; None runs it offline.

    Raises:
        BenchmarkError: It ended, or was not ready in time; with its console.
    """
    key = secrets.token_hex(16)
    given = {"General/host": "127.0.0.1", "General/api_key": key, **parameters}
    with tempfile.TemporaryDirectory(prefix="cd-bench-", ignore_cleanup_errors=True) as folder:
        config = Path(folder) / "config.json"
        config.touch(mode=0o600)
        config.write_text(json.dumps(given), encoding="utf-8")
        console = Path(folder) / "console.txt"
        command = [sys.executable, "-m", "common.cli.main", "run", "llamacpp"]
        command += ["--config", str(config), *([] if environ else ["--offline"])]
        with console.open("wb") as stream:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={
                    **os.environ,
                    "CLEARML_CACHE_DIR": str(Path(folder) / "clearml"),
                    **(environ or {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield _wait_ready(process, console, key)
        finally:
            end_process(process)


def _wait_ready(process: subprocess.Popen[bytes], console: Path, key: str) -> ServedInstance:
    def text() -> str:
        return console.read_text(encoding="utf-8", errors="replace")

    def serving() -> str | None:
        if process.poll() is not None:
            raise BenchmarkError(f"the instance ended:\n{text()}")
        found = _SERVING.search(text())
        return found.group(1) if found else None

    def ready() -> str | None:
        (model,) = _models(url, key)
        if process.poll() is not None or model["status"] == "failed":
            raise BenchmarkError(f"the instance failed:\n{text()}")
        return model["id"] if model["status"] == "ready" else None

    url = wait_until(serving, _READY_S, "the gateway opens")
    name = wait_until(ready, _READY_S, "the model is ready")
    return describe_instance(process.pid, f"{url}/v1", name, key)


def describe_instance(pid: int, base_url: str, model: str, key: str) -> ServedInstance:
    """The ways to a ready instance's model."""
    return ServedInstance(
        pid=pid,
        gateway=Target(base_url, model, key=key),
        engine=_engine_of(pid, model),
    )


def _models(url: str, key: str) -> list[dict[str, str]]:
    answer = requests.get(
        f"{url}/v1/models",
        headers={"Authorization": f"Bearer {key}"},
        timeout=10,
        proxies={"http": ""},
    )
    data: list[dict[str, str]] = answer.json()["data"]
    return data


def _engine_of(pid: int, model: str) -> Target:
    """Where the engine listens, from its command line: the gateway keeps it to itself."""
    for engine in family_of(pid).engines:
        words = engine.cmdline()
        if "--host" in words:
            host = words[words.index("--host") + 1]
            if host.endswith(".sock"):
                return Target("http://engine/v1", model, socket_path=host)
            return Target(f"http://{host}:{words[words.index('--port') + 1]}/v1", model)
    raise BenchmarkError("the engine's command line names no address")


def instance_of_task(task_id: str) -> psutil.Process:
    """The process in which an agent of this machine runs an instance.

    Raises:
        BenchmarkError: There is none.
    """
    for process in psutil.process_iter():
        try:
            if is_instance(process) and process.environ().get("CLEARML_TASK_ID") == task_id:
                return process
        except psutil.Error:
            continue
    raise BenchmarkError(f"no process on this machine runs the task {task_id}")


def is_instance(process: psutil.Process) -> bool:
    """Whether an agent's process runs our program by now."""
    try:
        return "apps.llamacpp" in process.cmdline()
    except psutil.Error:
        return False
