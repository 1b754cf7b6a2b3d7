from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.soak.accounts import Ended, Ledger, Seen, explains, grown, left_behind, memory_trend

SEEN = Seen("1", "chat", "answer", 200, is_engines=True)
ENDED = Ended("1", "ok", 200, "plain", 200)
MIB = 2**20

STATE: dict[str, Any] = {
    "in_flight": 0,
    "connections": 0,
    "engine_connections": 3,
    "busy_engine_connections": 0,
    "open_requests": 0,
    "places": {"plain": [0, 0]},
    "gauges": {"plain": [0, 0], "": [0, 0]},
    "by_key": {"two": 0},
    "objects": {"EngineConnection": 3, "EnginePool": 2, "Admission": 1, "Exchange": 0},
    "fds": 20,
    "tasks": 9,
}


def result(outcome: str, status: int) -> Ended:
    return Ended("1", outcome, status, "plain", status)


@pytest.mark.parametrize(
    ("seen", "ended"),
    [
        (SEEN, ENDED),
        (replace(SEEN, status=500), result("ok", 500)),
        (replace(SEEN, status=429, is_engines=False), result("refused", 429)),
        (replace(SEEN, status=503, is_engines=False), result("timeout", 503)),
        (replace(SEEN, end="event"), result("engine_died", 200)),
        (replace(SEEN, end="broken"), result("engine_died", 200)),
        (replace(SEEN, end="left", status=0), result("client_closed", 499)),
        (replace(SEEN, end="left", status=0), result("refused", 429)),
        (replace(SEEN, end="left"), result("ok", 200)),
    ],
)
def test_what_clients_see_explains_the_record(seen: Seen, ended: Ended) -> None:
    assert explains(seen, ended)


@pytest.mark.parametrize(
    ("seen", "ended"),
    [
        (SEEN, result("engine_died", 200)),
        (SEEN, result("client_closed", 499)),
        (SEEN, replace(ENDED, told=502)),
        (replace(SEEN, status=500, is_engines=False), result("internal", 500)),
        (replace(SEEN, status=429, is_engines=False), result("ok", 429)),
        (replace(SEEN, end="broken"), ENDED),
        (replace(SEEN, end="event"), result("client_closed", 499)),
        (replace(SEEN, end="left"), result("refused", 429)),
        (replace(SEEN, end="nothing", status=0), result("engine_died", 502)),
    ],
)
def test_what_clients_see_contradicts_the_record(seen: Seen, ended: Ended) -> None:
    assert not explains(seen, ended)


def settled(seen: list[Seen], ended: list[Ended]) -> list[str]:
    ledger = Ledger()
    for one in seen:
        ledger.saw(one)
    for each in ended:
        ledger.recorded(each)
    ledger.settle()
    return ledger.faults


def test_each_request_has_to_be_recorded_exactly_once() -> None:
    assert settled([SEEN], [ENDED]) == []
    assert "never recorded" in settled([SEEN], [])[0]
    assert "ended 2 times" in settled([SEEN], [ENDED, ENDED])[0]
    assert "nobody asked" in settled([], [ENDED])[0]
    assert settled([replace(SEEN, is_sent=False)], []) == []
    assert settled([replace(SEEN, fault="another's answer")], [ENDED]) != []


def test_the_telemetry_has_to_count_what_was_recorded() -> None:
    ledger = Ledger()
    ledger.recorded(ENDED)
    ledger.recorded(replace(ENDED, id="2", outcome="", model=""))  # an own route counts nowhere
    ledger.compare([["ok", 200, 1]], 1)
    assert ledger.faults == []
    ledger.compare([["ok", 200, 2]], 1)
    ledger.compare([["ok", 200, 1]], 0)
    assert len(ledger.faults) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"in_flight": 1},
        {"connections": 1},
        {"busy_engine_connections": 1},
        {"open_requests": -1},
        {"places": {"plain": [1, 0]}},
        {"gauges": {"plain": [0, -1]}},
        {"by_key": {"two": 1}},
        {"objects": {"Exchange": 1}},
        {"objects": {"EngineConnection": 4}},
    ],
)
def test_whatever_is_not_free_is_named(change: dict[str, Any]) -> None:
    assert left_behind(STATE) == []
    assert len(left_behind(STATE | change)) == 1


def test_descriptors_and_tasks_must_not_become_more() -> None:
    assert grown(STATE, STATE) == []
    assert grown(STATE, STATE | {"fds": 22, "engine_connections": 5}) == []
    assert grown(STATE, STATE | {"fds": 22}) == ["fds: 20, now 22"]
    assert grown(STATE, STATE | {"tasks": 10}) == ["tasks: 9, now 10"]


def test_memory_may_settle_but_not_keep_growing() -> None:
    assert memory_trend([60 * MIB]) == ""
    assert memory_trend([50 * MIB, 80 * MIB, 85 * MIB, 81 * MIB, 83 * MIB, 80 * MIB]) == ""
    steps = [50 * MIB + n * 10 * MIB for n in range(9)]
    assert "30.0 MiB" in memory_trend(steps)
