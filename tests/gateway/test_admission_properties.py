"""Whatever arrives, ends, leaves and times out in whatever order: what always holds of admission."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.errors import RequestError
from common.gateway.admission import Admission
from common.gateway.waiting_room import PLACES_PER_HELD, PLACES_PER_LEVEL, WaitingRoom

KEYS = st.sampled_from("abcd")
PRIORITIES = st.integers(-1, 2)


@dataclass(eq=False)
class Request:
    """One client's request."""

    key: str
    priority: int
    task: asyncio.Task[None] | None = None
    is_cancelled: bool = False

    @property
    def has_place(self) -> bool:
        task = self.task
        if task is None:
            return True
        return task.done() and not task.cancelled() and task.exception() is None

    @property
    def is_over(self) -> bool:
        return self.task is not None and self.task.done() and not self.has_place


@dataclass
class Timers:
    """A clock that stands until it is told to move."""

    now: float = 0.0
    due: list[Timer] = field(default_factory=list)

    def call_later(self, delay_s: float, callback: object) -> Timer:
        timer = Timer(self.now + delay_s, callback)
        self.due.append(timer)
        return timer

    def move(self, by_s: float) -> None:
        self.now += by_s
        ready = [timer for timer in self.due if timer.at <= self.now]
        self.due = [timer for timer in self.due if timer.at > self.now]
        for timer in ready:
            if not timer.is_cancelled:
                timer.callback()  # type: ignore[operator]


@dataclass
class Timer:
    at: float
    callback: object
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


