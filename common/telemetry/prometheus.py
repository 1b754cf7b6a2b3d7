"""Render an instance's totals, and its engines' own metrics, as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from common.telemetry import names
from common.telemetry.exposition import merged, parse_exposition
from common.telemetry.names import Metric, MetricKind
from common.telemetry.recorder import HistogramSnapshot, ModelSnapshot, Snapshot

DEFAULT_OPERATION = "chat"

Labels = tuple[str, ...]


class Placed(Protocol):
    """Where a model is that is moved by itself, and what it takes."""

    @property
    def tier(self) -> str:
        """One of `names.TIERS`."""

    @property
    def waiting(self) -> int:
        """Requests that wait for it to be loaded."""

    @property
    def bytes_by_pool(self) -> Mapping[str, int]:
        """What it takes now."""


def render_metrics(
    snapshot: Snapshot,
    statuses: Mapping[str, str],
    memory: Mapping[str, int],
    engines: Mapping[str, str | None],
    operations: Mapping[str, str] | None = None,
    placed: Mapping[str, Placed] | None = None,
    capacity: Mapping[str, int] | None = None,
) -> bytes:
    """Return the exposition in the format of `names.CONTENT_TYPE`.

    Args:
        snapshot: The recorder's totals.
        statuses: The status of each model.
        memory: Bytes that each model's engine holds.
        engines: The text that each model's engine gave; None: it was asked and gave none. One that
            cannot be read is left out, and shown as such.
        operations: The convention's ``gen_ai_operation_name`` of models other than `chat`.
        placed: Where each model is, of those that are moved by themselves.
        capacity: Bytes that they may take of each pool.
    """
    parsed = {model: parse_or_none(text) for model, text in engines.items()}
    return render_parsed(snapshot, statuses, memory, parsed, operations, placed, capacity)


def parse_or_none(text: str | None) -> list[Family] | None:
    """Return the families of an engine's text; None when there are none to pass on."""
    if text is None:
        return None
    try:
        return parse_exposition(text)
    except ValueError:
        return None


def render_parsed(
    snapshot: Snapshot,
    statuses: Mapping[str, str],
    memory: Mapping[str, int],
    engines: Mapping[str, Sequence[Family] | None],
    operations: Mapping[str, str] | None = None,
    placed: Mapping[str, Placed] | None = None,
    capacity: Mapping[str, int] | None = None,
) -> bytes:
    """As `render_metrics`, with the engines' texts as `parse_or_none` returned them."""
    families = [
        *_of_requests(snapshot.models, operations or {}),
        *_of_models(snapshot.models, statuses, memory),
        *_of_pools(placed or {}, capacity or {}),
        *_of_keys(snapshot),
        _family(names.ENGINE_SCRAPE, ((_of(m), f is not None) for m, f in engines.items())),
    ]
    readable = {model: found for model, found in engines.items() if found is not None}
    families += merged(readable, families)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    return generate_latest(registry)


