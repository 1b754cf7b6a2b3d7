"""ClearML scalars from two snapshots of the recorder (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from common.telemetry import names
from common.telemetry.recorder import ModelSnapshot, Snapshot


class Scalar(NamedTuple):
    """One point: `title` is the graph, `series` the model."""

    title: str
    series: str
    value: float


def scalars_between(
    before: Snapshot, after: Snapshot, elapsed_s: float | None = None
) -> list[Scalar]:
    """Make the points of one reporting interval, one series per model.

    Totals and gauges are the state at `after`. Latency and time to first token are means over the
    requests that ended in the interval, moves the mean of those in it; they are left out when there
    were none, since a 0 would be a lie.

    Args:
        before: The snapshot of the last report.
        after: The snapshot now.
        elapsed_s: Seconds between them; by default the difference of their clocks.
    """
    seconds = after.at - before.at if elapsed_s is None else elapsed_s
    points: list[Scalar] = []
    for model, now in after.models.items():
        if model:  # requests that reached no model have no series
            points.extend(_model_scalars(model, before.models.get(model), now, seconds))
    return points


def memory_scalars(memory: Mapping[str, int]) -> list[Scalar]:
    """Make the points of the engines' memory.

    Args:
        memory: Bytes by model; one that holds none has no point.
    """
    metric = names.MEMORY
    return [
        Scalar(metric.scalar_title, model, size * metric.scalar_scale)
        for model, size in memory.items()
        if size
    ]


def _model_scalars(
    model: str, before: ModelSnapshot | None, now: ModelSnapshot, seconds: float
) -> list[Scalar]:
    points = [
        Scalar(names.REQUESTS.scalar_title, model, float(now.requests)),
        Scalar(names.IN_FLIGHT.scalar_title, model, float(now.in_flight)),
        Scalar(names.WAITING.scalar_title, model, float(now.waiting)),
    ]
    if seconds > 0:
        tokens = now.generated_tokens - (before.generated_tokens if before else 0)
        points.append(Scalar(names.GENERATED_TOKENS.scalar_title, model, tokens / seconds))
    means = (
        (names.LATENCY, now.latency.between(before.latency if before else None).mean),
        (
            names.TIME_TO_FIRST_TOKEN,
            now.first_token.between(before.first_token if before else None).mean,
        ),
        (names.MODEL_MOVES, _mean_of_moves(before, now)),
    )
    return points + [
        Scalar(metric.scalar_title, model, mean * metric.scalar_scale)
        for metric, mean in means
        if mean is not None
    ]


def _mean_of_moves(before: ModelSnapshot | None, now: ModelSnapshot) -> float | None:
    """Return the mean of the moves of all kinds: an interval has seldom more than one."""
    earlier = before.moves if before else {}
    moved = [later.between(earlier.get(kind)) for kind, later in now.moves.items()]
    count = sum(histogram.count for histogram in moved)
    return sum(histogram.sum for histogram in moved) / count if count else None
