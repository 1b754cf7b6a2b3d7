"""Distributions on one fine logarithmic grid: percentiles within 2.3 %, coarse buckets exactly."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from operator import sub

# Upper bounds in seconds. Duration, first token and time per token are those that the
# OpenTelemetry GenAI semantic conventions recommend, with more above for engines on a CPU.
DURATION_BOUNDS = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    *(163.84, 327.68, 655.36),
)
FIRST_TOKEN_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(30.0, 60.0, 300.0, 600.0),
)
PER_TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
WAIT_BOUNDS = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)

SMALLEST_S = 1e-5
LARGEST_S = 14400.0
GROWTH = 1.045
"""No bucket between `SMALLEST_S` and `LARGEST_S` is wider than by this factor."""


def make_grid(coarse: Iterable[float], growth: float = GROWTH) -> tuple[float, ...]:
    """Return upper bounds from `SMALLEST_S` to `LARGEST_S` that contain all of `coarse` exactly.

    Between two neighbours of the coarse bounds the steps are equal factors, at most `growth`.

    Args:
        coarse: Bounds in seconds that coarse histograms are made of.
        growth: The largest factor between two bounds.
    """
    fixed = sorted({SMALLEST_S, LARGEST_S, *coarse})
    bounds = [fixed[0]]
    for low, high in zip(fixed, fixed[1:], strict=False):
        steps = math.ceil(math.log(high / low) / math.log(growth))
        bounds += [low * (high / low) ** (step / steps) for step in range(1, steps)]
        bounds.append(high)
    return tuple(bounds)


GRID = make_grid((*DURATION_BOUNDS, *FIRST_TOKEN_BOUNDS, *PER_TOKEN_BOUNDS, *WAIT_BOUNDS))
"""The bounds of every histogram here, about 500: one grid, so that any two can be compared."""


@dataclass(frozen=True)
class HistogramSnapshot:
    """Observations of one kind at one moment.

    Attributes:
        counts: Per bucket of `GRID`, not cumulative; the last is above all bounds.
        sum: Of the observed values, in seconds.
    """

    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """How many values were observed; the counts alone tell, so both always agree."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """Mean of the observed values in seconds; None when there are none."""
        count = self.count
        return self.sum / count if count else None

    def quantile(self, q: float) -> float | None:
        """Return the value that a share `q` of the observations does not exceed, in seconds.

        By nearest rank; the middle of the bucket that holds it, so within 2.3 % of the exact value
        between `SMALLEST_S` and `LARGEST_S`, beyond which it is that end of the grid.

        Args:
            q: Between 0 and 1.

        Returns:
            None when nothing was observed.
        """
        cumulative = list(accumulate(self.counts))
        if not cumulative or not cumulative[-1]:
            return None
        index = bisect_left(cumulative, max(1, math.ceil(q * cumulative[-1])))
        if index == 0:
            return GRID[0]
        if index == len(GRID):
            return GRID[-1]
        return math.sqrt(GRID[index - 1] * GRID[index])

    def between(self, before: HistogramSnapshot | None) -> HistogramSnapshot:
        """Return what was observed since an earlier snapshot of the same histogram."""
        if before is None:
            return self
        return HistogramSnapshot(
            tuple(map(sub, self.counts, before.counts)), max(0.0, self.sum - before.sum)
        )

    def coarse(self, bounds: Iterable[float]) -> tuple[int, ...]:
        """Return how many values are at most each of `bounds`, and at last how many there are.

        Raises:
            ValueError: A bound is not one of `GRID`, so its count is not known exactly.
        """
        cumulative = list(accumulate(self.counts))
        return (*(cumulative[_index_of(bound)] for bound in bounds), cumulative[-1])


NOTHING = HistogramSnapshot((0,) * (len(GRID) + 1), 0.0)
"""The snapshot of a histogram without observations."""


class Histogram:
    """Filled by one writer; `snapshot` may be called from any thread."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(GRID) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Add one value."""
        self.counts[bisect_left(GRID, seconds)] += 1
        self.total += seconds

    def snapshot(self) -> HistogramSnapshot:
        """Return what was observed so far."""
        return HistogramSnapshot(tuple(self.counts), self.total)


def _index_of(bound: float) -> int:
    index = bisect_left(GRID, bound)
    if index == len(GRID) or GRID[index] != bound:
        raise ValueError(f"{bound} is no bound of the grid")
    return index
