"""All that is counted of an instance: its requests, tokens and moves, per model.

The recorder belongs to the event loop of the gateway; `Recorder.snapshot` may be called from any
thread, costs microseconds per model and returns immutable values for the exporters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from common.telemetry.engine_metrics import EngineTokens
from common.telemetry.histogram import HistogramSnapshot
from common.telemetry.record import CLIENT_CLOSED_STATUS, Outcome, RequestRecord
from common.telemetry.totals import KeyTotals, ModelSnapshot, ModelTotals, Snapshot
from common.telemetry.usage import RequestUsage

__all__ = [
    "CLIENT_CLOSED_STATUS",
    "HistogramSnapshot",
    "KeyTotals",
    "ModelSnapshot",
    "Outcome",
    "Recorder",
    "RequestRecord",
    "RequestUsage",
    "Snapshot",
]


class Recorder:
    """Totals per model, and when the instance was last used.

    Args:
        models: Served model names: each has its totals from the start, so that a model without
            requests is reported with zeros.
        clock: Monotonic seconds.

    Attributes:
        now: The clock.
        last_activity: When the last request of a model ended; None before.
        open_requests: Requests assigned to a model and not closed: with any, the instance is
            active. Only the records change it.
        models: Totals by model; only for the records.
        has_engine_counters: Whether the engines count tokens; if not, those of the requests' usage
            stand in for them.
    """

    def __init__(
        self, models: Iterable[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.now = clock
        self.last_activity: float | None = None
        self.open_requests = 0
        self.has_engine_counters = True
        self.models: dict[str, ModelTotals] = {}
        self.add_models(models)

    def add_models(self, models: Iterable[str]) -> None:
        """Have these models reported from now on, also without requests."""
        for model in models:
            self.totals_of(model)

    def open(self) -> RequestRecord:
        """Begin the record of a request that just arrived."""
        return RequestRecord(self, self.now())

    def observe_engine_tokens(
        self, model: str, tokens: EngineTokens, asked_at: float | None = None
    ) -> None:
        """Take over the engine's own totals, as they were just read.

        Args:
            model: Its name.
            tokens: The reading.
            asked_at: The recorder's clock before the engine was asked: where several read at the
                same time, one that was overtaken is not taken for a restarted engine. None: now.
        """
        now = self.now()
        self.totals_of(model).engine.observe(tokens, now if asked_at is None else asked_at, now)

    def engine_ended(self, model: str) -> None:
        """A model's engine ended: its totals begin at zero again, and nothing so far is lost.

        Without this call a restart shows only when a total fell; one that has already generated
        more than before would be taken for the same life. May be called again at any time.
        """
        self.totals_of(model).engine.end(self.now())

    def observe_move(self, model: str, kind: str, seconds: float) -> None:
        """A model was moved.

        Args:
            model: Its name.
            kind: ``load``, ``wake``, ``sleep`` or ``stop``.
            seconds: How long that took.
        """
        self.totals_of(model).move(kind).observe(seconds)

    def snapshot(self) -> Snapshot:
        """Return all totals as they are now; model ``""`` holds requests that reached no model."""
        models = list(self.models.items())
        return Snapshot(
            at=self.now(),
            models={
                name: totals.snapshot(has_engine_counters=self.has_engine_counters)
                for name, totals in models
            },
            last_activity=self.last_activity,
            keys={
                (key, name): counts
                for name, totals in models
                for key, counts in totals.key_snapshots().items()
            },
        )

    def totals_of(self, model: str) -> ModelTotals:
        """Return what a model's records add to; the records' own way in."""
        totals = self.models.get(model)
        if totals is None:
            totals = self.models[model] = ModelTotals()
        return totals