class AdmissionMachine(RuleBasedStateMachine):
    """Clients of one model; tasks only run in `step`, so that everything else may come in between."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._failed)
        self.failures: list[object] = []
        self.timers = Timers()
        self.requests: list[Request] = []

    def _failed(self, _: object, context: dict[str, object]) -> None:
        self.failures.append(context)

    @initialize(limit=st.integers(1, 4), room=st.integers(0, 6), wait=st.sampled_from([None, 2.0]))
    def begin(self, limit: int, room: int, wait: float | None) -> None:
        self.limit = limit
        self.admission = Admission(
            "m", limit, max_waiting=room, max_wait_s=wait, call_later=self.timers.call_later
        )

    @rule(key=KEYS, priority=PRIORITIES)
    def arrive(self, key: str, priority: int) -> None:
        request = Request(key, priority)
        if not self.admission.try_enter(key, priority):
            request.task = self.loop.create_task(self.admission.wait(key, priority))
        self.requests.append(request)

    @precondition(lambda self: any(r.has_place for r in self.requests))
    @rule(data=st.data(), service_s=st.floats(0, 100))
    def end(self, data: st.DataObject, service_s: float) -> None:
        request = data.draw(st.sampled_from([r for r in self.requests if r.has_place]))
        self.requests.remove(request)
        self.admission.leave(service_s, request.key)

    @precondition(lambda self: any(r.task and not r.task.done() for r in self.requests))
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        waiting = [r for r in self.requests if r.task and not r.task.done()]
        request = data.draw(st.sampled_from(waiting))
        assert request.task is not None
        request.is_cancelled = request.task.cancel()

    @rule(by_s=st.sampled_from([0.5, 1.0, 3.0]))
    def pass_time(self, by_s: float) -> None:
        self.timers.move(by_s)

    @rule()
    def step(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))

    @rule()
    def settle(self) -> None:
        for _ in range(4):
            self.step()
        for request in [r for r in self.requests if r.is_over]:
            self.requests.remove(request)
            assert request.task is not None
            if request.task.cancelled():
                assert request.is_cancelled
                continue
            error = request.task.exception()
            assert isinstance(error, RequestError)
            assert error.http_status in (429, 503)
            assert error.retry_after_s is not None
            assert 1 <= error.retry_after_s <= 30
        # Everybody is accounted for: those with a place hold one, the rest waits, and nobody waits
        # while a place is free.
        holding = sum(r.has_place for r in self.requests)
        assert self.admission.in_flight == holding
        assert self.admission.waiting == len(self.requests) - holding
        assert self.admission.waiting == 0 or holding == self.limit

    @invariant()
    def never_above_the_limit(self) -> None:
        if hasattr(self, "admission"):
            assert 0 <= self.admission.in_flight <= self.limit
            assert self.admission.waiting <= self.admission.max_waiting
        assert self.failures == []

    def teardown(self) -> None:
        try:
            self._finish()
        finally:
            self.loop.close()

    def _finish(self) -> None:
        """All who wait get in when the others end, and then nobody is left."""
        if not hasattr(self, "admission"):
            return
        self.settle()
        while self.requests:
            request = next(r for r in self.requests if r.has_place)
            self.requests.remove(request)
            self.admission.leave(0.1, request.key)
            self.settle()
        assert (self.admission.in_flight, self.admission.waiting) == (0, 0)
        assert self.failures == []


AdmissionMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
TestAdmission = AdmissionMachine.TestCase

Arrivals = list[tuple[str, int]]
ARRIVALS = st.lists(st.tuples(KEYS, PRIORITIES), max_size=30)
HELD = st.dictionaries(KEYS, st.integers(0, 4))


@given(before=ARRIVALS, after=ARRIVALS, key=KEYS, held=HELD)
def test_a_waiter_is_served_within_a_bound_whoever_comes_after(
    before: Arrivals, after: Arrivals, key: str, held: dict[str, int]
) -> None:
    """The bound follows from the counters: levels above, keys at the same, those ahead in the line."""
    room: WaitingRoom[str] = WaitingRoom()
    for other, priority in before:
        room.add(other, priority, "other")
    room.add(key, 0, "this")
    ahead = sum(1 for arrival in before if arrival == (key, 0))
    most_held = max([*held.values(), 0])
    # Places of this priority until the waiter's turn, each line's turn among its keys bounded...
    turns = (ahead + 1) * (most_held * PLACES_PER_HELD + 4)
    # ...and all places until this priority has got so many: at most two levels above it, one below.
    bound = turns * (2 * PLACES_PER_LEVEL + 4)
    for number in range(bound):
        if room.take(held)[1] == "this":
            return
        for other, priority in after[number % len(after) :][:1] if after else []:
            room.add(other, priority, "other")
        room.add(
            "b", 2, "other"
        )  # there is always one of the highest priority, of a key of its own
    raise AssertionError(f"not served within {bound} places")


@given(
    waiting=st.dictionaries(KEYS, st.integers(1, 12), min_size=2),
    places=st.integers(1, 20),
)
def test_places_are_shared_evenly_while_all_keys_have_waiters(
    waiting: dict[str, int], places: int
) -> None:
    """No two keys that still wait differ by more than one place."""
    room: WaitingRoom[str] = WaitingRoom()
    for key, count in waiting.items():
        for _ in range(count):
            room.add(key, 0, key)
    held = dict.fromkeys(waiting, 0)
    for _ in range(min(places, len(room))):
        key, _ = room.take(held)
        held[key] += 1
        left = [held[k] for k in waiting if held[k] < waiting[k]]
        assert not left or max(held.values()) - min(left) <= 1


@given(arrivals=ARRIVALS, leaving=st.sets(st.integers(0, 29)))
def test_who_leaves_is_not_served_and_who_stays_is_in_the_order_of_its_key(
    arrivals: Arrivals, leaving: set[int]
) -> None:
    room: WaitingRoom[int] = WaitingRoom()
    tickets = [room.add(key, priority, n) for n, (key, priority) in enumerate(arrivals)]
    for number in leaving & set(range(len(arrivals))):
        assert room.remove(tickets[number])
        assert not room.remove(tickets[number])
    served = [room.take({})[1] for _ in range(len(room))]
    assert sorted(served) == sorted(set(range(len(arrivals))) - leaving)
    for line in set(arrivals):
        mine = [n for n in served if arrivals[n] == line]
        assert mine == sorted(mine)
    assert len(room) == 0
