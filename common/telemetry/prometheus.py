"""Render the recorder's totals as Prometheus text, with a registry of its own (nothing global)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from common.telemetry import names
from common.telemetry.histogram import DURATION_BOUNDS
from common.telemetry.recorder import HistogramSnapshot, ModelSnapshot, Snapshot

CONTENT_TYPE = CONTENT_TYPE_LATEST


class RecorderCollector(Collector):
    """Reads a snapshot at each scrape.

    Args:
        snapshot: Gives the totals, usually `Recorder.snapshot`.
        statuses: Gives the status of each model by name.
    """

    def __init__(
        self, snapshot: Callable[[], Snapshot], statuses: Callable[[], Mapping[str, str]]
    ) -> None:
        self._snapshot = snapshot
        self._statuses = statuses

    def collect(self) -> Iterator[Family]:
        """Yield the families of the table `common.telemetry.names` that the recorder feeds."""
        models = self._snapshot().models
        yield _requests(models)
        served = {name: totals for name, totals in models.items() if name}
        yield _gauge(names.IN_FLIGHT, {m: t.in_flight for m, t in served.items()})
        yield _gauge(names.WAITING, {m: t.waiting for m, t in served.items()})
        yield _histogram(names.LATENCY, {m: t.latency for m, t in served.items()})
        yield _histogram(names.TIME_TO_FIRST_TOKEN, {m: t.first_token for m, t in served.items()})
        yield _histogram(names.WAIT_TIME, {m: t.wake for m, t in served.items()})
        yield _counter(names.PROMPT_TOKENS, {m: t.prompt_tokens for m, t in served.items()})
        yield _counter(names.GENERATED_TOKENS, {m: t.generated_tokens for m, t in served.items()})
        status = names.MODEL_STATUS
        family = GaugeMetricFamily(status.name, status.help, labels=status.labels)
        for model, value in self._statuses().items():
            family.add_metric((model, value), 1)
        yield family


class PrometheusExporter:
    """The text of one instance's ``/metrics``."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], statuses: Callable[[], Mapping[str, str]]
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(RecorderCollector(snapshot, statuses))

    def render(self) -> bytes:
        """Return the exposition in the format of `CONTENT_TYPE`."""
        return generate_latest(self._registry)


def _requests(models: Mapping[str, ModelSnapshot]) -> Family:
    metric = names.REQUESTS
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for model, totals in models.items():
        for (outcome, status), count in totals.results.items():
            family.add_metric((model, outcome, str(status)), count)
    return family


def _counter(metric: names.Metric, values: Mapping[str, int]) -> Family:
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for model, value in values.items():
        family.add_metric((model,), value)
    return family


def _gauge(metric: names.Metric, values: Mapping[str, int]) -> Family:
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for model, value in values.items():
        family.add_metric((model,), value)
    return family


def _histogram(metric: names.Metric, values: Mapping[str, HistogramSnapshot]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for model, histogram in values.items():
        bounds = [*map(floatToGoString, DURATION_BOUNDS), "+Inf"]
        buckets = list(zip(bounds, histogram.coarse(DURATION_BOUNDS), strict=True))
        family.add_metric((model,), buckets, histogram.sum)
    return family
