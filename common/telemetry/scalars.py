"""ClearML scalars from two snapshots of the recorder (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from common.telemetry import names
from common.telemetry.recorder import HistogramSnapshot, ModelSnapshot, Snapshot


class Scalar(NamedTuple):
    """One point: `title` is the graph, `series` the model, or the model and what of it."""

    title: str
    series: str
    value: float


def scalars_between(
    before: Snapshot, after: Snapshot, elapsed_s: float | None = None
) -> list[Scalar]:
    """Make the points of one reporting interval, one series per model (moves: and kind).

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


def memory_scalars(
    memory: Mapping[str, int], by_pool: Mapping[str, Mapping[str, int]] | None = None
) -> list[Scalar]:
    """Make the points of the engines' memory: a series per model, and per model and pool.

    Args:
        memory: Bytes by model; one that holds none has no point.
        by_pool: Bytes by model and pool, as far as known: a pool that a model has left has the
            point 0, so that its curve does not go on.
    """
    metric = names.MEMORY
    return [
        Scalar(metric.scalar_title, model, size * metric.scalar_scale)
        for model, size in memory.items()
        if size
    ] + [
        Scalar(metric.scalar_title, f"{model} ({pool})", size * metric.scalar_scale)
        for model, pools in (by_pool or {}).items()
        for pool, size in pools.items()
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
    )
    points += [
        Scalar(metric.scalar_title, model, mean * metric.scalar_scale)
        for metric, mean in means
        if mean is not None
    ]
    return points + _moves(model, before.moves if before else {}, now.moves)


def _moves(
    model: str, before: Mapping[str, HistogramSnapshot], now: Mapping[str, HistogramSnapshot]
) -> list[Scalar]:
    """Make the points of the moves in the interval, one series per kind: seconds to load a model are
    no measure of those to wake it."""
    means = ((kind, later.between(before.get(kind)).mean) for kind, later in now.items())
    return [
        Scalar(names.MODEL_MOVES.scalar_title, f"{model} ({kind})", mean)
        for kind, mean in means
        if mean is not None
    ]
