"""Places and the waiting room: who gets in, who waits, what the others are told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from gateway_harness import until

from common.errors import RequestError
from common.gateway.admission import Admission
from common.gateway.waiting_room import (
    PLACES_PER_HELD,
    PLACES_PER_LEVEL,
    Line,
    WaitingRoom,
    choose_line,
)


class ManualTimers:
    """Calls to come, made when the test says so."""

    def __init__(self) -> None:
        self.due: list[ManualTimer] = []

    def __call__(self, delay_s: float, callback: Callable[[], None]) -> ManualTimer:
        timer = ManualTimer(delay_s, callback)
        self.due.append(timer)
        return timer

    def fire(self) -> None:
        due, self.due = self.due, []
        for timer in due:
            if not timer.is_cancelled:
                timer.callback()


class ManualTimer:
    def __init__(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.delay_s = delay_s
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_without_a_limit_everybody_enters() -> None:
    admission = Admission("m", None)
    assert all(admission.try_enter("k", 0) for _ in range(1000))
    assert (admission.in_flight, admission.waiting) == (1000, 0)
    for _ in range(1000):
        admission.leave(0.1, "k")
    assert admission.in_flight == 0


async def test_without_a_room_the_one_over_the_limit_is_denied() -> None:
    admission = Admission("m", 2)
    assert admission.try_enter("a", 0)
    assert admission.try_enter("b", 0)
    assert not admission.try_enter("c", 0)
    with pytest.raises(RequestError, match="'m' is at its limit of 2 concurrent requests") as told:
        await admission.wait("c", 0)
    assert (told.value.http_status, told.value.code) == (429, "too_many_requests")
    assert (admission.in_flight, admission.waiting) == (2, 0)


async def test_full_room_denies_and_names_both_limits() -> None:
    admission = Admission("m", 1, max_waiting=1)
    assert admission.try_enter("a", 0)
    waiter = asyncio.ensure_future(admission.wait("a", 0))
    await settle()
    with pytest.raises(
        RequestError, match="1 more waits .Max Waiting Requests.; try again"
    ) as told:
        await admission.wait("b", 0)
    assert told.value.http_status == 429
    admission.leave(0.1, "a")
    await waiter
    assert (admission.in_flight, admission.waiting) == (1, 0)


async def test_wait_that_lasts_too_long_is_503() -> None:
    timers = ManualTimers()
    admission = Admission("m", 1, max_waiting=5, max_wait_s=30.0, call_later=timers)
    assert admission.try_enter("a", 0)
    waiter = asyncio.ensure_future(admission.wait("a", 0))
    await settle()
    assert [timer.delay_s for timer in timers.due] == [30.0]
    timers.fire()
    with pytest.raises(RequestError, match="waited 30 s .* 'm'") as told:
        await waiter
    assert (told.value.http_status, told.value.code) == (503, "queue_timeout")
    assert told.value.retry_after_s is not None
    assert (admission.in_flight, admission.waiting) == (1, 0)


async def test_timer_ends_with_the_wait() -> None:
    timers = ManualTimers()
    admission = Admission("m", 1, max_waiting=5, max_wait_s=30.0, call_later=timers)
    assert admission.try_enter("a", 0)
    waiter = asyncio.ensure_future(admission.wait("a", 0))
    await settle()
    admission.leave(0.1, "a")
    await waiter
    assert [timer.is_cancelled for timer in timers.due] == [True]


async def test_the_event_loops_own_clock_ends_a_wait() -> None:
    admission = Admission("m", 1, max_waiting=1, max_wait_s=0.01)
    assert admission.try_enter("a", 0)
    with pytest.raises(RequestError, match="waited"):
        await admission.wait("a", 0)


async def test_client_that_leaves_frees_its_place_in_the_room() -> None:
    admission = Admission("m", 1, max_waiting=1)
    assert admission.try_enter("a", 0)
    waiter = asyncio.ensure_future(admission.wait("a", 0))
    await settle()
    waiter.cancel()
    await settle()
    assert (admission.in_flight, admission.waiting) == (1, 0)
    admission.leave(0.1, "a")
    assert admission.try_enter("b", 0)


async def test_place_given_to_a_client_that_just_left_goes_on_to_the_next() -> None:
    admission = Admission("m", 1, max_waiting=2)
    assert admission.try_enter("a", 0)
    leaving, staying = (asyncio.ensure_future(admission.wait("a", 0)) for _ in range(2))
    await settle()
    admission.leave(0.1, "a")  # gives the place to the first, whose task has not run yet
    leaving.cancel()
    await settle()
    assert leaving.cancelled()
    assert staying.done()
    assert (admission.in_flight, admission.waiting) == (1, 0)


async def test_place_is_not_given_to_a_client_whose_cancellation_is_on_its_way() -> None:
    admission = Admission("m", 1, max_waiting=2)
    assert admission.try_enter("a", 0)
    leaving, staying = (asyncio.ensure_future(admission.wait("a", 0)) for _ in range(2))
    await settle()
    leaving.cancel()
    admission.leave(0.1, "a")
    await settle()
    assert leaving.cancelled()
    assert staying.done()
    assert (admission.in_flight, admission.waiting) == (1, 0)


async def test_wait_that_ends_as_its_client_leaves_is_accounted_for_once() -> None:
    timers = ManualTimers()
    admission = Admission("m", 1, max_waiting=2, max_wait_s=1.0, call_later=timers)
    assert admission.try_enter("a", 0)
    for cancel_first in (True, False):
        waiter = asyncio.ensure_future(admission.wait("a", 0))
        await settle()
        steps = [waiter.cancel, timers.fire]
        for step in steps if cancel_first else reversed(steps):
            step()
        await settle()
        assert waiter.cancelled()
        assert (admission.in_flight, admission.waiting) == (1, 0)


def test_retry_after_follows_the_recent_rate() -> None:
    admission = Admission("m", 4)
    assert admission.retry_after_s() == 1.0
    for _ in range(4):
        assert admission.try_enter("a", 0)
    admission.leave(40.0, "a")
    assert admission.retry_after_s() == 10.0  # four places, each for 40 s
    for _ in range(30):
        assert admission.try_enter("a", 0)
        admission.leave(0.5, "a")
    assert admission.retry_after_s() == 1.0
    assert admission.try_enter("a", 0)
    admission.leave(10_000.0, "a")
    assert admission.retry_after_s() == 30.0


async def test_retry_after_counts_those_who_wait() -> None:
    admission = Admission("m", 1, max_waiting=4)
    assert admission.try_enter("a", 0)
    admission.leave(2.0, "a")
    assert admission.try_enter("a", 0)
    waiters = [asyncio.ensure_future(admission.wait("a", 0)) for _ in range(4)]
    await settle()
    with pytest.raises(RequestError) as told:
        await admission.wait("b", 0)
    assert told.value.retry_after_s == 10.0
    for waiter in waiters:
        waiter.cancel()
    await until(lambda: admission.waiting == 0)


def order_of(room: WaitingRoom[str], places: int, held: Counter[str]) -> list[str]:
    """Who gets the next places when each is held for ever."""
    got = []
    for _ in range(places):
        key, name = room.take(held)
        held[key] += 1
        got.append(name)
    return got


def test_one_key_is_first_in_first_out() -> None:
    room: WaitingRoom[str] = WaitingRoom()
    for name in "abcd":
        room.add("k", 0, name)
    assert order_of(room, 4, Counter()) == ["a", "b", "c", "d"]
    assert len(room) == 0


def test_keys_take_turns_however_many_requests_one_of_them_has_waiting() -> None:
    room: WaitingRoom[str] = WaitingRoom()
    for number in range(50):
        room.add("flood", 0, f"flood{number}")
    room.add("x", 0, "x0")
    room.add("x", 0, "x1")
    room.add("y", 0, "y0")
    assert order_of(room, 6, Counter()) == ["flood0", "x0", "y0", "flood1", "x1", "flood2"]


def test_key_that_holds_fewer_places_comes_first() -> None:
    room: WaitingRoom[str] = WaitingRoom()
    room.add("many", 0, "many")
    room.add("few", 0, "few")
    assert order_of(room, 2, Counter(many=3, few=1)) == ["few", "many"]


def test_higher_priority_comes_first() -> None:
    room: WaitingRoom[str] = WaitingRoom()
    room.add("low", 0, "low")
    room.add("negative", -3, "negative")
    for number in range(3):
        room.add("high", 5, f"high{number}")
    got = order_of(room, 5, Counter(high=7))
    assert got == ["high0", "high1", "high2", "low", "negative"]


@pytest.mark.parametrize("levels", [1, 2])
def test_lower_priority_gets_its_share_of_the_places(levels: int) -> None:
    room: WaitingRoom[str] = WaitingRoom()
    for number in range(400):
        room.add(f"high{number % 3}", levels, "high")
    for _ in range(100):
        room.add("low", 0, "low")
    got = [room.take({})[1] for _ in range((levels * PLACES_PER_LEVEL + 1) * 10)]
    assert got.count("low") == 10
    assert got[: levels * PLACES_PER_LEVEL] == ["high"] * levels * PLACES_PER_LEVEL


def test_key_with_a_long_request_is_not_passed_by_for_ever() -> None:
    room: WaitingRoom[str] = WaitingRoom()
    room.add("long", 0, "long")
    got = []
    for number in range(PLACES_PER_HELD + 1):  # each a new key that holds nothing
        room.add(f"new{number}", 0, f"new{number}")
        got.append(room.take({"long": 1})[1])
    assert got == [*(f"new{number}" for number in range(PLACES_PER_HELD)), "long"]


def test_choice_is_of_the_lines_alone() -> None:
    lines = [
        Line("a", 1, held=2, passed=0, first=1),
        Line("b", 1, held=1, passed=0, first=3),
        Line("c", 1, held=1, passed=0, first=2),
        Line("d", 0, held=0, passed=9, first=0),
    ]
    assert choose_line(lines, {1: 0, 0: 0}).key == "c"
    assert choose_line(lines, {1: 0, 0: PLACES_PER_LEVEL - 1}).key == "c"
    assert choose_line(lines, {1: 0, 0: PLACES_PER_LEVEL}).key == "d"
    assert choose_line(lines[:2], {1: 0}).key == "b"
