"""Asking an engine over HTTP whether it can serve, and whether it still lives."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from common.engines.contract import EngineAddress
from common.engines.engine_session import engine_session
from common.engines.process_tree import TreeUsage
from common.engines.state import LivenessCount, LivenessLimits, StallClock, judge_liveness

Measure = Callable[[], Awaitable[TreeUsage]]
"""Measures the engine's process tree."""

# Between two questions while it starts: a hundredth of a second and a 25th of the time so far, so that little
# of a load is spent in a pause after its end; a small model is ready in 0.2 s.
POLL_FIRST_S = 0.01
POLL_MAX_S = 0.5
POLL_GROWTH = 1.04
# Between two measurements of the bytes moved while it starts; each reads all of /proc.
MEASURE_INTERVAL_S = 2.0
# An engine that used this share of a processor between two probes is at work.
BUSY_SHARE = 0.05
# Bytes between two liveness probes that show work rather than housekeeping.
MOVED_BYTES = 1 << 20


class Answer(enum.Enum):
    """What came of asking for the health path."""

    OK = "ok"
    NOT_YET = "not_yet"
    """It answered, with a status other than 200."""
    REFUSED = "refused"
    """Nothing listens there, or what does speaks no HTTP."""
    SILENT = "silent"
    """It accepted the connection and did not answer in time."""


class HealthProbe:
    """Asks one engine's health path; a context manager that holds the HTTP session."""

    def __init__(self, address: EngineAddress, path: str) -> None:
        self._url = address.base_url + path
        self._session = engine_session(address)

    async def ask(self, timeout_s: float) -> Answer:
        """Ask once; never fails."""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.get(self._url, timeout=timeout) as response:
                return Answer.OK if response.status == 200 else Answer.NOT_YET
        except (asyncio.TimeoutError, TimeoutError):
            return Answer.SILENT
        except (aiohttp.ClientError, OSError):
            return Answer.REFUSED

    async def __aenter__(self) -> HealthProbe:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()


@dataclass(frozen=True)
class StartLimits:
    """How long a start may take; neither time runs while bytes still move.

    Attributes:
        total_s: All the time without movement together.
        stalled_s: The longest time without movement.
        probe_timeout_s: One question.
        measure_interval_s: Between two looks at the bytes.
    """

    total_s: float = 600.0
    stalled_s: float = 120.0
    probe_timeout_s: float = 5.0
    measure_interval_s: float = MEASURE_INTERVAL_S


async def wait_until_ready(
    probe: HealthProbe,
    measure: Measure,
    limits: StartLimits,
    is_ours: Callable[[], Awaitable[bool]],
) -> str | None:
    """Ask until the engine answers 200.

    Args:
        probe: Whom to ask.
        measure: The figures that tell whether it is still loading.
        limits: When to give up.
        is_ours: Asked once it answers 200: whether it is our engine that does.

    Returns:
        None once it is ready, else what was waited for in vain.
    """
    clock = StallClock(time.monotonic())
    measured_at = float("-inf")
    pause_s = POLL_FIRST_S
    while True:
        answer = await probe.ask(limits.probe_timeout_s)
        if answer is Answer.OK and await is_ours():
            return None
        if time.monotonic() - measured_at >= limits.measure_interval_s:
            usage = await measure()
            measured_at = time.monotonic()
            clock.tick(measured_at, usage.moved_bytes)
            if clock.stalled_s >= limits.stalled_s:
                return f"it read nothing for {clock.stalled_s:.0f} s and was not ready"
            if clock.total_stalled_s >= limits.total_s:
                return (
                    f"it was not ready after {clock.total_stalled_s:.0f} s, "
                    "the time in which it read its model not counted"
                )
        await asyncio.sleep(pause_s)
        pause_s = min(POLL_MAX_S, pause_s * POLL_GROWTH)


async def watch_liveness(
    probe: HealthProbe,
    measure: Measure,
    activity: Callable[[], int],
    *,
    interval_s: float,
    timeout_s: float,
    limits: LivenessLimits,
) -> str:
    """Ask a ready engine again and again; returns, with the reason, only when it hangs.

    Args:
        probe: Whom to ask.
        measure: Taken only around a missing answer: it costs more than the question.
        activity: A figure that changes whenever the engine served something.
        interval_s: Between two questions.
        timeout_s: One question; an answer that takes longer counts as none.
        limits: How many missing answers are too many.
    """
    count = LivenessCount()
    before: tuple[TreeUsage, int, float] | None = None
    since = time.monotonic()
    while True:
        await asyncio.sleep(interval_s)
        answer = await probe.ask(timeout_s)
        if answer in (Answer.OK, Answer.NOT_YET):
            judge_liveness(count, answered=True, moved=False, is_busy=False, limits=limits)
            before, since = None, time.monotonic()
            continue
        usage, served, now = await measure(), activity(), time.monotonic()
        moved = is_busy = False
        if before is not None:
            used, had_served, then = before
            moved = served != had_served or usage.moved_bytes - used.moved_bytes >= MOVED_BYTES
            is_busy = usage.cpu_s - used.cpu_s >= BUSY_SHARE * (now - then)
        before = usage, served, now
        if judge_liveness(count, answered=False, moved=moved, is_busy=is_busy, limits=limits):
            return f"it answered no health question for {now - since:.0f} s"
