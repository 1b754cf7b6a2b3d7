"""The processes of an instance: whose they are, when they began, what they use, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

import click
import psutil

Found = TypeVar("Found")

_GUARD = str(Path("common") / "engines" / "guard.py")
_POLL_S = 0.02
_GRACE_S = 20.0


class BenchmarkError(click.ClickException):
    """What was to be measured did not come up, or ended."""


@dataclass(frozen=True)
class Family:
    """The processes of one instance.

    Attributes:
        instance: Our program and whatever else it started.
        guards: The small process above each engine.
        engines: The engines, with what they started.
    """

    instance: tuple[psutil.Process, ...]
    guards: tuple[psutil.Process, ...]
    engines: tuple[psutil.Process, ...]


def family_of(pid: int) -> Family:
    """Sort the processes below an instance."""
    root = psutil.Process(pid)
    below = root.children(recursive=True)
    guards = [process for process in below if any(_GUARD in word for word in process.cmdline())]
    engines = [engine for guard in guards for engine in guard.children(recursive=True)]
    others = [process for process in below if process not in guards and process not in engines]
    return Family((root, *others), tuple(guards), tuple(engines))


def began_at(pid: int) -> float:
    """When a process began, on the clock of `time.monotonic`, to a hundredth of a second."""
    # Field 22 of proc(5)'s stat, counted behind the name, which may hold spaces and brackets.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)


def processor_time(processes: Iterable[psutil.Process]) -> float:
    """Seconds of processor time that these processes used so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def lives(process: psutil.Process) -> bool:
    """Whether it still runs; an agent leaves its ended task unreaped for a while."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(ask: Callable[[], Found | None], timeout_s: float, what: str) -> Found:
    """Ask until there is an answer.

    Raises:
        BenchmarkError: There is none within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := ask():
            return answer
        time.sleep(_POLL_S)
    raise BenchmarkError(f"not within {timeout_s:g} s: {what}")


def end_process(process: subprocess.Popen[bytes]) -> None:
    """End a child and everything below it: SIGTERM, and SIGKILL to what is left."""
    below: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    if process.poll() is None:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(below, timeout=2.0)
    for member in left:
        with suppress(psutil.NoSuchProcess):
            member.kill()


def end_in_order_on_sigterm() -> None:
    """Let SIGTERM end this program as Ctrl-C does: everything it started is ended first."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
