"""A burst of lines, then a steady rate; what is left out is counted."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from common.runtime.console import Console
from common.runtime.line_limit import BURST_LINES, LineLimit


def test_a_burst_is_whole_and_the_flood_after_it_is_counted() -> None:
    limit = LineLimit(burst=3, per_s=1, pause_s=10)
    assert [limit.admits(0) for _ in range(5)] == [True, True, True, False, False]
    assert not limit.admits(9)
    assert not limit.is_over(9)
    assert limit.is_over(10)
    assert limit.take_left_out() == 3
    assert not limit.is_over(10)
    assert [limit.admits(10) for _ in range(4)] == [True, True, True, False]


@given(gaps=st.lists(st.floats(0, 5), max_size=300))
def test_in_the_long_run_no_more_than_the_rate_comes_through(gaps: list[float]) -> None:
    limit, now, shown = LineLimit(burst=5, per_s=2, pause_s=3), 0.0, 0
    for gap in gaps:
        now += gap
        shown += limit.admits(now)
        assert shown <= 5 + 2 * now + 1e-6
    assert shown + limit.left_out == len(gaps)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def flooded(**attributes: bool) -> tuple[Console, Clock]:
    clock = Clock()
    console = Console(io.StringIO(), clock)
    for name, value in attributes.items():
        setattr(console, name, value)
    for number in range(BURST_LINES + 40):
        console.engine("m", f"line {number}")
    return console, clock


def test_a_flood_of_an_engine_is_cut_off_and_told_when_it_goes_on() -> None:
    console, clock = flooded()
    assert console.recent(0)[1] == BURST_LINES
    clock.now = 20
    console.engine("m", "later")
    assert console.recent(BURST_LINES)[0] == [
        "m: 40 lines of its engine were left out, more than 5 a second",
        "[m] later",
    ]


def test_what_was_left_out_is_told_before_the_next_state() -> None:
    console, _ = flooded()
    console.engine("m", "[engine] ready after 1.0 s")
    assert console.recent(BURST_LINES)[0] == [
        "m: 40 lines of its engine were left out, more than 5 a second",
        "m: ready after 1.0 s",
    ]


def test_what_was_left_out_is_told_at_the_end() -> None:
    console, _ = flooded()
    assert console.flush(5)
    assert console.recent(BURST_LINES)[0] == [
        "m: 40 lines of its engine were left out, more than 5 a second"
    ]


def test_a_flood_hides_no_error_and_no_line_of_another_model() -> None:
    console, _ = flooded()
    console.engine("m", "ERROR 11-20 15:10:53 [core.py:96] out of memory")
    console.engine("n", "hello")
    assert console.recent(BURST_LINES)[0] == [
        "[m] ERROR [core.py:96] out of memory",
        "[n] hello",
    ]


def test_in_debug_mode_nothing_is_left_out() -> None:
    console, _ = flooded(is_debug=True)
    assert console.recent(0)[1] == BURST_LINES + 40


def test_more_of_a_model_with_detailed_logging_comes_through() -> None:
    console = Console(io.StringIO(), Clock())
    console.expect_detail("m")
    for _ in range(BURST_LINES + 40):
        console.engine("m", "detail")
    assert console.recent(0)[1] == BURST_LINES + 40
