"""What a proxy's processes used: processor time to the nanosecond, and memory."""

from __future__ import annotations

import time
from collections.abc import Iterable

import psutil

# Linux's number for the processor-time clock of a process (clock_getcpuclockid(3)): user and system,
# of all its threads, also those that ended. psutil reads hundredths of seconds.
_PROCESS_CLOCK = 2


def tree_of(pid: int) -> list[int]:
    """Return a process and everything below it."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def processor_s(pids: Iterable[int]) -> float:
    """Return the seconds of processor time, user and system, that processes used so far.

    Raises:
        psutil.NoSuchProcess: One of them ended.
    """
    return sum(_processor_s(pid) for pid in pids)


def memory_bytes(pids: Iterable[int]) -> int:
    """Return what processes hold in memory that nobody else does (USS)."""
    return sum(int(psutil.Process(pid).memory_full_info().uss) for pid in pids)


def _processor_s(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | _PROCESS_CLOCK)
    except OSError:
        return float(sum(psutil.Process(pid).cpu_times()[:2]))
