"""Whether a model takes one more request: places, a bounded waiting room, and who is next in it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol

from common.errors import RequestError
from common.gateway.waiting_room import Ticket, WaitingRoom

# Weight of the newest request in the moving mean of the service time: about the last ten count.
MEAN_WEIGHT = 0.2
FIRST_MEAN_S = 1.0
"""What a request is taken to last until one has ended."""
MAX_RETRY_AFTER_S = 30.0
DRAIN_RETRY_AFTER_S = 10.0
"""A drained instance does not come back itself; another one behind the same route may."""


class Timer(Protocol):
    """A call to come, as `asyncio.TimerHandle`."""

    def cancel(self) -> None:
        """Do not call."""


CallLater = Callable[[float, Callable[[], None]], Timer]
"""As `asyncio.AbstractEventLoop.call_later`, with a delay in seconds."""


class Admission:
    """The places of one model. Not thread-safe: one event loop.

    A request calls `try_enter`, and `wait` if that says no; after either let it in, `leave` must
    follow exactly once, with the same key. A place that becomes free is handed to a waiter at once,
    so there is never a free place while somebody waits.

    Args:
        model: Served model name, for messages.
        limit: Places (*Max Concurrent Requests*); None: no limit.
        max_waiting: Requests that may wait for a place; 0: those beyond the limit are denied.
        max_wait_s: Longest wait in seconds; None: no limit.
        call_later: The clock; None: the running event loop's.
    """

    __slots__ = (
        "_call_later",
        "_held",
        "_mean_s",
        "_room",
        "in_flight",
        "limit",
        "max_wait_s",
        "max_waiting",
        "model",
    )

    def __init__(
        self,
        model: str,
        limit: int | None,
        *,
        max_waiting: int = 0,
        max_wait_s: float | None = None,
        call_later: CallLater | None = None,
    ) -> None:
        self.model = model
        self.limit = limit
        self.max_waiting = max_waiting
        self.max_wait_s = max_wait_s
        self.in_flight = 0
        self._call_later = call_later
        self._held: dict[str, int] = {}
        self._room: WaitingRoom[asyncio.Future[bool]] = WaitingRoom()
        self._mean_s: float | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._room)

    @property
    def has_room(self) -> bool:
        """Whether one more request may wait."""
        return len(self._room) < self.max_waiting

    def try_enter(self, key: str, priority: int) -> bool:
        """Take a place if one is free; nobody who waits is overtaken by it.

        Args:
            key: Name of the API key; "" where there are none.
            priority: Of the key; of no account here, as a free place means that nobody waits.
        """
        if self.limit is None:
            self.in_flight += 1
            return True
        if self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        self._held[key] = self._held.get(key, 0) + 1
        return True

    async def wait(self, key: str, priority: int) -> None:
        """Take a place as soon as it is this request's turn.

        A cancelled wait frees its place in the room, or the one that it was just given.

        Args:
            key: Name of the API key; keys share a saturated model evenly.
            priority: Of the key; higher comes first.

        Raises:
            RequestError: 429 if the room is full, 503 after `max_wait_s`; both with the time after
                which a place should be free.
        """
        if self.try_enter(key, priority):
            return
        if not self.has_room:
            raise self._full()
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        ticket = self._room.add(key, priority, turn)
        timer: Timer | None = None
        if self.max_wait_s is not None:
            call_later: CallLater = self._call_later or loop.call_later
            timer = call_later(self.max_wait_s, lambda: self._expire(ticket, turn))
        try:
            has_place = await turn
        except asyncio.CancelledError:
            # The place may have come before the cancellation got here.
            if not self._room.remove(ticket) and not turn.cancelled() and turn.result():
                self._release(key)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if not has_place:
            raise self._too_long()

    def leave(self, service_s: float, key: str) -> None:
        """Give the place back.

        Args:
            service_s: How long it was held, in seconds.
            key: As at the entry.
        """
        mean = self._mean_s
        self._mean_s = service_s if mean is None else mean + MEAN_WEIGHT * (service_s - mean)
        if self.limit is None:
            self.in_flight -= 1
        else:
            self._release(key)

    def retry_after_s(self) -> float:
        """Return when there should be a place for one more, in seconds.

        `limit` places, each free again after the mean service time, serve those who wait and one more.
        """
        mean = FIRST_MEAN_S if self._mean_s is None else self._mean_s
        turns = (len(self._room) + 1) / (self.limit or 1)
        return float(min(MAX_RETRY_AFTER_S, max(1, math.ceil(turns * mean))))

    def _hold(self, key: str) -> None:
        self.in_flight += 1
        self._held[key] = self._held.get(key, 0) + 1

    def _release(self, key: str) -> None:
        self.in_flight -= 1
        held = self._held[key] - 1
        if held:
            self._held[key] = held
        else:
            del self._held[key]
        while self._room:
            next_key, turn = self._room.take(self._held)
            if not turn.done():  # a cancelled one stands there until its task runs
                self._hold(next_key)
                turn.set_result(True)
                return

    def _expire(self, ticket: Ticket, turn: asyncio.Future[bool]) -> None:
        if self._room.remove(ticket) and not turn.done():
            turn.set_result(False)

    def _full(self) -> RequestError:
        limit = self.limit or 0
        waiting = ""
        if self.max_waiting:
            verb = "waits" if len(self._room) == 1 else "wait"
            waiting = f", and {len(self._room)} more {verb} (Max Waiting Requests)"
        return RequestError(
            f"The model {self.model!r} is at its limit of {limit} concurrent "
            f"request{'s' if limit != 1 else ''} (Max Concurrent Requests){waiting}; "
            "try again shortly.",
            status=429,
            error_type="rate_limit_error",
            code="too_many_requests",
            retry_after_s=self.retry_after_s(),
        )

    def _too_long(self) -> RequestError:
        return RequestError(
            f"The request waited {self.max_wait_s:g} s (Max Queue) for a place at the model "
            f"{self.model!r}, which is at its limit of {self.limit} concurrent "
            f"request{'s' if self.limit != 1 else ''} (Max Concurrent Requests); try again later.",
            status=503,
            error_type="server_error",
            code="queue_timeout",
            retry_after_s=self.retry_after_s(),
        )


def refuse_draining() -> RequestError:
    """Return the 503 of an instance that finishes its last requests."""
    return RequestError(
        "This instance is shutting down and takes no new requests.",
        status=503,
        error_type="server_error",
        code="draining",
        retry_after_s=DRAIN_RETRY_AFTER_S,
    )
