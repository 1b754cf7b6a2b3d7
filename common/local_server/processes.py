"""Processes that outlive the command that started them: how they are named, found and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from common.local_server.data_dir import write_private

_POLL_S: Final = 0.02
#: The system needs a moment to take a killed process down.
_KILL_S: Final = 5.0
#: Two readings of one process's start may differ by a clock tick.
_SAME_START_S: Final = 1.0


@dataclass(frozen=True)
class Recorded:
    """A process noted in a state file, with what else was noted."""

    pid: int
    state: Mapping[str, Any]


def start_detached(
    argv: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, which no Ctrl-C of a terminal reaches."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=dict(env),
            cwd=cwd,
        )


def write_state(path: Path, pid: int, **state: Any) -> None:
    """Note a process; its start time tells it from a later one with the same number."""
    write_private(
        path,
        json.dumps({"pid": pid, "create_time": psutil.Process(pid).create_time(), **state}),
    )


def read_state(path: Path) -> Recorded | None:
    """The process of a state file if it lives, else None."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    process = find(int(state["pid"]), float(state["create_time"]))
    return None if process is None else Recorded(process.pid, state)


def find(pid: int, create_time: float) -> psutil.Process | None:
    """The process of that number and start time, None if it ended (or is a zombie)."""
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - create_time) < _SAME_START_S
        if is_same and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except psutil.NoSuchProcess:
        pass
    return None


def wait_until(is_done: Callable[[], bool], timeout_s: float) -> bool:
    """Ask until it is so; False after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not is_done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def end_process(process: psutil.Process, grace_s: float) -> None:
    """SIGTERM, and SIGKILL to one that is still there after `grace_s`; returns when it is gone."""
    end_all([process], grace_s)


def end_all(processes: Sequence[psutil.Process], grace_s: float) -> None:
    """SIGTERM to all, SIGKILL to those that are still there after `grace_s`."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    if wait_until(lambda: not any(map(is_alive, processes)), grace_s):
        return
    for process in filter(is_alive, processes):
        _signal(process, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, processes)), _KILL_S)


def tree(process: psutil.Process) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def reap(pid: int) -> None:
    """Collect the exit status of a child of ours, so that no zombie stays; no child is fine."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def last_lines(path: Path, count: int = 8) -> str:
    """The end of a log, for an error message."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "(no output)"
    return "\n".join(lines[-count:]) or "(no output)"


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process still runs; a zombie, which nobody has collected yet, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
