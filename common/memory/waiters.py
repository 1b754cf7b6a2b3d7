"""Requests that wait for one model to be able to answer."""

from __future__ import annotations

import asyncio
import copy

from common.errors import CapacityError, DeployError, EngineError


class Waiter:
    """One request that waits.

    Attributes:
        since: When it began to, on the scheduler's clock.
        outcome: None: the model may be used, from the very step that sets it; else the error.
    """

    __slots__ = ("outcome", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.outcome: asyncio.Future[DeployError | None] = (
            asyncio.get_running_loop().create_future()
        )


class Waiters:
    """Those of one model, oldest first. One that is released is no longer among them."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: dict[Waiter, None] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def oldest(self) -> float | None:
        """Since when the oldest waits; None: nobody does."""
        return next((waiter.since for waiter in self._waiters), None)

    def add(self, now: float) -> Waiter:
        """Begin to wait."""
        waiter = Waiter(now)
        self._waiters[waiter] = None
        return waiter

    def give_up(self, waiter: Waiter) -> bool:
        """End one wait from the waiter's side; False if it was released before."""
        if waiter in self._waiters:
            del self._waiters[waiter]
            return True
        return False

    def release(self, error: DeployError | None = None) -> None:
        """End all waits: the model may be used, or what was waited for failed."""
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            waiter.outcome.set_result(one_more(error))


def one_more(error: DeployError | None) -> DeployError | None:
    """Return the error for one more to raise: an instance raised twice collects both tracebacks."""
    # Others are made from other arguments than their text, which a copy is made with.
    return copy.copy(error) if isinstance(error, (CapacityError, EngineError)) else error
