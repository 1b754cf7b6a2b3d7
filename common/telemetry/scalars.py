"""ClearML scalars from two snapshots of the recorder (pure)."""

from __future__ import annotations

from typing import NamedTuple

from common.telemetry import names
from common.telemetry.recorder import HistogramSnapshot, ModelSnapshot, Snapshot


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
    requests that ended in the interval and are left out when none did, since a 0 would be a lie.

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
        (names.LATENCY, before.latency if before else None, now.latency),
        (names.TIME_TO_FIRST_TOKEN, before.first_token if before else None, now.first_token),
    )
    for metric, earlier, later in means:
        mean = mean_between(earlier, later)
        if mean is not None:
            points.append(Scalar(metric.scalar_title, model, mean * metric.scalar_scale))
    return points


def mean_between(before: HistogramSnapshot | None, after: HistogramSnapshot) -> float | None:
    """Return the mean of what was observed after `before`; None when nothing was."""
    count = after.count - (before.count if before else 0)
    if count <= 0:
        return None
    return (after.sum - (before.sum if before else 0.0)) / count
