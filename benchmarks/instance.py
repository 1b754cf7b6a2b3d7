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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class RunningInstance:
    """An instance that runs below this process; its models may still be loading.

    Attributes:
        process: Its own process.
        console: The file that its console goes to.
        url: Where its gateway listens.
        key: Opens everything.
    """

    process: subprocess.Popen[bytes]
    console: Path
    url: str
    key: str

    def text(self) -> str:
        """What its console says so far."""
        return self.console.read_text(encoding="utf-8", errors="replace")

    def ask(self, path: str, method: str = "GET") -> dict[str, Any]:
        """Ask one of the gateway's own routes.

        Raises:
            BenchmarkError: It did not answer with 200.
        """
        answer = requests.request(
            method,
            f"{self.url}{path}",
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=_READY_S,
            proxies={"http": ""},
        )
        if answer.status_code != 200:
            raise BenchmarkError(f"{method} {path} answered {answer.status_code}: {answer.text}")
        found: dict[str, Any] = answer.json()
        return found

    def check(self) -> None:
        """Make sure that it still runs.

        Raises:
            BenchmarkError: It ended; with its console.
        """
        if self.process.poll() is not None:
            raise BenchmarkError(f"the instance ended:\n{self.text()}")


@contextmanager
def running_instance(
    parameters: Mapping[str, object],
    *,
    environ: Mapping[str, str] | None = None,
    is_offline: bool = True,
) -> Iterator[RunningInstance]:
    """Run ``clearml-deploy run llamacpp`` until its gateway listens; it is ended at the end.

    Args:
        parameters: ``Section/name`` to value; host and key are added.
        environ: Variables that it gets beside this process's own.
        is_offline: It needs no ClearML server; else `environ` names one.

    Raises:
        BenchmarkError: It ended, or did not listen in time; with its console.
    """
    key = secrets.token_hex(16)
    given = {"General/host": "127.0.0.1", "General/api_key": key, **parameters}
    with tempfile.TemporaryDirectory(prefix="cd-bench-", ignore_cleanup_errors=True) as folder:
        config = Path(folder) / "config.json"
        config.touch(mode=0o600)
        config.write_text(json.dumps(given), encoding="utf-8")
        console = Path(folder) / "console.txt"
        command = [sys.executable, "-m", "common.cli.main", "run", "llamacpp"]
        command += ["--config", str(config), *(["--offline"] if is_offline else [])]
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
            yield _wait_serving(RunningInstance(process, console, "", key))
        finally:
            end_process(process)


def _wait_serving(started: RunningInstance) -> RunningInstance:
    def serving() -> str | None:
        started.check()
        found = _SERVING.search(started.text())
        return found.group(1) if found else None

    return replace(started, url=wait_until(serving, _READY_S, "the gateway opens"))


@contextmanager
def local_instance(
    parameters: Mapping[str, object], *, environ: Mapping[str, str] | None = None
) -> Iterator[ServedInstance]:
    """Run ``clearml-deploy run llamacpp`` until its only model is ready; it is ended at the end.

    Args:
        parameters: ``Section/name`` to value; host and key are added.
        environ: Names a ClearML server; None runs it offline.

    Raises:
        BenchmarkError: It ended, or was not ready in time; with its console.
    """
    with running_instance(parameters, environ=environ, is_offline=not environ) as running:

        def ready() -> str | None:
            running.check()
            (model,) = running.ask("/v1/models")["data"]
            if model["status"] == "failed":
                raise BenchmarkError(f"the instance failed:\n{running.text()}")
            return str(model["id"]) if model["status"] == "ready" else None

        name = wait_until(ready, _READY_S, "the model is ready")
        yield describe_instance(running.process.pid, f"{running.url}/v1", name, running.key)


def describe_instance(pid: int, base_url: str, model: str, key: str) -> ServedInstance:
    """The ways to a ready instance's model."""
    return ServedInstance(
        pid=pid,
        gateway=Target(base_url, model, key=key),
        engine=_engine_of(pid, model),
    )


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
