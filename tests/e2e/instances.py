"""Instances as a person runs them: real processes, watched through their console and their port."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests

ROOT = Path(__file__).resolve().parents[2]
KEY = "key-of-the-tests-0123456789"
READY_S = 60.0


def wait_for(condition: Any, timeout_s: float, what: str) -> Any:
    """Poll until `condition()` is true; its value is returned."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s:g} s: {what}")


class Instance:
    """``clearml-deploy run APP`` as a child process."""

    def __init__(
        self, process: subprocess.Popen[bytes], output: Path, ready_s: float = READY_S
    ) -> None:
        self.process = process
        self._output = output
        self._ready_s = ready_s

    @property
    def console(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def url(self) -> str:
        found = re.search(r"Serving on (http://\S+)", self.console)
        assert found, self.console
        return found.group(1)

    def wait_serving(self) -> None:
        """Until every model is ready."""
        self._until(lambda: "Serving on" in self.console, "Serving on")
        self._until(self._all_ready, "ready")

    def models(self) -> list[dict[str, Any]]:
        answer = requests.get(f"{self.url}/v1/models", headers=self.headers, timeout=10)
        data: list[dict[str, Any]] = answer.json()["data"]
        return data

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {KEY}"}

    def family(self) -> list[psutil.Process]:
        """This process and all it started."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def chat(self, model: str, prompt: str = "What is gravity?", **more: Any) -> str:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 24,
            "temperature": 0,
            **more,
        }
        answer = requests.post(
            f"{self.url}/v1/chat/completions", json=body, headers=self.headers, timeout=60
        )
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    def wait_end(self, timeout_s: float) -> int:
        return self.process.wait(timeout_s)

    def _all_ready(self) -> bool:
        return all(model["status"] == "ready" for model in self.models())

    def _until(self, condition: Any, what: str) -> None:
        def check() -> bool:
            assert self.process.poll() is None, f"ended instead of {what}:\n{self.console}"
            return bool(condition())

        try:
            wait_for(check, self._ready_s, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.console}") from None


@contextmanager
def running_instance(
    parameters: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    offline: bool = True,
    serving: bool = True,
    cache: Path | None = None,
    app: str = "llamacpp",
    ready_s: float = READY_S,
) -> Iterator[Instance]:
    """Run an instance with a key of the tests; whatever is left of it at the end is killed."""
    engine = {"General/engine": "xllamacpp"} if app == "llamacpp" else {}
    given = {"General/host": "127.0.0.1", "General/api_key": KEY, **engine, **parameters}
    with tempfile.TemporaryDirectory(prefix="cd-e2e-") as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(given), encoding="utf-8")
        output = Path(folder) / "console.txt"
        env = {
            **os.environ,
            "CLEARML_CACHE_DIR": str(cache or Path(folder) / "clearml"),
            "PYTHONUNBUFFERED": "1",
            **(environ or {}),
        }
        command = [sys.executable, "-m", f"apps.{app}", "--config", str(config)]
        with output.open("wb") as stream:
            process = subprocess.Popen(
                command + (["--offline"] if offline else []),
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=env,
                cwd=ROOT,
                start_new_session=True,
            )
        instance = Instance(process, output, ready_s)
        try:
            if serving:
                instance.wait_serving()
            yield instance
        finally:
            end_process(process)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of ours and everything below it, if it still runs."""
    if process.poll() is None:
        family = [
            psutil.Process(process.pid),
            *psutil.Process(process.pid).children(recursive=True),
        ]
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            for member in family:
                if member.is_running():
                    member.kill()
            process.wait(5)


def assert_all_gone(processes: list[psutil.Process], timeout_s: float) -> None:
    """None of these processes is left (a zombie of another parent counts as gone)."""

    def left() -> list[psutil.Process]:
        return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def none_left() -> bool:
        try:
            return not left()
        except psutil.NoSuchProcess:
            return False

    wait_for(none_left, timeout_s, f"end of {processes}")
