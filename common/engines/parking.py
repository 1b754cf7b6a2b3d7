"""Leaving a ready engine alone for a while: asleep or checkpointed, it may answer nothing.

A parked engine is not asked whether it lives, and is not started again when it ends. Others leave
their wish in `Parking`; the loop that follows the engine (`Parking.follow`) alone carries it out.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from common.engines.readiness import Answer, HealthProbe

# Between two questions to an engine that is woken.
_ASK_AGAIN_S = 0.05


class Outcome(enum.Enum):
    """What came of a wish."""

    DONE = "done"
    SILENT = "silent"
    """The engine did not answer in time; it stays parked."""
    ENDED = "ended"
    """The engine ended, or was stopped."""


@dataclass
class _Wish:
    """Leave the engine alone; or, with a time, watch it again if it answers within that."""

    answer_within_s: float | None = None
    outcome: asyncio.Future[Outcome] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Parking:
    """Whether one run of an engine is left alone.

    Args:
        on_change: Called with True when it is parked, False when it is watched again.
    """

    def __init__(self, on_change: Callable[[bool], None]) -> None:
        self._on_change = on_change
        # The first one stays in line until it is carried out, so that none is lost with a task.
        self._wishes: deque[_Wish] = deque()
        self._is_wished = asyncio.Event()
        self._is_over = False
        self.is_parked = False

    async def park(self) -> Outcome:
        """Have the engine left alone from now on."""
        return await self._wish(_Wish())

    async def unpark(self, timeout_s: float) -> Outcome:
        """Have the engine watched again, once it answers 200 within `timeout_s`.

        A call that is cancelled leaves it parked.
        """
        return await self._wish(_Wish(timeout_s))

    async def _wish(self, wish: _Wish) -> Outcome:
        if self._is_over:
            return Outcome.ENDED
        self._wishes.append(wish)
        self._is_wished.set()
        try:
            await asyncio.wait({wish.outcome})
        finally:
            wish.outcome.cancel()  # does nothing to one that is known
        return wish.outcome.result()

    def close(self) -> None:
        """Say that the run is over: no wish is carried out any more."""
        self._is_over = True
        for wish in self._wishes:
            if not wish.outcome.done():
                wish.outcome.set_result(Outcome.ENDED)
        self._wishes.clear()

    async def follow(
        self, watch: Callable[[], Coroutine[Any, Any, str]], probe: HealthProbe
    ) -> str:
        """Watch a ready engine, and leave it alone while it is parked.

        Args:
            watch: Asks the engine for as long as it lives; returns when it hangs.
            probe: Asks one that is to be watched again.

        Returns:
            Why it is held to be hung.
        """
        while True:
            hung = await self._watch_until_parked(watch)
            if hung is not None:
                return hung
            await self._rest(probe)

    async def _watch_until_parked(
        self, watch: Callable[[], Coroutine[Any, Any, str]]
    ) -> str | None:
        loop = asyncio.get_running_loop()
        watching = loop.create_task(watch())
        wishing = loop.create_task(self._is_wished.wait())
        try:
            while not self.is_parked:
                await asyncio.wait({wishing, watching}, return_when=asyncio.FIRST_COMPLETED)
                if not wishing.done():
                    return watching.result()
                while (wish := self._first_wish()) and not self.is_parked:
                    if wish.answer_within_s is None:
                        self._set_parked(True)
                    wish.outcome.set_result(Outcome.DONE)
                wishing.cancel()
                wishing = loop.create_task(self._is_wished.wait())
            return None
        finally:
            for task in (watching, wishing):
                task.cancel()
            await asyncio.gather(watching, wishing, return_exceptions=True)

    def _first_wish(self) -> _Wish | None:
        """The first wish in line that is open; None, and nothing to wait for, if there is none."""
        while self._wishes and self._wishes[0].outcome.done():
            self._wishes.popleft()
        if self._wishes:
            return self._wishes[0]
        self._is_wished.clear()
        return None

    async def _rest(self, probe: HealthProbe) -> None:
        """Leave the engine alone until it is to be watched again, and answers."""
        while self.is_parked:
            await self._is_wished.wait()
            wish = self._first_wish()
            if wish is None:
                continue
            answers = True
            if wish.answer_within_s is not None:
                answers = await _answers(probe, wish.answer_within_s, wish.outcome)
                if wish.outcome.done():
                    continue
                if answers:
                    self._set_parked(False)
            wish.outcome.set_result(Outcome.DONE if answers else Outcome.SILENT)

    def _set_parked(self, is_parked: bool) -> None:
        self.is_parked = is_parked
        self._on_change(is_parked)


async def _answers(probe: HealthProbe, timeout_s: float, wanted: asyncio.Future[Outcome]) -> bool:
    """Ask until the engine answers 200, the time is over, or nobody wants to know any more."""
    loop = asyncio.get_running_loop()
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0 and not wanted.done():
        asking = loop.create_task(probe.ask(left))
        try:
            either: set[asyncio.Future[Any]] = {asking, wanted}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if asking.done() and asking.result() is Answer.OK:
                return True
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(min(_ASK_AGAIN_S, max(0.0, deadline - time.monotonic())))
    return False
