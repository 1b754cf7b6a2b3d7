"""One record per request, closed in every outcome, and the totals per model that they make.

The recorder belongs to the event loop of the gateway; `Recorder.snapshot` may be called from any
thread, costs microseconds and returns immutable values for the exporters.
"""

from __future__ import annotations

import enum
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from common.telemetry.engine_metrics import EngineTokens

# Upper bounds in seconds: from a cached answer on a GPU to a long generation on a CPU.
LATENCY_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
FIRST_TOKEN_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60)
WAIT_BOUNDS = (0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)

CLIENT_CLOSED_STATUS = 499


class Outcome(str, enum.Enum):
    """How a request ended."""

    OK = "ok"  # the engine's whole answer was passed on, whatever its status
    REFUSED = "refused"  # the gateway said no: key, size, limits, unknown model, draining
    CLIENT_CLOSED = "client_closed"
    ENGINE_DIED = "engine_died"  # before its answer or in the middle of it
    TIMEOUT = "timeout"  # the model was not ready in time
    STOPPED = "stopped"  # cut off by the end of the instance
    INTERNAL = "internal"  # our own mistake


@dataclass(frozen=True)
class HistogramSnapshot:
    """Counts per bucket (not cumulative, the last is above all bounds), their sum and number."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float
    count: int


@dataclass(frozen=True)
class ModelSnapshot:
    """Totals of one model since the start; `results` counts by (outcome, status)."""

    requests: int
    results: Mapping[tuple[str, int], int]
    in_flight: int
    waiting: int
    latency: HistogramSnapshot
    first_token: HistogramSnapshot
    wait: HistogramSnapshot
    prompt_tokens: int
    generated_tokens: int


@dataclass(frozen=True)
class Snapshot:
    """All models at one moment; `at` is the recorder's clock in seconds."""

    at: float
    models: Mapping[str, ModelSnapshot]
    last_activity: float | None = None


