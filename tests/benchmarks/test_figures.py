"""The arithmetic of the benchmarks, and that each of them can be asked for."""

from __future__ import annotations

import importlib
import os
import subprocess
import time

import pytest
from click.testing import CliRunner

from benchmarks import NAMES
from benchmarks.figures import Comparison, between, load_order, medians, spread
from benchmarks.machine import busy_warning
from benchmarks.processes import began_at
from benchmarks.report import Goal, Report, Table, show


def test_a_ratio_is_of_the_medians_and_of_each_round() -> None:
    rates = Comparison(direct=(100.0, 50.0, 200.0), through=(98.0, 49.5, 150.0))
    assert rates.ratio == pytest.approx(0.98)
    assert rates.round_ratios == pytest.approx((0.98, 0.99, 0.75))


@pytest.mark.parametrize(
    ("direct", "through"), [((), ()), ((1.0,), (1.0, 2.0)), ((0.0,), (1.0,)), ((1.0,), (-1.0,))]
)
def test_rounds_that_cannot_be_compared_are_refused(
    direct: tuple[float, ...], through: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match="paired|positive"):
        Comparison(direct, through)


def test_medians_are_taken_of_each_figure() -> None:
    rounds = [{"a": 1.0, "b": 9.0}, {"a": 3.0, "b": 5.0}, {"a": 2.0, "b": 7.0}]
    assert medians(rounds) == {"a": 2.0, "b": 7.0}
    with pytest.raises(ValueError, match="different"):
        medians([{"a": 1.0}, {"b": 1.0}])
    with pytest.raises(ValueError, match="no rounds"):
        medians([])


def test_stages_are_the_times_between_moments() -> None:
    moments = {"called": 10.0, "launched": 10.5, "ready": 13.0}
    assert between(moments) == {"launched": 0.5, "ready": 2.5}
    with pytest.raises(ValueError, match='"ready" lies 1 s before'):
        between({"launched": 2.0, "ready": 1.0})


def test_the_ways_take_turns_in_being_first() -> None:
    firsts = [load_order(number)[0] for number in range(4)]
    assert firsts == ["direct", "gateway", "direct", "gateway"]


def test_a_spread_names_one_figure_once() -> None:
    assert spread([0.951, 1.02, 0.99]) == "0.95-1.02"
    assert spread([2.0]) == "2.00"


def test_a_process_began_when_it_was_started() -> None:
    before = time.monotonic()
    with subprocess.Popen(["sleep", "30"]) as process:
        try:
            after = time.monotonic()
            tick = 1 / os.sysconf("SC_CLK_TCK")
            assert before - 2 * tick <= began_at(process.pid) <= after + 2 * tick
        finally:
            process.kill()


def test_a_report_is_a_markdown_table(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(
        benchmark="x",
        machine={"cpus": "2"},
        settings={},
        tables=[Table("Title", ("a", "b"), [("row", "1.0")])],
        goals=[Goal("fast", is_met=False)],
    )
    show(report, as_json=False)
    printed = capsys.readouterr().out
    assert "| row |" in printed
    assert "Goal: fast: MISSED" in printed


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_tells_how_it_is_run(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"benchmarks.{name}.__main__")
    result = CliRunner().invoke(module.main, ["--help"])
    assert result.exit_code == 0
    assert "--json" in result.output


def test_a_busy_machine_is_told() -> None:
    assert busy_warning(0.2, 2) is None
    assert "2.10 on 2" in str(busy_warning(2.1, 2))
