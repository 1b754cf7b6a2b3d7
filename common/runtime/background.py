"""Blocking calls beside the event loop, which neither it nor the end of the process waits for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_background(function: Callable[..., T], *args: Any, **named: Any) -> T:
    """Call a function on a daemon thread of its own and wait for its result.

    `asyncio.to_thread` uses a pool that the loop waits for when it ends: a look-up or a download that
    hangs in the network would hold up the shutdown. A cancelled wait leaves the thread to itself.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    def work() -> None:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = function(*args, **named)
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=work, name=f"background {function!r:.60}", daemon=True).start()
    return await outcome
