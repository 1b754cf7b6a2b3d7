"""The one table of metrics: Prometheus name, unit, labels, help, buckets and ClearML scalar title.

Prometheus exporter, ClearML scalars and documentation read it; nobody spells a metric's name twice.
The scalar titles are public: reports embed them. Where the OpenTelemetry semantic conventions for
generative AI have a metric, its name, labels and bucket bounds are theirs in the form that
Prometheus gives them (dots become underscores, the unit is the ending).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from common.telemetry.histogram import (
    DURATION_BOUNDS,
    FIRST_TOKEN_BOUNDS,
    PER_TOKEN_BOUNDS,
    WAIT_BOUNDS,
)

PREFIX = "clearml_deploy"
GEN_AI = "gen_ai_server"
PROVIDER = "clearml_deploy"
"""Value of the convention's label ``gen_ai_provider_name``."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the classic text format, which every Prometheus reads; the names here need no later one."""

QUANTILES = (0.5, 0.95, 0.99)
STATUSES = ("loading", "ready", "sleeping", "offloaded", "failed")
TIERS = ("gpu", "cpu", "disk")

_OF_MODEL = ("model",)
_GEN_AI_LABELS = ("gen_ai_request_model", "gen_ai_operation_name", "gen_ai_provider_name")


class MetricKind(str, enum.Enum):
    """Prometheus type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: Prometheus name; a counter's ends in ``_total``.
        kind: Prometheus type.
        unit: Base unit of the Prometheus value: ``seconds``, ``bytes``, or what is counted.
        labels: Label names in order.
        help: One sentence for the exposition and the documentation.
        scalar_title: Title of the ClearML scalar with one series per model; empty: not reported.
        scalar_scale: What the value is multiplied with to get the scalar's unit.
        bounds: Upper bounds of a histogram's buckets.
    """

    name: str
    kind: MetricKind
    unit: str
    labels: tuple[str, ...]
    help: str
    scalar_title: str = ""
    scalar_scale: float = 1.0
    bounds: tuple[float, ...] = ()


def _counter(
    name: str, unit: str, labels: tuple[str, ...], text: str, scalar_title: str = ""
) -> Metric:
    return Metric(f"{PREFIX}_{name}_total", MetricKind.COUNTER, unit, labels, text, scalar_title)


def _gauge(
    name: str, unit: str, labels: tuple[str, ...], text: str, scalar_title: str = ""
) -> Metric:
    scale = 1.0 / 2**30 if unit == "bytes" else 1.0
    return Metric(f"{PREFIX}_{name}", MetricKind.GAUGE, unit, labels, text, scalar_title, scale)


def _quantiles(name: str, text: str) -> Metric:
    return _gauge(
        f"{name}_quantile_seconds",
        "seconds",
        ("model", "quantile"),
        f"{text}: median, 95th and 99th percentile since the start, within 3 %.",
    )


def _times(name: str, bounds: tuple[float, ...], text: str, scalar_title: str = "") -> Metric:
    is_gen_ai = name.startswith(GEN_AI)
    return Metric(
        f"{name}_seconds",
        MetricKind.HISTOGRAM,
        "seconds",
        _GEN_AI_LABELS if is_gen_ai else _OF_MODEL,
        text,
        scalar_title,
        1000.0,
        bounds,
    )


