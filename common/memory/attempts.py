"""Work that may hang or fail, and work that must come to its end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from common.errors import DeployError

T = TypeVar("T")

# How long work that is given up may take to notice.
_LEAVE_S = 1.0


class GivenUpError(DeployError):
    """Work took too long, or what it worked on has ended."""

    code = "given_up"


async def attempt(
    work: Awaitable[None], timeout_s: float, ended: Awaitable[object] | None = None
) -> Exception | None:
    """Do something for so long at most.

    Args:
        work: What to do; cancelled when it is given up.
        timeout_s: How long it may take.
        ended: Ends when what is worked on has: there is nothing to wait for then.

    Returns:
        What went wrong; None: it is done.
    """
    working: asyncio.Future[Any] = asyncio.ensure_future(work)
    others: set[asyncio.Future[Any]] = (
        {asyncio.ensure_future(ended)} if ended is not None else set()
    )
    try:
        await asyncio.wait(
            {working, *others}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not working.done():
            has_ended = any(other.done() for other in others)
            words = "the engine ended" if has_ended else f"it took more than {timeout_s:g} s"
            return GivenUpError(words)
        if working.cancelled():
            return GivenUpError("it was broken off")
        error = working.exception()
        if error is not None and not isinstance(error, Exception):
            raise error
        return error
    finally:
        for task in (working, *others):
            task.cancel()
        working.add_done_callback(_forget)
        # Shielded by nothing: a second cancellation leaves it to itself.
        await asyncio.wait({working, *others}, timeout=_LEAVE_S)


def _forget(working: asyncio.Future[Any]) -> None:
    """Take note of what nobody asks for any more."""
    if not working.cancelled():
        working.exception()


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Carry out bounded work although the caller is cancelled; the cancellation goes on afterwards."""
    working = asyncio.get_running_loop().create_task(work)
    is_cancelled = False
    while not working.done():
        try:
            await asyncio.wait({working})
        except asyncio.CancelledError:
            is_cancelled = True
    if is_cancelled:
        _forget(working)
        raise asyncio.CancelledError
    return working.result()


def on_a_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Call on a daemon thread: neither the loop nor the process waits for a disk that hangs."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            tell(outcome.set_exception, error)
        else:
            tell(outcome.set_result, result)

    def settle(setter: Callable[[Any], None], value: object) -> None:
        if not outcome.done():
            setter(value)

    def tell(setter: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(settle, setter, value)

    threading.Thread(target=run, name="memory-work", daemon=True).start()
    return outcome
