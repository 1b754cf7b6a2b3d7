"""Requests as the gateway makes them: a place first, then the wait for the model, then the engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from common.memory.scheduler import MemoryScheduler


class Requests:
    """All requests of one model."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.queued = 0
        self.last_used = 0.0
        self.at_engine = 0


@dataclass
class Request:
    """One request.

    Attributes:
        model: The model's name.
        begun_at: When it came.
        served_at: When its engine had it; None: never.
        ended_at: When it was answered, refused or dropped.
        error: Why it was refused.
    """

    gateway: Gateway
    model: str
    begun_at: float
    served_at: float | None = None
    ended_at: float | None = None
    error: Exception | None = None
    task: asyncio.Task[None] | None = None
    _is_over: bool = field(default=False, repr=False)

    def client_leaves(self) -> None:
        """As the gateway does it: the place is given back first, then the task is cancelled."""
        self._end()
        assert self.task is not None
        self.task.cancel()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            loop = asyncio.get_running_loop()
            self.ended_at = loop.time()
            if self.served_at is not None:
                self.gateway.requests[self.model].at_engine -= 1
            self.gateway.give_back(self.model)

    async def run(self, seconds: float, timeout_s: float | None) -> None:
        """Be served for so long, after waiting at most so long."""
        gateway, loop = self.gateway, asyncio.get_running_loop()
        try:
            if not gateway.scheduler.is_open(self.model):
                # In a task of its own, as for a stream that gets heartbeats.
                wait = loop.create_task(gateway.scheduler.ensure_ready(self.model, timeout_s))
                try:
                    await asyncio.wait({wait})
                    wait.result()
                finally:
                    if not wait.done():
                        wait.cancel()
                        await asyncio.wait({wait})
            if self._is_over:
                return
            self.served_at = loop.time()
            gateway.requests[self.model].at_engine += 1
            await asyncio.sleep(seconds)
        except Exception as error:  # noqa: BLE001 - told by the one who made the request
            self.error = error
        finally:
            self._end()


class Gateway:
    """Has the requests of all models."""

    def __init__(self) -> None:
        self.scheduler: MemoryScheduler
        self.requests: dict[str, Requests] = {}

    def model(self, name: str) -> Requests:
        return self.requests.setdefault(name, Requests())

    def ask(self, model: str, seconds: float = 1.0, timeout_s: float | None = 60.0) -> Request:
        """Begin a request."""
        loop = asyncio.get_running_loop()
        requests = self.requests[model]
        requests.in_flight += 1
        requests.last_used = loop.time()
        request = Request(self, model, loop.time())
        request.task = loop.create_task(request.run(seconds, timeout_s))
        return request

    def give_back(self, model: str) -> None:
        requests = self.requests[model]
        requests.in_flight -= 1
        requests.last_used = asyncio.get_running_loop().time()
        self.scheduler.left(model)


async def finished(*requests: Request) -> None:
    """Wait for the ends of requests."""
    await asyncio.wait([request.task for request in requests if request.task is not None])
