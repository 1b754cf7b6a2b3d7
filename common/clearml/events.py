"""Scalars and plots of a task: kept with the moment they were measured at, and sent in big batches.

Measured with the SDK 2.1 on a real server, a point a second. Server stopped for 20 s and 150 s and
started again: its reporter stamps points when `report_scalar` is called, loses none and keeps their
order, in a queue without bound; it tries again after growing pauses, so that its points came 7 s and
57 s after the server. Server answering 500 for 15 s, as with its database down: every point of that
time is lost. Its flush waits for as long as the server is away, so an instance that ends meanwhile
loses the queue. And called from our outbox, which stops at the first job that fails, `report_scalar`
itself came late, and so did the stamp. Hence points go to ``events.add_batch`` from here; only an
offline task leaves them to the SDK.

A batch that the server took while its answer got lost is sent again: the server replaces a point of
the same title, series and iteration, so it is not there twice.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Point = tuple[str, str, float]
"""Title, series and value."""

# Points that are kept while the server is away: an hour of a report every 15 s (240) with ten
# series for each of 25 models. A point costs some 90 bytes and its report 300, so some 6 MB.
POINTS_LIMIT = 60_000
# Some 200 bytes each on the wire: a call of 400 kB, far below what proxies let through (1 MiB).
BATCH = 2_000

_SCALAR = "training_stats_scalar"
_PLOT = "plot"


@dataclass(frozen=True)
class _Report:
    """Points of one moment."""

    iteration: int
    timestamp_ms: int
    points: tuple[Point, ...]


class EventBacklog:
    """What was measured and not sent yet; any thread may add, one thread sends.

    Scalars are sent in the order of their moments. Of a plot only the newest is worth sending.

    Args:
        limit: Points kept; more push out the oldest, which are counted.
        clock: Seconds of a monotonic clock.
        wall: Seconds since the epoch.
    """

    def __init__(
        self,
        *,
        limit: int = POINTS_LIMIT,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._started = clock()
        self._iteration = 0
        self._reports: deque[_Report] = deque()
        self._plots: dict[tuple[str, str], tuple[int, str]] = {}
        self._kept = 0
        self._lost = 0

    def add(self, points: Iterable[Point]) -> int:
        """Keep the points of this moment; returns their iteration, seconds since the start.

        The iteration grows with every report, as the server keeps one point of each.
        """
        listed = tuple(point for point in points if math.isfinite(point[2]))  # JSON has no others
        with self._lock:
            self._iteration = max(self._iteration + 1, int(self._clock() - self._started))
            if listed:
                self._reports.append(_Report(self._iteration, int(self._wall() * 1000), listed))
                self._kept += len(listed)
            while self._kept > self._limit and len(self._reports) > 1:
                dropped = len(self._reports.popleft().points)
                self._kept -= dropped
                self._lost += dropped
            return self._iteration

    def add_plot(self, title: str, series: str, figure: str) -> None:
        """Keep the newest state of a plot, as Plotly's JSON."""
        with self._lock:
            self._plots[title, series] = (int(self._wall() * 1000), figure)

    @property
    def is_empty(self) -> bool:
        """Whether everything was sent."""
        with self._lock:
            return not self._reports and not self._plots

    def take_lost(self) -> int:
        """How many points were too many to keep since the last call."""
        with self._lock:
            lost, self._lost = self._lost, 0
            return lost

    def send(self, task: str, post: Callable[[list[dict[str, Any]]], None]) -> None:
        """Send all there is, oldest first, a batch a call; what `post` raises keeps its batch.

        Args:
            task: The task's ID.
            post: Sends events as ``events.add_batch`` takes them.
        """
        while reports := self._next_reports():
            post([event for report in reports for event in _scalars(task, report)])
            self._sent(reports)
        with self._lock:
            plots = dict(self._plots)
        for (title, series), (timestamp_ms, figure) in plots.items():
            post([_event(_PLOT, task, title, series, 0, timestamp_ms) | {"plot_str": figure}])
            with self._lock:
                if self._plots.get((title, series)) == (timestamp_ms, figure):
                    del self._plots[title, series]

    def drop_all(self) -> None:
        """Forget what the server refuses for good, so that it is not sent again and again."""
        with self._lock:
            self._reports.clear()
            self._plots.clear()
            self._kept = 0

    def _next_reports(self) -> list[_Report]:
        """The oldest reports that fit into a batch, and at least one."""
        taken: list[_Report] = []
        size = 0
        with self._lock:
            for report in self._reports:
                size += len(report.points)
                if taken and size > BATCH:
                    break
                taken.append(report)
        return taken

    def _sent(self, reports: list[_Report]) -> None:
        with self._lock:
            for report in reports:
                # The oldest may have been pushed out while they were under way.
                if self._reports and self._reports[0] is report:
                    self._reports.popleft()
                    self._kept -= len(report.points)
                else:
                    self._lost -= len(report.points)


def _scalars(task: str, report: _Report) -> Iterable[dict[str, Any]]:
    for title, series, value in report.points:
        event = _event(_SCALAR, task, title, series, report.iteration, report.timestamp_ms)
        yield event | {"value": value}


def _event(
    kind: str, task: str, title: str, series: str, iteration: int, timestamp_ms: int
) -> dict[str, Any]:
    return {
        "type": kind,
        "task": task,
        "metric": title,
        "variant": series,
        "iter": iteration,
        "timestamp": timestamp_ms,
    }
