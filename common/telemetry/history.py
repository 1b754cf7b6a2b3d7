"""The last hour of each model for the page's charts: a point every few seconds, in bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from common.telemetry.recorder import ModelSnapshot, Snapshot

EVERY_S = 5.0
SPAN_S = 3600.0

_MS = 1000.0


class Point(NamedTuple):
    """What one model did in one interval.

    Attributes:
        requests: Ended in the interval.
        tokens_per_s: Generated tokens by the engine's own counter.
        latency_p50_ms: Of the requests answered in the interval; None without any.
        latency_p95_ms: As `latency_p50_ms`.
        in_flight: At the end of the interval.
        memory_bytes: Of the engine; None when it is not known.
    """

    requests: int
    tokens_per_s: float
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    in_flight: int
    memory_bytes: int | None


class History:
    """A ring of points per model; `tick` and `series` are called from one thread.

    Args:
        every_s: The least distance of two points in seconds; `tick` may be called more often.
        span_s: How far back the points go.
        wall: Unix time in seconds, for the axis.
    """

    def __init__(
        self,
        every_s: float = EVERY_S,
        span_s: float = SPAN_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._every_s = every_s
        self._wall = wall
        self._length = max(1, round(span_s / every_s))
        self._times: deque[float] = deque(maxlen=self._length)
        self._points: dict[str, deque[Point | None]] = {}
        self._last: Snapshot | None = None

    def tick(self, snapshot: Snapshot, memory: Mapping[str, int]) -> bool:
        """Add a point per model, if one is due.

        Args:
            snapshot: The recorder's totals now; its clock measures the intervals.
            memory: Bytes that each model's engine holds, as far as known.

        Returns:
            Whether points were added. The first call adds none: it is where the intervals begin.
        """
        before = self._last
        if before is None:
            self._last = snapshot
            return False
        # Half a tick early is better than one whole tick late: callers come at a fixed rate.
        if snapshot.at - before.at < self._every_s * 0.9:
            return False
        self._last = snapshot
        self._times.append(self._wall())
        seconds = snapshot.at - before.at
        for model, now in snapshot.models.items():
            if model:
                self._ring(model).append(
                    _point(before.models.get(model), now, seconds, memory.get(model))
                )
        return True

    def series(self) -> dict[str, Any]:
        """Return all points, ready for JSON.

        ``times`` are Unix seconds; ``models`` has for each name a list per field of `Point`, of the
        same length, with null where there is no value.
        """
        return {
            "every_s": self._every_s,
            "times": [round(at, 1) for at in self._times],
            "models": {model: self._columns(ring) for model, ring in self._points.items()},
        }

    def _ring(self, model: str) -> deque[Point | None]:
        ring = self._points.get(model)
        if ring is None:
            # A model that came later has no values before.
            missing = len(self._times) - 1
            ring = self._points[model] = deque([None] * missing, maxlen=self._length)
        return ring

    def _columns(self, ring: deque[Point | None]) -> dict[str, list[float | None]]:
        return {
            field: [None if point is None else point[index] for point in ring]
            for index, field in enumerate(Point._fields)
        }


def _point(
    before: ModelSnapshot | None, now: ModelSnapshot, seconds: float, memory: int | None
) -> Point:
    latency = now.latency.between(before.latency if before else None)
    p50, p95 = latency.quantile(0.5), latency.quantile(0.95)
    tokens = now.generated_tokens - (before.generated_tokens if before else 0)
    return Point(
        requests=now.requests - (before.requests if before else 0),
        tokens_per_s=round(tokens / seconds, 2),
        latency_p50_ms=None if p50 is None else round(p50 * _MS, 2),
        latency_p95_ms=None if p95 is None else round(p95 * _MS, 2),
        in_flight=now.in_flight,
        memory_bytes=memory,
    )
