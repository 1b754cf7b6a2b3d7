"""Which processor does what. Pure but for what it reads of the system."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


@dataclass(frozen=True)
class Cores:
    """Where the load with the stub engine runs, and where the proxy does.

    Attributes:
        load: Number of a processor.
        proxy: Another one; the same where there is no other.
        note: What the reader of the figures must know.
    """

    load: int
    proxy: int
    note: str

    @property
    def are_apart(self) -> bool:
        """Whether the load leaves the proxy alone."""
        return self.load != self.proxy


def choose_cores(usable: Sequence[int], siblings: Mapping[int, frozenset[int]]) -> Cores:
    """Choose two processors, of different cores where there are (pure).

    Args:
        usable: Numbers of the processors that this process may use.
        siblings: Of each: which processors share its core.
    """
    ordered = sorted(usable)
    load = ordered[0]
    others = [number for number in ordered if number != load]
    if not others:
        return Cores(load, load, "ONE processor: load, engine and proxy share it; no figure counts")
    apart = [number for number in others if number not in siblings.get(load, frozenset())]
    # The last one: the first are those that serve interrupts on many machines.
    proxy = (apart or others)[-1]
    shared = "" if apart else ", which are threads of one core"
    return Cores(load, proxy, f"load and engine on processor {load}, proxy on {proxy}{shared}")


def this_machine() -> Cores:
    """Choose among the processors of this machine that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    return choose_cores(usable, {number: _siblings_of(number) for number in usable})


def pinned_to(core: int) -> Callable[[], None]:
    """Return what a child is to do before its program begins."""
    return lambda: os.sched_setaffinity(0, {core})


def allow_open_files(wanted: int) -> int:
    """Raise this process's limit of open files, for its children too; returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    return soft


def _siblings_of(number: int) -> frozenset[int]:
    try:
        text = Path(_SIBLINGS.format(number)).read_text(encoding="ascii").strip()
    except OSError:
        return frozenset({number})
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
