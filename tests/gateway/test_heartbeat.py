"""Waiting with heartbeats, given up in the moment in which what was waited for fails."""

from __future__ import annotations

import asyncio
import gc
from typing import cast

import pytest

from common.errors import CapacityError
from common.gateway.exchange import Exchange
from common.gateway.heartbeat import wait_with_heartbeats

NOBODY = cast(Exchange, None)
"""No heartbeat is due in these tests."""


async def fail_when_told() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise CapacityError("no memory") from None


async def fail_at_once() -> None:
    raise CapacityError("no memory")


async def give_up(*, turns: int, fails_at_once: bool) -> None:
    """Wait for a model and leave after some turns of the event loop."""
    work = fail_at_once() if fails_at_once else fail_when_told()
    waiting = asyncio.ensure_future(wait_with_heartbeats(NOBODY, work, 60, 60))
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()


@pytest.mark.parametrize(("turns", "fails_at_once"), [(2, True), (3, False)])
async def test_a_failure_in_the_moment_of_leaving_is_no_mistake(
    turns: int, fails_at_once: bool
) -> None:
    unhandled: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: unhandled.append(str(context))
    )
    await give_up(turns=turns, fails_at_once=fails_at_once)
    gc.collect()
    assert unhandled == []


async def test_a_failure_is_told_to_who_waits() -> None:
    with pytest.raises(CapacityError, match="no memory"):
        await wait_with_heartbeats(NOBODY, fail_at_once(), 60, 60)
