"""Why an instance stops: the first reason counts, from whatever thread, and nothing holds it up."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest

from common.runtime.background import in_background
from common.runtime.stopping import StopRequest


async def test_the_first_reason_counts_and_may_come_from_any_thread() -> None:
    stop = StopRequest(asyncio.get_running_loop())
    assert not await stop.wait(0.01)
    thread = threading.Thread(target=stop.request, args=("idle", "nobody came"))
    thread.start()
    assert await stop.wait(5)
    thread.join()
    stop.request("abort", "later")
    assert stop.reason is not None
    assert (stop.reason.kind, stop.reason.text) == ("idle", "nobody came")


def test_a_request_after_the_loop_has_ended_is_no_error() -> None:
    async def make() -> StopRequest:
        return StopRequest(asyncio.get_running_loop())

    stop = asyncio.run(make())
    stop.request("abort", "too late")
    assert stop.is_set


async def test_work_is_given_up_when_a_stop_is_asked_for() -> None:
    stop = StopRequest(asyncio.get_running_loop())
    given_up = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            given_up.set()
            raise

    asyncio.get_running_loop().call_later(0.05, stop.request, "signal", "received SIGTERM")
    assert not await stop.unless_asked(work())
    assert given_up.is_set()


async def test_work_that_ends_first_is_finished_and_its_error_raised() -> None:
    stop = StopRequest(asyncio.get_running_loop())

    async def fail() -> None:
        raise LookupError("no such model")

    assert await stop.unless_asked(asyncio.sleep(0))
    with pytest.raises(LookupError, match="no such model"):
        await stop.unless_asked(fail())


async def test_a_signal_drains_and_a_second_one_leaves() -> None:
    stop = StopRequest(asyncio.get_running_loop())
    said: list[str] = []
    codes: list[int] = []
    left = asyncio.Event()

    def leave(code: int) -> None:
        codes.append(code)
        left.set()

    stop.on_signals(said.append, leave)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        assert await stop.wait(5)
        assert stop.reason is not None
        assert stop.reason.text == "received SIGTERM"
        assert codes == []
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(left.wait(), 5)
        assert codes == [128 + signal.SIGINT]
        assert "SIGINT while stopping (received SIGTERM)" in said[-1]
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)


async def test_the_abort_callback_returns_when_the_instance_has_drained() -> None:
    stop = StopRequest(asyncio.get_running_loop())
    callback = stop.on_abort(lambda line: None, timeout_s=30)
    thread = threading.Thread(target=callback, daemon=True)
    thread.start()
    assert await stop.wait(5)
    assert stop.reason is not None
    assert stop.reason.kind == "abort"
    assert thread.is_alive()
    stop.finished.set()
    thread.join(5)
    assert not thread.is_alive()


async def test_a_background_call_returns_and_raises() -> None:
    assert await in_background(int, "2a", base=16) == 42
    with pytest.raises(ValueError, match="invalid literal"):
        await in_background(int, "x")


def test_the_end_of_the_loop_does_not_wait_for_a_call_that_hangs() -> None:
    hang = threading.Event()

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(in_background(hang.wait, 30), 0.05)

    started = time.monotonic()
    try:
        asyncio.run(main())
        assert time.monotonic() - started < 5
    finally:
        hang.set()