REQUESTS = _counter(
    "requests",
    "requests",
    ("model", "outcome", "status"),
    "Ended requests by outcome and HTTP status (499: the client left); "
    "an empty model: refused before it was known which.",
    "Total Number of Requests",
)
IN_FLIGHT = _gauge(
    "requests_in_flight",
    "requests",
    _OF_MODEL,
    "Requests that the engine is working on.",
    "Requests in Flight",
)
WAITING = _gauge(
    "requests_waiting",
    "requests",
    _OF_MODEL,
    "Requests that wait for a place, or for the model to load or wake.",
    "Queue",
)
PROMPT_TOKENS = _counter(
    "prompt_tokens", "tokens", _OF_MODEL, "Prompt tokens processed, by the engine's own counter."
)
GENERATED_TOKENS = _counter(
    "generated_tokens",
    "tokens",
    _OF_MODEL,
    "Tokens generated, by the engine's own counter.",
    "Tokens per Second",
)
REQUEST_TOKENS = _counter(
    "request_tokens",
    "tokens",
    ("model", "type", "estimated"),
    "Tokens by the usage that answers name (type: prompt or completion); estimated: counted from "
    "the events of streams that name none.",
)
LATENCY = _times(
    f"{GEN_AI}_request_duration",
    DURATION_BOUNDS,
    "Time from a request's arrival to the end of its answer, answered requests only.",
    "Latency (ms)",
)
TIME_TO_FIRST_TOKEN = _times(
    f"{GEN_AI}_time_to_first_token",
    FIRST_TOKEN_BOUNDS,
    "Time from a request's arrival to the engine's first byte of a streamed answer.",
    "Time to First Token (ms)",
)
TIME_PER_TOKEN = _times(
    f"{GEN_AI}_time_per_output_token",
    PER_TOKEN_BOUNDS,
    "Time per token after the first one, of streamed answers.",
)
LATENCY_QUANTILES = _quantiles("request_duration", "Time of answered requests")
FIRST_TOKEN_QUANTILES = _quantiles("time_to_first_token", "Time to the first byte of streams")
PER_TOKEN_QUANTILES = _quantiles("time_per_output_token", "Time per token of streams")
QUEUE_TIME = _times(
    f"{PREFIX}_queue_time",
    WAIT_BOUNDS,
    "Time that requests waited for a place at their model; only those that had to.",
)
WAKE_TIME = _times(
    f"{PREFIX}_wake_time",
    WAIT_BOUNDS,
    "Time that requests waited for their model to load or wake; only those that had to.",
)
MODEL_STATUS = _gauge(
    "model_status",
    "state",
    ("model", "status"),
    "1 for the status that the model has, 0 for the others: loading, ready, sleeping, offloaded, "
    "failed.",
)
MEMORY = _gauge(
    "model_memory_bytes",
    "bytes",
    _OF_MODEL,
    "Memory that the model's engine holds.",
    "Memory (GiB)",
)
MODEL_TIER = _gauge(
    "model_tier",
    "state",
    ("model", "tier"),
    "1 for the tier that the model is in, 0 for the others: gpu (it can answer), cpu (asleep in RAM), "
    "disk (stopped); of models that are moved by themselves.",
)
POOL_MEMORY = _gauge(
    "model_pool_bytes",
    "bytes",
    ("model", "pool"),
    "Memory that is counted for the model in a pool (gpu0 and further, resident, host, held) when "
    "models are moved.",
)
POOL_CAPACITY = _gauge(
    "memory_pool_capacity_bytes",
    "bytes",
    ("pool",),
    "Memory of a pool that all models together may take.",
)
LOAD_WAITING = _gauge(
    "requests_waiting_for_load",
    "requests",
    _OF_MODEL,
    "Requests that wait for the model to be loaded or woken; of models that are moved by themselves.",
)
MODEL_MOVES = Metric(
    f"{PREFIX}_model_move_seconds",
    MetricKind.HISTOGRAM,
    "seconds",
    ("model", "kind"),
    "Time that the model took to move; kind: load, wake, sleep or stop.",
    "Model Moves (s)",
    bounds=WAIT_BOUNDS,
)
KEY_REQUESTS = _counter(
    "key_requests", "requests", ("key", "model"), "Ended requests by the name of their API key."
)
KEY_TOKENS = _counter(
    "key_tokens",
    "tokens",
    ("key", "model", "type"),
    "Tokens by the name of the API key (type: prompt or completion), estimated ones included.",
)
ENGINE_SCRAPE = _gauge(
    "engine_scrape_success",
    "state",
    _OF_MODEL,
    "1 when the engine's own metrics are passed on below, 0 when it gave none that can be read.",
)

METRICS: tuple[Metric, ...] = (
    REQUESTS,
    IN_FLIGHT,
    WAITING,
    PROMPT_TOKENS,
    GENERATED_TOKENS,
    REQUEST_TOKENS,
    LATENCY,
    TIME_TO_FIRST_TOKEN,
    TIME_PER_TOKEN,
    LATENCY_QUANTILES,
    FIRST_TOKEN_QUANTILES,
    PER_TOKEN_QUANTILES,
    QUEUE_TIME,
    WAKE_TIME,
    MODEL_STATUS,
    MEMORY,
    MODEL_TIER,
    POOL_MEMORY,
    POOL_CAPACITY,
    LOAD_WAITING,
    MODEL_MOVES,
    KEY_REQUESTS,
    KEY_TOKENS,
    ENGINE_SCRAPE,
)