class _Families(Collector):
    """What the client library renders: a registry's collectors, here one."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def _of_requests(
    models: Mapping[str, ModelSnapshot], operations: Mapping[str, str]
) -> Iterator[Family]:
    yield _family(
        names.REQUESTS,
        (
            ((model, outcome, str(status)), count)
            for model, totals in models.items()
            for (outcome, status), count in totals.results.items()
        ),
    )
    served = {name: totals for name, totals in models.items() if name}
    yield _family(names.IN_FLIGHT, ((_of(m), t.in_flight) for m, t in served.items()))
    yield _family(names.WAITING, ((_of(m), t.waiting) for m, t in served.items()))
    yield _family(names.PROMPT_TOKENS, ((_of(m), t.prompt_tokens) for m, t in served.items()))
    yield _family(names.GENERATED_TOKENS, ((_of(m), t.generated_tokens) for m, t in served.items()))
    yield _family(
        names.REQUEST_TOKENS,
        (
            sample
            for m, t in served.items()
            for sample in (
                ((m, "prompt", "false"), t.usage_prompt_tokens),
                ((m, "completion", "false"), t.usage_completion_tokens),
                ((m, "completion", "true"), t.estimated_tokens),
            )
        ),
    )
    labels = {m: (m, operations.get(m, DEFAULT_OPERATION), names.PROVIDER) for m in served}
    for metric, quantiles, field in (
        (names.LATENCY, names.LATENCY_QUANTILES, "latency"),
        (names.TIME_TO_FIRST_TOKEN, names.FIRST_TOKEN_QUANTILES, "first_token"),
        (names.TIME_PER_TOKEN, names.PER_TOKEN_QUANTILES, "per_token"),
    ):
        found = {m: getattr(t, field) for m, t in served.items()}
        yield _histogram(metric, ((labels[m], h) for m, h in found.items()))
        yield _family(quantiles, _quantiles(found))
    yield _histogram(names.QUEUE_TIME, ((_of(m), t.queue) for m, t in served.items()))
    yield _histogram(names.WAKE_TIME, ((_of(m), t.wake) for m, t in served.items()))


def _of_models(
    models: Mapping[str, ModelSnapshot], statuses: Mapping[str, str], memory: Mapping[str, int]
) -> Iterator[Family]:
    yield _family(
        names.MODEL_STATUS,
        (
            ((model, each), each == status)
            for model, status in statuses.items()
            for each in names.STATUSES
        ),
    )
    yield _family(names.MEMORY, ((_of(model), size) for model, size in memory.items()))
    yield _histogram(
        names.MODEL_MOVES,
        (((m, kind), h) for m, t in models.items() if m for kind, h in t.moves.items()),
    )


def _of_pools(placed: Mapping[str, Placed], capacity: Mapping[str, int]) -> Iterator[Family]:
    yield _family(
        names.MODEL_TIER,
        (((m, tier), tier == one.tier) for m, one in placed.items() for tier in names.TIERS),
    )
    yield _family(
        names.POOL_MEMORY,
        (
            ((m, pool), size)
            for m, one in placed.items()
            # A pool that the model has left is 0 and not gone: a query would keep its last value.
            for pool, size in {**dict.fromkeys(capacity, 0), **one.bytes_by_pool}.items()
        ),
    )
    yield _family(names.POOL_CAPACITY, (((pool,), size) for pool, size in capacity.items()))
    yield _family(names.LOAD_WAITING, ((_of(m), one.waiting) for m, one in placed.items()))


def _of_keys(snapshot: Snapshot) -> Iterator[Family]:
    yield _family(names.KEY_REQUESTS, ((key, t.requests) for key, t in snapshot.keys.items()))
    yield _family(
        names.KEY_TOKENS,
        (
            sample
            for key, t in snapshot.keys.items()
            for sample in (
                ((*key, "prompt"), t.prompt_tokens),
                ((*key, "completion"), t.completion_tokens),
            )
        ),
    )


def _of(model: str) -> Labels:
    return (model,)


def _quantiles(found: Mapping[str, HistogramSnapshot]) -> Iterator[tuple[Labels, float]]:
    for model, histogram in found.items():
        for q in names.QUANTILES:
            value = histogram.quantile(q)
            if value is not None:
                yield (model, f"{q:g}"), value


def _family(metric: Metric, samples: Iterable[tuple[Labels, float]]) -> Family:
    is_counter = metric.kind is MetricKind.COUNTER
    kind: Any = CounterMetricFamily if is_counter else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family  # type: ignore[no-any-return]


def _histogram(metric: Metric, samples: Iterable[tuple[Labels, HistogramSnapshot]]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    bounds = [*map(floatToGoString, metric.bounds), "+Inf"]
    for labels, histogram in samples:
        buckets = list(zip(bounds, histogram.coarse(metric.bounds), strict=True))
        family.add_metric(labels, buckets, histogram.sum)
    return family
