"""Distributions on the fine grid: percentiles near the exact ones, coarse counts exact."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.telemetry import names
from common.telemetry.histogram import (
    GRID,
    GROWTH,
    LARGEST_S,
    SMALLEST_S,
    Histogram,
    HistogramSnapshot,
)

VALUES = st.lists(
    st.one_of(
        st.floats(SMALLEST_S, LARGEST_S),
        st.floats(math.log(SMALLEST_S), math.log(LARGEST_S))
        .map(math.exp)
        .filter(lambda value: SMALLEST_S <= value <= LARGEST_S),
        st.sampled_from(GRID),
    ),
    min_size=1,
    max_size=200,
)
ALL_BOUNDS = sorted({bound for metric in names.METRICS for bound in metric.bounds})


def histogram_of(values: list[float]) -> HistogramSnapshot:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    return histogram.snapshot()


def exact_quantile(values: list[float], q: float) -> float:
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


def test_the_grid_is_fine_and_holds_every_bucket_bound() -> None:
    assert all(1 < high / low <= GROWTH * (1 + 1e-9) for low, high in pairwise(GRID))
    assert set(ALL_BOUNDS) <= set(GRID)


@settings(deadline=None)
@given(VALUES, st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_quantiles_are_within_five_percent(values: list[float], q: float) -> None:
    found = histogram_of(values).quantile(q)
    assert found == pytest.approx(exact_quantile(values, q), rel=0.05)


@settings(deadline=None)
@given(VALUES)
def test_coarse_counts_are_exact(values: list[float]) -> None:
    counts = histogram_of(values).coarse(ALL_BOUNDS)
    expected = [sum(value <= bound for value in values) for bound in ALL_BOUNDS]
    assert counts == (*expected, len(values))


@settings(deadline=None)
@given(VALUES, VALUES)
def test_the_difference_of_two_snapshots_is_what_came_between(
    first: list[float], second: list[float]
) -> None:
    before = histogram_of(first)
    found = histogram_of(first + second).between(before)
    assert found.counts == histogram_of(second).counts
    assert found.count == len(second)
    assert found.sum == pytest.approx(math.fsum(second), rel=1e-6, abs=1e-3)


def test_nothing_observed_has_no_quantile_and_no_mean() -> None:
    empty = Histogram().snapshot()
    assert (empty.quantile(0.5), empty.mean, empty.count, empty.sum) == (None, None, 0, 0.0)
    assert empty.coarse((1.0,)) == (0, 0)
    assert empty.between(None) == empty


def test_values_beyond_the_grid_count_at_its_ends() -> None:
    found = histogram_of([0.0, 1e9])
    assert (found.quantile(0.0), found.quantile(1.0)) == (SMALLEST_S, LARGEST_S)
    assert found.coarse((0.01,)) == (1, 2)


def test_a_bound_that_is_not_on_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.0123 is no bound"):
        Histogram().snapshot().coarse((0.0123,))
