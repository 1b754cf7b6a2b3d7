"""What a process and all its descendants have used, from Linux's /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class TreeUsage:
    """Sums over a process tree.

    Attributes:
        io_bytes: Read and written through system calls since the processes began (``rchar`` and
            ``wchar`` of ``/proc/PID/io``), page cache included.
        rss_bytes: Resident memory now: a memory-mapped model shows here and not in `io_bytes`.
        own_bytes: Of `rss_bytes` what is no page of a file, so that the kernel cannot drop it.
        cpu_s: Processor time in seconds since the processes began.
        pids: The processes that were found.
    """

    io_bytes: int = 0
    rss_bytes: int = 0
    own_bytes: int = 0
    cpu_s: float = 0.0
    pids: frozenset[int] = frozenset()

    @property
    def moved_bytes(self) -> int:
        """A figure that grows as long as a model is being loaded, whichever way."""
        return self.io_bytes + self.rss_bytes


def read_tree(root: int, proc: Path = Path("/proc")) -> TreeUsage:
    """Measure the process `root` and its descendants.

    Costs some 20 microseconds per process of the machine: for use now and then, in a thread. A
    process that ends meanwhile, or may not be looked at, counts as nothing; so does all of it on a
    system without /proc.
    """
    if not proc.is_dir():
        return TreeUsage()
    stats: dict[int, list[bytes]] = {}
    children: dict[int, list[int]] = {}
    for entry in os.listdir(proc):
        if entry.isdigit() and (fields := _read_stat(proc / entry / "stat")):
            stats[int(entry)] = fields
            children.setdefault(int(fields[1]), []).append(int(entry))
    io_bytes = rss_bytes = own_bytes = 0
    ticks = 0
    pids: set[int] = set()
    pending = [root]
    while pending:
        pid = pending.pop()
        pending.extend(children.get(pid, []))
        if pid not in stats:
            continue
        pids.add(pid)
        # Fields 14 (utime), 15 (stime) and 24 (rss, pages) of proc_pid_stat(5); ours begin at 3.
        fields = stats[pid]
        ticks += int(fields[11]) + int(fields[12])
        rss_bytes += int(fields[21]) * _PAGE_BYTES
        own_bytes += _read_own(proc / str(pid) / "statm")
        io_bytes += _read_io(proc / str(pid) / "io")
    return TreeUsage(io_bytes, rss_bytes, own_bytes, ticks / _TICKS_PER_S, frozenset(pids))


def _read_stat(path: Path) -> list[bytes]:
    """Fields of a stat file from the third (state) on; empty when the process is gone."""
    try:
        text = path.read_bytes()
    except OSError:
        return []
    # The second field is the command in brackets and may hold anything.
    return text[text.rfind(b")") + 1 :].split()


def _read_own(path: Path) -> int:
    """Bytes of a process that are neither of files nor shared: `resident` less `shared` of proc_pid_statm(5)."""
    try:
        fields = path.read_bytes().split()
        return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def _read_io(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("rchar", "wchar")))
