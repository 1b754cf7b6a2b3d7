"""Points keep their moment and order, whatever the server does meanwhile, within bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.clearml.events import BATCH, POINTS_LIMIT, EventBacklog
from common.errors import ServerAwayError

Event = dict[str, Any]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Takes batches, or is away."""

    def __init__(self) -> None:
        self.batches: list[list[Event]] = []
        self.is_away = False

    def __call__(self, events: list[Event]) -> None:
        if self.is_away:
            raise ServerAwayError("away")
        self.batches.append(events)

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]


def backlog(clock: Clock, limit: int = POINTS_LIMIT) -> EventBacklog:
    return EventBacklog(limit=limit, clock=clock, wall=lambda: 1000.0 + clock.now)


def test_points_have_the_moment_at_which_they_were_measured() -> None:
    clock, server = Clock(), Server()
    events = backlog(clock)
    clock.now = 15.0
    events.add([("Queue", "m", 1.0)])
    clock.now = 90.0
    events.send("task", server)
    assert server.batches == [
        [
            {
                "type": "training_stats_scalar",
                "task": "task",
                "metric": "Queue",
                "variant": "m",
                "iter": 15,
                "timestamp": 1_015_000,
                "value": 1.0,
            }
        ]
    ]
    assert events.is_empty


def test_two_reports_within_a_second_are_two_points() -> None:
    clock, server = Clock(), Server()
    events = backlog(clock)
    for _ in range(3):
        events.add([("Queue", "m", 1.0)])
    events.send("task", server)
    assert [event["iter"] for event in server.events] == [1, 2, 3]


def test_what_is_no_number_is_left_out() -> None:
    server = Server()
    events = backlog(Clock())
    events.add([("a", "m", float("nan")), ("b", "m", float("inf")), ("c", "m", 2.0)])
    events.send("task", server)
    assert [event["metric"] for event in server.events] == ["c"]


@given(st.lists(st.tuples(st.sampled_from(["add", "send", "leave", "return"]), st.integers(1, 5))))
def test_nothing_is_lost_doubled_or_out_of_order(steps: list[tuple[str, int]]) -> None:
    clock, server = Clock(), Server()
    events = backlog(clock)
    added: list[float] = []
    for step, number in steps:
        clock.now += number
        if step == "add":
            points = [("T", f"s{n}", len(added) + float(n)) for n in range(number)]
            added += [value for _, _, value in points]
            events.add(points)
        elif step == "send":
            try:
                events.send("task", server)
            except ServerAwayError:
                assert server.is_away
        else:
            server.is_away = step == "leave"
    server.is_away = False
    events.send("task", server)
    assert [event["value"] for event in server.events] == added
    stamps = [event["timestamp"] for event in server.events]
    assert stamps == sorted(stamps)
    assert events.take_lost() == 0


def test_a_backlog_goes_in_big_batches_and_a_failure_keeps_what_was_not_taken() -> None:
    clock, server = Clock(), Server()
    events = backlog(clock)
    reports, series = 240, 50
    for _ in range(reports):
        clock.now += 15
        events.add((f"t{n}", "m", clock.now) for n in range(series))
    failing = iter([False, True])

    def flaky(batch: list[Event]) -> None:
        if next(failing, False):
            raise ServerAwayError("gone again")
        server(batch)

    with pytest.raises(ServerAwayError):
        events.send("task", flaky)
    events.send("task", flaky)
    assert len(server.events) == reports * series
    assert len(server.batches) == -(-reports * series // BATCH)
    assert [e["iter"] for e in server.events[::series]] == [15 * (n + 1) for n in range(reports)]


def test_memory_is_bounded_and_the_newest_are_kept() -> None:
    clock, server = Clock(), Server()
    events = backlog(clock, limit=1000)
    for number in range(300):
        events.add((f"t{n}", "m", float(number)) for n in range(10))
    assert events.take_lost() == 2000
    events.send("task", server)
    assert sorted({event["value"] for event in server.events}) == [
        float(n) for n in range(200, 300)
    ]


def test_an_hours_outage_of_many_models_fits_in_the_memory_that_is_stated() -> None:
    clock = Clock()
    events = backlog(clock)
    titles = [f"title {n}" for n in range(10)]
    models = [f"model {n}" for n in range(25)]
    tracemalloc.start()
    try:
        for number in range(240):
            clock.now += 15
            events.add((t, m, number + 0.5) for t in titles for m in models)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert events.take_lost() == 0
    assert size < 10e6, size


def test_points_pushed_out_while_they_were_under_way_are_not_counted_as_lost() -> None:
    clock = Clock()
    events = backlog(clock, limit=10)
    events.add((f"t{n}", "m", 1.0) for n in range(10))
    taken: list[Event] = []

    def slow(batch: list[Event]) -> None:
        if not taken:
            events.add((f"t{n}", "m", 2.0) for n in range(10))
        taken.extend(batch)

    events.send("task", slow)
    assert [event["value"] for event in taken] == [1.0] * 10 + [2.0] * 10
    assert events.take_lost() == 0


def test_of_a_plot_the_newest_is_sent_with_its_moment() -> None:
    clock, server = Clock(), Server()
    events = backlog(clock)
    for number in range(3):
        clock.now = float(number)
        events.add_plot("Models", "models", json.dumps({"n": number}))
    clock.now = 50.0
    events.send("task", server)
    events.send("task", server)
    (only,) = server.events
    assert (only["type"], only["iter"], only["timestamp"]) == ("plot", 0, 1_002_000)
    assert json.loads(only["plot_str"]) == {"n": 2}


def test_a_plot_that_changed_while_it_was_under_way_is_sent_again() -> None:
    events = backlog(Clock())
    events.add_plot("Models", "models", "1")
    sent: list[Event] = []

    def slow(batch: list[Event]) -> None:
        if not sent:
            events.add_plot("Models", "models", "2")
        sent.extend(batch)

    events.send("task", slow)
    assert not events.is_empty
    events.send("task", slow)
    assert [event["plot_str"] for event in sent] == ["1", "2"]