class _Histogram:
    """Buckets that are filled by one writer."""

    __slots__ = ("bounds", "counts", "number", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.number = 0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
        self.number += 1

    def snapshot(self) -> HistogramSnapshot:
        return HistogramSnapshot(self.bounds, tuple(self.counts), self.total, self.number)


@dataclass
class _ModelTotals:
    """What one model's requests add up to."""

    requests: int = 0
    results: dict[tuple[str, int], int] = field(default_factory=dict)
    in_flight: int = 0
    waiting: int = 0
    latency: _Histogram = field(default_factory=lambda: _Histogram(LATENCY_BOUNDS))
    first_token: _Histogram = field(default_factory=lambda: _Histogram(FIRST_TOKEN_BOUNDS))
    wait: _Histogram = field(default_factory=lambda: _Histogram(WAIT_BOUNDS))
    prompt_tokens: int = 0
    generated_tokens: int = 0
    engine_tokens: EngineTokens = EngineTokens(0, 0)

    def snapshot(self) -> ModelSnapshot:
        return ModelSnapshot(
            requests=self.requests,
            results=dict(self.results),
            in_flight=self.in_flight,
            waiting=self.waiting,
            latency=self.latency.snapshot(),
            first_token=self.first_token.snapshot(),
            wait=self.wait.snapshot(),
            prompt_tokens=self.prompt_tokens,
            generated_tokens=self.generated_tokens,
        )


class RequestRecord:
    """One request from its arrival to its end. `close` must be called once; later calls do nothing.

    The way: `assign` a model, `wait` while it loads (only if it must), `start` when the engine gets
    it, `first_token` at the first byte of a streamed answer, `close`. Assigned and not closed is
    what makes an instance active; a request refused before `assign` never counts as activity.
    """

    __slots__ = (
        "_first_token",
        "_phase",
        "_recorder",
        "_totals",
        "_waited_from",
        "arrived",
        "model",
    )

    def __init__(self, recorder: Recorder, arrived: float) -> None:
        self._recorder = recorder
        self._totals: _ModelTotals | None = None
        self._phase = "open"
        self._waited_from = 0.0
        self._first_token: float | None = None
        self.arrived = arrived
        self.model = ""

    def assign(self, model: str) -> None:
        """Say which model the request is for: from now on it keeps the instance active."""
        if self._totals is None and self._phase == "open":
            self.model = model
            self._totals = self._recorder._totals_of(model)
            self._recorder._busy += 1

    def wait(self) -> None:
        """The model is not ready: the request waits."""
        if self._totals is not None and self._phase == "open":
            self._phase = "waiting"
            self._waited_from = self._recorder.now()
            self._totals.waiting += 1

    def start(self) -> None:
        """The engine gets the request."""
        if self._totals is None or self._phase not in ("open", "waiting"):
            return
        self._leave_waiting(self._totals)
        self._phase = "in_flight"
        self._totals.in_flight += 1

    def first_token(self) -> None:
        """The first byte of a streamed answer came; later calls do nothing."""
        if self._first_token is None:
            self._first_token = self._recorder.now()

    def close(self, outcome: Outcome, status: int) -> None:
        """End the record: takes it out of the gauges and adds it to the totals.

        Args:
            outcome: How it ended.
            status: HTTP status that the client got, 499 when it was gone.
        """
        if self._phase == "closed":
            return
        now = self._recorder.now()
        totals = self._totals
        if totals is None:
            totals = self._recorder._totals_of("")
        else:
            self._leave_waiting(totals)
            if self._phase == "in_flight":
                totals.in_flight -= 1
            self._recorder._busy -= 1
            self._recorder.last_activity = now
        self._phase = "closed"
        totals.requests += 1
        key = (outcome.value, status)
        totals.results[key] = totals.results.get(key, 0) + 1
        if self._first_token is not None:
            totals.first_token.observe(self._first_token - self.arrived)
        if outcome is Outcome.OK and status < 400:  # a quick "no" of the engine is no latency
            totals.latency.observe(now - self.arrived)

    @property
    def is_closed(self) -> bool:
        """Whether the end has been recorded."""
        return self._phase == "closed"

    def _leave_waiting(self, totals: _ModelTotals) -> None:
        if self._phase == "waiting":
            totals.waiting -= 1
            totals.wait.observe(self._recorder.now() - self._waited_from)


class Recorder:
    """Totals per model, and when the instance was last used.

    Args:
        models: Served model names: each has its totals from the start, so that a model without
            requests is reported with zeros.
        clock: Monotonic seconds.
    """

    def __init__(
        self, models: Iterable[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.now = clock
        self.last_activity: float | None = None
        self._busy = 0
        self._models: dict[str, _ModelTotals] = {name: _ModelTotals() for name in models}

    def open(self) -> RequestRecord:
        """Begin the record of a request that just arrived."""
        return RequestRecord(self, self.now())

    @property
    def open_requests(self) -> int:
        """Requests assigned to a model and not closed: with any, the instance is active."""
        return self._busy

    def idle_s(self, since: float) -> float:
        """Seconds since the last request ended, or since `since` if that is later; 0 while busy.

        Args:
            since: When the idle clock began, in the recorder's clock (the first model was ready).
        """
        if self._busy:
            return 0.0
        last = since if self.last_activity is None else max(since, self.last_activity)
        return max(0.0, self.now() - last)

    def observe_engine_tokens(self, model: str, tokens: EngineTokens) -> None:
        """Take over the engine's own totals; a total that fell means a restarted engine."""
        totals = self._totals_of(model)
        seen = totals.engine_tokens
        restarted = tokens.prompt < seen.prompt or tokens.generated < seen.generated
        base = EngineTokens(0, 0) if restarted else seen
        totals.prompt_tokens += tokens.prompt - base.prompt
        totals.generated_tokens += tokens.generated - base.generated
        totals.engine_tokens = tokens

    def snapshot(self) -> Snapshot:
        """Return all totals as they are now; model ``""`` holds requests that reached no model."""
        models = {name: totals.snapshot() for name, totals in list(self._models.items())}
        return Snapshot(self.now(), models, self.last_activity)

    def _totals_of(self, model: str) -> _ModelTotals:
        totals = self._models.get(model)
        if totals is None:
            totals = self._models[model] = _ModelTotals()
        return totals
