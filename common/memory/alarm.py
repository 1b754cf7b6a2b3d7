"""What the scheduler's loop sleeps on: woken at once by an event, or at a time that was set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MIN_DELAY_S = 0.005
"""Between setting a time and waking: times that are due already must not make the loop spin."""


class Alarm:
    """Wakes one task. What rings while the task is busy is kept for its next `wait`.

    Args:
        now: The clock, in seconds; it must run as fast as the event loop's.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._is_rung = False
        self._at: float | None = None
        self._sleeper: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def ring(self) -> None:
        """Wake the task as soon as the event loop comes round."""
        self._is_rung = True
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def ring_at(self, at: float) -> None:
        """Wake the task at `at` on the clock, unless something does so earlier. Cheap."""
        if self._at is not None and self._at <= at:
            return
        self._at = at
        if self._sleeper is not None:
            self._set_timer()

    async def wait(self) -> None:
        """Sleep until it rings, and forget the time that was set. Other tasks get a turn anyway."""
        if self._is_rung:
            await asyncio.sleep(0)
        else:
            self._sleeper = asyncio.get_running_loop().create_future()
            self._set_timer()
            try:
                await self._sleeper
            finally:
                self._sleeper = None
                self._set_timer()
        self._is_rung = False
        self._at = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sleeper is not None and self._at is not None:
            delay = max(MIN_DELAY_S, self._at - self._now())
            self._timer = asyncio.get_running_loop().call_later(delay, self.ring)
