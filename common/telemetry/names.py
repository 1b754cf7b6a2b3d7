"""The one table of metrics: Prometheus name, unit, labels, help and ClearML scalar title.

Prometheus exporter, ClearML scalars and documentation read it; nobody spells a metric's name twice.
The scalar titles are public: reports embed them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

PREFIX = "clearml_deploy"


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
    """

    name: str
    kind: MetricKind
    unit: str
    labels: tuple[str, ...]
    help: str
    scalar_title: str = ""
    scalar_scale: float = 1.0


REQUESTS = Metric(
    f"{PREFIX}_requests_total",
    MetricKind.COUNTER,
    "requests",
    ("model", "outcome", "status"),
    "Finished requests by outcome and HTTP status (499: the client left).",
    "Total Number of Requests",
)
IN_FLIGHT = Metric(
    f"{PREFIX}_requests_in_flight",
    MetricKind.GAUGE,
    "requests",
    ("model",),
    "Requests that the engine is working on.",
    "Requests in Flight",
)
WAITING = Metric(
    f"{PREFIX}_requests_waiting",
    MetricKind.GAUGE,
    "requests",
    ("model",),
    "Requests that wait for the model to load or wake.",
    "Queue",
)
LATENCY = Metric(
    f"{PREFIX}_request_duration_seconds",
    MetricKind.HISTOGRAM,
    "seconds",
    ("model",),
    "Time from a request's arrival to the end of its answer, answered requests only.",
    "Latency (ms)",
    1000.0,
)
TIME_TO_FIRST_TOKEN = Metric(
    f"{PREFIX}_time_to_first_token_seconds",
    MetricKind.HISTOGRAM,
    "seconds",
    ("model",),
    "Time from a request's arrival to the engine's first byte of a streamed answer.",
    "Time to First Token (ms)",
    1000.0,
)
WAIT_TIME = Metric(
    f"{PREFIX}_load_wait_seconds",
    MetricKind.HISTOGRAM,
    "seconds",
    ("model",),
    "Time that requests waited for their model to load or wake; only those that had to.",
)
PROMPT_TOKENS = Metric(
    f"{PREFIX}_prompt_tokens_total",
    MetricKind.COUNTER,
    "tokens",
    ("model",),
    "Prompt tokens processed, from the engine's own counter.",
)
GENERATED_TOKENS = Metric(
    f"{PREFIX}_generated_tokens_total",
    MetricKind.COUNTER,
    "tokens",
    ("model",),
    "Tokens generated, from the engine's own counter.",
    "Tokens per Second",
)
MODEL_STATUS = Metric(
    f"{PREFIX}_model_status",
    MetricKind.GAUGE,
    "state",
    ("model", "status"),
    "1 for the status that the model has: loading, ready, sleeping, offloaded or failed.",
)
MEMORY = Metric(
    f"{PREFIX}_model_memory_bytes",
    MetricKind.GAUGE,
    "bytes",
    ("model",),
    "Memory that the model's engine holds.",
    "Memory (GiB)",
    1.0 / 2**30,
)
MODEL_MOVES = Metric(
    f"{PREFIX}_model_move_seconds",
    MetricKind.HISTOGRAM,
    "seconds",
    ("model",),
    "Time that the model took to load, wake, sleep or stop.",
    "Model Moves (s)",
)

METRICS: tuple[Metric, ...] = (
    REQUESTS,
    IN_FLIGHT,
    WAITING,
    LATENCY,
    TIME_TO_FIRST_TOKEN,
    WAIT_TIME,
    PROMPT_TOKENS,
    GENERATED_TOKENS,
    MODEL_STATUS,
    MEMORY,
    MODEL_MOVES,
)
