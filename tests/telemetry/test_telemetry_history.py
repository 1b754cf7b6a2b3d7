"""The points of the page's charts."""

from __future__ import annotations

import json

from common.telemetry.engine_metrics import EngineTokens
from common.telemetry.history import History
from common.telemetry.recorder import Outcome, Recorder


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def answer(recorder: Recorder, clock: Clock, seconds: float, model: str = "a") -> None:
    record = recorder.open()
    record.assign(model)
    record.start()
    clock.now += seconds
    record.close(Outcome.OK, 200)


def test_a_point_has_what_happened_in_its_interval() -> None:
    clock = Clock()
    recorder = Recorder(["a", "b"], clock)
    history = History(every_s=5, wall=lambda: clock.now + 1e9)
    answer(recorder, clock, 60.0)
    recorder.observe_engine_tokens("a", EngineTokens(0, 1000))
    assert not history.tick(recorder.snapshot(), {})
    answer(recorder, clock, 1.0)
    answer(recorder, clock, 3.0)
    clock.now += 1
    recorder.observe_engine_tokens("a", EngineTokens(0, 1050))
    running = recorder.open()
    running.assign("a")
    running.start()
    assert history.tick(recorder.snapshot(), {"a": 123})
    series = history.series()
    assert series["times"] == [1000001065.0]
    points = series["models"]["a"]
    p50, p95 = points.pop("latency_p50_ms"), points.pop("latency_p95_ms")
    assert abs(p50[0] - 1000) < 50
    assert abs(p95[0] - 3000) < 150
    assert points == {
        "requests": [2],
        "tokens_per_s": [10.0],
        "in_flight": [1],
        "memory_bytes": [123],
    }
    assert series["models"]["b"]["latency_p50_ms"] == [None]
    assert series["models"]["b"]["memory_bytes"] == [None]


def test_ticks_that_come_too_early_add_nothing() -> None:
    clock = Clock()
    recorder = Recorder(["a"], clock)
    history = History(every_s=5)
    added = 0
    for _ in range(101):
        added += history.tick(recorder.snapshot(), {})
        clock.now += 2
    assert added == len(history.series()["times"]) == 33  # each third of them


def test_points_go_back_an_hour_and_no_further() -> None:
    clock = Clock()
    recorder = Recorder(["a"], clock)
    history = History(every_s=5, span_s=50, wall=clock)
    for _ in range(40):
        history.tick(recorder.snapshot(), {})
        clock.now += 5
    series = history.series()
    assert series["times"] == [1000.0 + 5 * n for n in range(30, 40)]
    assert {len(column) for column in series["models"]["a"].values()} == {10}


def test_a_model_that_comes_later_has_no_values_before() -> None:
    clock = Clock()
    recorder = Recorder(["a"], clock)
    history = History(every_s=5)
    for _ in range(3):
        history.tick(recorder.snapshot(), {})
        clock.now += 5
    answer(recorder, clock, 0.1, "late")
    history.tick(recorder.snapshot(), {})
    series = history.series()["models"]
    assert series["late"]["requests"] == [None, None, 1]
    assert series["a"]["requests"] == [0, 0, 0]


def test_requests_that_reached_no_model_are_in_no_chart_and_the_series_are_json() -> None:
    clock = Clock()
    recorder = Recorder(["a"], clock)
    history = History()
    history.tick(recorder.snapshot(), {})
    recorder.open().close(Outcome.REFUSED, 401)
    clock.now += 5
    history.tick(recorder.snapshot(), {})
    series = json.loads(json.dumps(history.series(), allow_nan=False))
    assert list(series["models"]) == ["a"]
    assert series["every_s"] == 5.0
