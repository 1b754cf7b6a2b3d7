"""The other end of `reporter_child`: starts it, and asks it to report."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.local_server import RunningServer
from tests.fixtures_clearml import clearml_environment

ROOT = Path(__file__).parents[2]
_ANSWER_S = 60.0


class Reporter:
    """An instance's task in a process of its own; every call is answered when it was done."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._output: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self._ask(name, *arguments)

    def _ask(self, name: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        hung = threading.Timer(_ANSWER_S, self._process.kill)
        hung.start()
        try:
            self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                self._output.append(line)
                if line.startswith("SEEN "):
                    return json.loads(line.removeprefix("SEEN "))
        finally:
            hung.cancel()
        raise AssertionError(f"{name}: no answer\n" + "".join(self._output[-100:]))


@contextmanager
def reporting(server: RunningServer, cache: Path, *arguments: str) -> Iterator[Reporter]:
    """Open a task on a server, in a process that ends with the block."""
    environ = clearml_environment(server, cache)
    environ["HOME"] = str(cache)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.clearml.reporter_child", *arguments],
        env=environ,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield Reporter(process)
        finally:
            process.kill()
