"""The loop that tells ClearML what the instance does: status, points, model endpoints, plots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from common.clearml.instance import InstanceTask
from common.clearml.model_endpoints import REPORT_EVERY_S
from common.errors import EngineCrashError
from common.runtime.app import AnySettings
from common.runtime.endpoint_rows import LastMinute, ModelFacts, endpoint_entry
from common.runtime.engine_memory import EngineMemory
from common.runtime.hosted_model import HostedModel
from common.runtime.idle import InstanceStatus, idle_seconds, instance_status
from common.runtime.instance import Instance
from common.runtime.status import ModelRow, status_values
from common.telemetry.engine_metrics import parse_engine_tokens
from common.telemetry.plots import (
    LATENCY_PLOT,
    MODELS_PLOT,
    Figure,
    ModelLine,
    latency_figure,
    models_figure,
)
from common.telemetry.scalars import memory_scalars, scalars_between

STATUS_EVERY_S = 2.0
SCALARS_EVERY_S = 15.0
PLOTS_EVERY_S = 60.0
IDLE_SCALAR = ("Idle Time (Hours)", "instance")
_SNAPSHOT_EVERY_S = 5.0
_METRICS_TIMEOUT_S = 2.0


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
    """

    def __init__(
        self,
        instance: Instance,
        task: InstanceTask,
        settings: AnySettings,
        say: Callable[[str], None],
        memory: EngineMemory | None = None,
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
        self._counted: dict[str, int] = {}
        self._said: InstanceStatus = "loading"
        self._serving_since: dict[str, float] = {}
        self._rows: list[tuple[str, str]] = []
        self._plotted: dict[tuple[str, str], Figure] = {}
        self._snapshot_timer = _Timer(_SNAPSHOT_EVERY_S)
        self._scalars_timer = _Timer(SCALARS_EVERY_S)
        self._endpoints_timer = _Timer(REPORT_EVERY_S)
        self._plots_timer = _Timer(PLOTS_EVERY_S)
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
        ready = sum(row.status not in ("loading", "failed") for row in rows)
        values = status_values(
            ending or instance_status(activity, now),
            rows,
            idle_s=idle_seconds(activity, now),
            limit_hours=self._limit_hours,
            placeholder=instance.access.placeholder if instance.access else None,
        )
        self._task.set_status(values)
        self._task.set_properties({"models_ready": f"{ready}/{len(rows)}"})

    async def write_scalars(self) -> None:
        """Report what happened since the last report, one series per model."""
        await self.count_tokens()
        snapshot = self._instance.recorder.snapshot()
        points: list[tuple[str, str, float]] = list(scalars_between(self._last, snapshot))
        self._last = snapshot
        points += memory_scalars(self._memory.models)
        self._task.report_scalars(points)

    async def write_end(self, ending: InstanceStatus) -> None:
        """Write the last points, plots and the last status; the engines have ended."""
        self._memory.models = {}
        await self.write_scalars()
        self._report_plots()
        self._report_requests()
        self.write_status(ending)

    async def count_tokens(self, timeout_s: float = _METRICS_TIMEOUT_S) -> None:
        """Take the token totals of the engines that run; before these end, the last chance for it."""
        await asyncio.gather(
            *(self._count_tokens(model, timeout_s) for model in self._instance.models)
        )

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
                model.status,
                self._row(model).url,
                now=snapshot,
                before=before,
                uptime_s=now - self._serving_since.get(model.name, now),
                machine=self._memory.machine,
            )
            for model in self._instance.models
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
                row.status,
                row.url,
                models[row.name].requests,
                models[row.name].prompt_tokens,
                models[row.name].generated_tokens,
            )
            for row in rows
        ]
        figures = {
            MODELS_PLOT: models_figure(lines),
            LATENCY_PLOT: latency_figure({row.name: models[row.name].latency for row in rows}),
        }
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
        return model.status if model.status in ("loading", "failed") else "serving"

    def _row(self, model: HostedModel) -> ModelRow:
        gateway = self._instance.gateway
        return ModelRow(
            name=model.name,
            url=gateway.url_for(model.name) if gateway else "",
            status=model.status,
            progress=self._instance.progress_of(model),
            is_embedding=self._facts[model.name].is_embedding,
        )

    async def _count_tokens(self, model: HostedModel, timeout_s: float) -> None:
        """Take the engine's own token totals, unless no request has come since the last time."""
        engine = self._instance.engine
        path = engine.metrics_path if engine else None
        requests = self._instance.recorder.snapshot().models[model.name]
        seen = requests.requests + requests.in_flight
        gateway = self._instance.gateway
        if (
            gateway is None
            or path is None
            or model.status != "ready"
            or self._counted.get(model.name) == seen
        ):
            return
        asked_at = self._instance.recorder.now()
        try:
            text = await gateway.engine_text(model.name, path, timeout_s)
            # That of vLLM is long enough to hold up a stream.
            tokens = await asyncio.to_thread(parse_engine_tokens, text)
        except (EngineCrashError, ValueError):
            return  # the engine is busy or gone; its totals are read next time
        if tokens is not None:
            self._instance.recorder.observe_engine_tokens(model.name, tokens, asked_at)
        if not requests.in_flight:
            self._counted[model.name] = seen
