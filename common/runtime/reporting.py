"""The loop that tells ClearML what the instance does: status, points, model endpoints, plots."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from common.clearml.instance import InstanceTask
from common.clearml.model_endpoints import REPORT_EVERY_S
from common.runtime.app import AnySettings
from common.runtime.endpoint_rows import LastMinute, ModelFacts, endpoint_entry
from common.runtime.engine_memory import EngineMemory
from common.runtime.hosted_model import HostedModel
from common.runtime.idle import InstanceStatus, idle_seconds, instance_status
from common.runtime.instance import Instance
from common.runtime.memory_words import memory_words, status_words, tier_words
from common.runtime.status import ModelRow, status_values
from common.telemetry.plots import (
    LATENCY_PLOT,
    MODELS_PLOT,
    Figure,
    ModelLine,
    latency_figure,
    models_figure,
)
from common.telemetry.scalars import memory_scalars, scalars_between

IDLE_SCALAR = ("Idle Time (Hours)", "instance")


@dataclass(frozen=True)
class Rates:
    """Seconds between two reports of a kind.

    Attributes:
        status: ``Status/*``, as far as it changed; nothing is reported more often.
        snapshot: What the last minute of Model Endpoints is measured with.
        scalars: The models' points.
        endpoints: Rows of Model Endpoints.
        plots: Plots that changed.
    """

    status: float = 2.0
    snapshot: float = 5.0
    scalars: float = 15.0
    endpoints: float = REPORT_EVERY_S
    plots: float = 60.0


RATES = Rates()
"""What a server is asked to bear."""


class _Timer:
    """Is due at once, and then at an interval."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next = 0.0

    def is_due(self, now: float) -> bool:
        if now < self._next:
            return False
        self._next = now + self._every_s
        return True


class Reporting:
    """Writes an instance's status when it changes, and the rest at fixed rates.

    Args:
        instance: What is reported.
        task: Where to; nothing here waits for the server.
        settings: The instance's settings.
        say: Gets a line for the console when the status changes.
        memory: Reads the machine.
        rates: How often.
    """

    def __init__(
        self,
        instance: Instance,
        task: InstanceTask,
        settings: AnySettings,
        say: Callable[[str], None],
        memory: EngineMemory | None = None,
        rates: Rates = RATES,
    ) -> None:
        self._instance = instance
        self._task = task
        self._say = say
        self._limit_hours = settings.idle.idle_time_limit_hours
        self._facts = {
            model.name: ModelFacts(
                task.id, model.name, model.options, settings.is_embedding(model.options)
            )
            for model in instance.models
        }
        self._memory = memory or EngineMemory()
        self._last = instance.recorder.snapshot()
        self._minute = LastMinute()
        self._minute.add(self._last)
        self._said: InstanceStatus = "loading"
        self._serving_since: dict[str, float] = {}
        self._rows: list[tuple[str, str]] = []
        # The pools in which each model was: one that it has left is reported as 0.
        self._pools: dict[str, tuple[str, ...]] = {}
        self._plotted: dict[tuple[str, str], Figure] = {}
        self._snapshot_timer = _Timer(rates.snapshot)
        self._scalars_timer = _Timer(rates.scalars)
        self._endpoints_timer = _Timer(rates.endpoints)
        self._plots_timer = _Timer(rates.plots)
        self._last_action_timer = _Timer(settings.idle.report_interval_s)

    async def tick(self) -> None:
        """One turn: cheap unless something is due."""
        self.write_status(None)
        self._say_status(instance_status(self._instance.activity(), time.monotonic()))
        now = time.monotonic()
        if self._snapshot_timer.is_due(now):
            self._minute.add(self._instance.recorder.snapshot())
        if self._scalars_timer.is_due(now):
            await self._memory.read(self._instance.models)
            await self.write_scalars()
        self._report_endpoints(now)
        if self._plots_timer.is_due(now):
            self._report_plots()
        if self._last_action_timer.is_due(now):
            self._report_last_action(now)

    def write_status(self, ending: InstanceStatus | None) -> None:
        """Write ``Status/*``; `ending` overrides what the activity says. Any thread may call it."""
        instance = self._instance
        now = time.monotonic()
        activity = instance.activity()
        rows = [self._row(model) for model in instance.models]
        # At the end the engines are stopped, not set aside: no request brings them back.
        ready = 0 if ending else sum(self._kind(model) == "serving" for model in instance.models)
        values = status_values(
            ending or instance_status(activity, now),
            rows,
            idle_s=idle_seconds(activity, now),
            limit_hours=self._limit_hours,
            placeholder=instance.access.placeholder if instance.access else None,
        )
        self._task.set_status(values)
        self._task.set_properties({"models_ready": f"{ready}/{len(rows)}"})

    async def write_scalars(self, *, has_engines: bool = True) -> None:
        """Report what happened since the last report, one series per model; without `has_engines`
        nothing of their memory."""
        await self._instance.tokens.read()
        snapshot = self._instance.recorder.snapshot()
        points: list[tuple[str, str, float]] = list(scalars_between(self._last, snapshot))
        self._last = snapshot
        if has_engines:
            points += memory_scalars(self._memory.models, self._memory_by_pool())
        self._task.report_scalars(points)

    def _memory_by_pool(self) -> dict[str, Mapping[str, int]]:
        """What is counted for models that are moved; of others what was measured."""
        known = dict(self._memory.by_pool)
        for model in self._instance.models:
            memory = model.memory
            if memory is not None:
                before = dict.fromkeys(self._pools.get(model.name, ()), 0)
                known[model.name] = pools = {**before, **memory.bytes_by_pool}
                self._pools[model.name] = tuple(pools)
        return known

    async def write_end(self, ending: InstanceStatus) -> None:
        """Write the last points, plots and the last status; the engines have ended."""
        await self.write_scalars(has_engines=False)
        self._report_plots()
        self._report_requests()
        self.write_status(ending)

    def _say_status(self, status: InstanceStatus) -> None:
        if status != self._said:
            self._said = status
            self._say(f"Status: {status}")

    def _report_endpoints(self, now: float) -> None:
        """Report the rows of the models, in time and whenever one gets or loses its address."""
        rows = [(model.name, self._kind(model)) for model in self._instance.models]
        for name, kind in rows:
            if kind == "serving":
                self._serving_since.setdefault(name, now)
            else:
                self._serving_since.pop(name, None)
        if not self._endpoints_timer.is_due(now) and rows == self._rows:
            return
        self._rows = rows
        self._report_requests()
        snapshot = self._instance.recorder.snapshot()
        before = self._minute.start(snapshot)
        entries = [
            endpoint_entry(
                self._facts[model.name],
                # One that is being woken keeps its address.
                "ready" if kind == "serving" else model.status,
                self._row(model).url,
                now=snapshot,
                before=before,
                uptime_s=now - self._serving_since.get(model.name, now),
                machine=self._memory.machine,
            )
            for model, (_, kind) in zip(self._instance.models, rows, strict=True)
        ]
        self._task.set_endpoints(entry for entry in entries if entry is not None)

    def _report_requests(self) -> None:
        models = self._instance.recorder.snapshot().models
        total = sum(totals.requests for name, totals in models.items() if name)
        self._task.set_properties({"requests": str(total)})

    def _report_plots(self) -> None:
        """Send the plots that changed."""
        models = self._instance.recorder.snapshot().models
        rows = [self._row(model) for model in self._instance.models]
        lines = [
            ModelLine(
                row.name,
                status_words(row.status, row.memory),
                row.url,
                models[row.name].requests,
                models[row.name].prompt_tokens,
                models[row.name].generated_tokens,
                tier_words(row.memory) if row.memory is not None else "",
                memory_words(row.memory) if row.memory is not None else "",
            )
            for row in rows
        ]
        figures = {MODELS_PLOT: models_figure(lines)}
        latency = {row.name: models[row.name].latency for row in rows}
        if any(histogram.count for histogram in latency.values()):
            figures[LATENCY_PLOT] = latency_figure(latency)
        for (title, series), figure in figures.items():
            if self._plotted.get((title, series)) != figure:
                self._plotted[title, series] = figure
                self._task.report_plot(title, series, figure)

    def _report_last_action(self, now: float) -> None:
        """Say when the instance was last used, and that it lives, whatever the machine's metrics say."""
        idle_s = idle_seconds(self._instance.activity(), now)
        when = datetime.now(timezone.utc) - timedelta(seconds=idle_s)
        self._task.set_status({"last_action": when.isoformat(timespec="seconds")})
        self._task.report_scalars([(*IDLE_SCALAR, idle_s / 3600)])
        self._task.ping()

    def _kind(self, model: HostedModel) -> str:
        status = model.status
        if status == "loading" and model.name in self._serving_since and model.memory is not None:
            # It takes turns with others: requests wait for it and are answered, so it keeps its row.
            return "serving"
        return status if status in ("loading", "failed") else "serving"

    def _row(self, model: HostedModel) -> ModelRow:
        gateway = self._instance.gateway
        return ModelRow(
            name=model.name,
            url=gateway.url_for(model.name) if gateway else "",
            status=model.status,
            progress=self._instance.progress_of(model),
            is_embedding=self._facts[model.name].is_embedding,
            memory=model.memory,
        )
