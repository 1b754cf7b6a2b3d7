"""Whether memory came back: measured before and after an engine is put aside or stopped."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.engines.process_tree import read_tree
from common.memory.contract import RESIDENT, Bytes
from common.memory.pools import gib

logger = logging.getLogger(__name__)

FREED_SHARE = 0.8
"""What must come back of what was held: an engine keeps some for its context."""
READ_TIMEOUT_S = 3.0
"""A driver that hangs holds up no move."""


@dataclass(frozen=True)
class MemoryUse:
    """What is in use at one moment, by pool.

    Attributes:
        total: By everybody, as the driver tells it.
        own: By the engine's processes; None: the driver does not tell it by process (in a container
            it may not know them).
    """

    total: Bytes = field(default_factory=dict)
    own: Bytes | None = None


ReadUse = Callable[[frozenset[int]], Awaitable[MemoryUse]]
"""Measures, with the ids of the engine's processes; one that hangs or fails counts as no answer."""


@dataclass(frozen=True)
class Mark:
    """A measurement to compare with.

    Attributes:
        pid: The engine; None: there was none, and it held nothing.
        pids: Its processes then.
        use: What was in use then; None: it could not be measured.
    """

    pid: int | None = None
    pids: frozenset[int] = frozenset()
    use: MemoryUse | None = None


@dataclass(frozen=True)
class Freed:
    """What came of a comparison.

    Attributes:
        is_freed: Enough came back, of every pool.
        freed_bytes: So much, of all pools together.
        expected_bytes: So much was held.
        words: The same for the console, such as ``12.10 GiB of 12.50 GiB came back``.
    """

    is_freed: bool
    freed_bytes: int
    expected_bytes: int
    words: str


def judge_freed(
    before: MemoryUse, now: MemoryUse, held: Bytes, share: float = FREED_SHARE
) -> Freed:
    """Tell whether an engine gave back what it held. Pure.

    What the driver tells of the engine's own processes comes first: others may take or leave memory
    at the same time. Else the totals are compared, with what the engine is known to hold.

    Args:
        before: While it held all.
        now: Afterwards.
        held: What is expected to come back, by pool; empty: all that its processes had.
        share: So much of that is enough.
    """
    is_freed, all_freed, all_expected = True, 0, 0
    own_before, own_now = before.own or {}, now.own or {}
    by_process = bool(own_before) and now.own is not None
    for pool in held or own_before:
        expected = held.get(pool, own_before.get(pool, 0))
        if by_process:
            expected = min(expected, own_before.get(pool, 0))
            freed = own_before.get(pool, 0) - own_now.get(pool, 0)
        else:
            freed = before.total.get(pool, 0) - now.total.get(pool, 0)
        is_freed = is_freed and freed >= share * expected
        all_freed += max(0, min(freed, expected))
        all_expected += expected
    words = f"{gib(all_freed)} of {gib(all_expected)} came back"
    return Freed(is_freed, all_freed, all_expected, words)


def _holds_memory(pid: int) -> bool:
    """Whether a process exists that is not merely waiting to be collected."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


class FreedCheck:
    """Compares the memory before and after an engine is put aside or stopped.

    Args:
        read: Measures; None on a machine without GPUs, where the engine's own memory is measured
            and a stopped engine that left no process has freed what it held.
        held: What the engine's move away is to free of each GPU now; empty: it is not known.
        settle_s: Memory may come back so late: drivers and kernels free some of it afterwards.
        interval_s: Between two looks.
    """

    def __init__(
        self,
        read: ReadUse | None = None,
        held: Callable[[], Bytes] = dict,
        *,
        settle_s: float = 5.0,
        interval_s: float = 0.2,
    ) -> None:
        self._read = read
        self._held = held
        self._settle_s = settle_s
        self._interval_s = interval_s

    async def mark(self, pid: int | None) -> Mark:
        """Measure what is in use before; never fails.

        Args:
            pid: The engine; None: it does not run.
        """
        if pid is None:
            return Mark()
        tree = await asyncio.to_thread(read_tree, pid)
        if self._read is None:
            return Mark(pid, tree.pids, MemoryUse(own={RESIDENT: tree.rss_bytes}))
        return Mark(pid, tree.pids, await self._measure(tree.pids))

    async def after_offload(self, mark: Mark) -> Freed:
        """Wait until an engine that still runs has given back what it held, or the time is over.

        What cannot be told counts as not freed.
        """
        return await self._wait(mark)

    async def after_stop(self, mark: Mark, *, had_all: bool = True) -> Freed | None:
        """The same for an engine that was stopped.

        Args:
            mark: Measured before.
            had_all: The engine held all that it takes; else only the driver's word on its processes
                counts.

        Returns:
            None where there is nothing to ask: without GPUs once its processes are gone, or when it
            is not known what it held.
        """
        if left := [pid for pid in mark.pids if _holds_memory(pid)]:
            return Freed(False, 0, 0, f"process {left[0]} of it cannot be ended")
        if self._read is None or mark.use is None:
            return None
        if not mark.use.own and not (had_all and self._held()):
            return None
        freed = await self._wait(mark)
        words = f"{freed.words}: another process may hold the rest"
        return freed if freed.is_freed else replace(freed, words=words)

    async def _wait(self, mark: Mark) -> Freed:
        held = self._held()
        if mark.use is None or not (mark.use.own or held):
            return Freed(False, 0, 0, "what it held could not be measured")
        deadline = time.monotonic() + self._settle_s
        freed = Freed(False, 0, sum(held.values()), "what it holds could not be measured")
        while True:
            now = await self._measure_again(mark)
            if now is not None:
                freed = judge_freed(mark.use, now, held)
            if freed.is_freed or time.monotonic() >= deadline:
                return freed
            await asyncio.sleep(self._interval_s)

    async def _measure_again(self, mark: Mark) -> MemoryUse | None:
        assert mark.pid is not None
        tree = await asyncio.to_thread(read_tree, mark.pid)
        if self._read is None:
            return MemoryUse(own={RESIDENT: tree.rss_bytes})
        return await self._measure(mark.pids | tree.pids)

    async def _measure(self, pids: frozenset[int]) -> MemoryUse | None:
        async def read() -> MemoryUse:
            assert self._read is not None
            return await self._read(pids)

        reading = asyncio.ensure_future(read())
        try:
            await asyncio.wait({reading}, timeout=READ_TIMEOUT_S)
        finally:
            if not reading.done():
                reading.cancel()
        if not reading.done() or reading.cancelled():
            return None
        if (error := reading.exception()) is not None:
            logger.warning("the memory in use could not be measured: %s", error)
            return None
        return reading.result()
