"""Keep a streaming client's connection alive while its model loads."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from common.gateway.exchange import Exchange

COMMENT = b": the model is not ready yet, please wait\n\n"
"""An SSE comment: clients skip it, proxies see traffic."""


async def wait_with_heartbeats(
    exchange: Exchange, ready: Coroutine[Any, Any, None], after_s: float, every_s: float
) -> None:
    """Wait for `ready`, sending SSE comments when it takes long.

    The first comment commits the exchange to status 200. Cancelling this call (the client left)
    cancels `ready`.

    Args:
        exchange: Gets its answer begun by the first comment.
        ready: What to wait for.
        after_s: Seconds until the first comment.
        every_s: Seconds between two comments.

    Raises:
        Exception: Whatever `ready` raises.
    """
    task = asyncio.ensure_future(ready)
    task.add_done_callback(_take_note)
    try:
        await asyncio.wait({task}, timeout=after_s)
        while not task.done():
            exchange.send_comment(COMMENT)
            await asyncio.wait({task}, timeout=every_s)
        task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def _take_note(task: asyncio.Task[None]) -> None:
    """Take note of an error that nobody may ask for: the client left in the moment of the failure."""
    if not task.cancelled():
        task.exception()
