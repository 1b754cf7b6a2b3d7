"""An event loop whose time jumps to the next timer, so that minutes pass in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class NothingWillHappenError(AssertionError):
    """Everything waits, and no timer will ever end it."""


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise NothingWillHappenError("everything waits for ever")
        self.now += max(0.0, timeout)
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Without sockets or threads."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def simulate(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end, and fail if a task is left over, or if everything waits for ever."""
    loop = SimulatedLoop()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    try:
        try:
            result = loop.run_until_complete(main)
            left = asyncio.all_tasks(loop)
            assert not left, left
        finally:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left))
        assert not errors, errors
        return result
    finally:
        loop.close()


async def turns(count: int = 20) -> None:
    """Let the event loop come round so often; no time passes."""
    for _ in range(count):
        await asyncio.sleep(0)
