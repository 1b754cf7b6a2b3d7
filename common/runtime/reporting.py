"""The loop that tells ClearML what the instance does: status, scalars, the engines' token counts."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta, timezone

from common.clearml.instance import InstanceTask
from common.engines.process_tree import read_tree
from common.errors import EngineCrashError
from common.runtime.app import AnySettings
from common.runtime.background import in_background
from common.runtime.hosted_model import HostedModel
from common.runtime.idle import InstanceStatus, idle_seconds, instance_status
from common.runtime.instance import Instance
from common.runtime.status import ModelRow, status_values
from common.telemetry.engine_metrics import parse_engine_tokens
from common.telemetry.scalars import scalars_between

STATUS_EVERY_S = 2.0
SCALARS_EVERY_S = 15.0
_METRICS_TIMEOUT_S = 2.0
_GIB = 1024**3


class Reporting:
    """Writes an instance's status when it changes and its scalars at a fixed rate."""

    def __init__(
        self,
        instance: Instance,
        task: InstanceTask,
        settings: AnySettings,
    ) -> None:
        self._instance = instance
        self._task = task
        self._limit_hours = settings.idle.idle_time_limit_hours
        self._embedding = frozenset(
            m.name for m in instance.models if settings.is_embedding(m.options)
        )
        self._last = instance.recorder.snapshot()
        self._counted: dict[str, int] = {}
        self._next_scalars = 0.0
        self._last_action_every_s = settings.idle.report_interval_s
        self._next_last_action = 0.0

    async def tick(self) -> None:
        """One turn: cheap unless something is due."""
        self.write_status(None)
        now = time.monotonic()
        if now >= self._next_scalars:
            self._next_scalars = now + SCALARS_EVERY_S
            await self.write_scalars()
        if now >= self._next_last_action:
            self._next_last_action = now + self._last_action_every_s
            self._report_last_action(now)

    def write_status(self, ending: InstanceStatus | None) -> None:
        """Write ``Status/*``; `ending` overrides what the activity says."""
        instance = self._instance
        now = time.monotonic()
        activity = instance.activity()
        values = status_values(
            ending or instance_status(activity, now),
            [self._row(model) for model in instance.models],
            idle_s=idle_seconds(activity, now),
            limit_hours=self._limit_hours,
            embedding=self._embedding,
        )
        self._task.set_status(values)

    async def write_scalars(self) -> None:
        """Report what happened since the last report, one series per model."""
        await self.count_tokens()
        snapshot = self._instance.recorder.snapshot()
        points: list[tuple[str, str, float]] = list(scalars_between(self._last, snapshot))
        self._last = snapshot
        for model in self._instance.models:
            pid = model.supervisor.pid if model.supervisor else None
            if pid is not None:
                memory = (await in_background(read_tree, pid)).rss_bytes
                if memory:
                    points.append(("Memory (GiB)", model.name, memory / _GIB))
        self._task.report_scalars(points)

    async def count_tokens(self, timeout_s: float = _METRICS_TIMEOUT_S) -> None:
        """Take the token totals of the engines that run; before these end, the last chance for it."""
        await asyncio.gather(
            *(self._count_tokens(model, timeout_s) for model in self._instance.models)
        )

    def _report_last_action(self, now: float) -> None:
        """Say when the instance was last used, and that it lives, whatever the machine's metrics say."""
        idle_s = idle_seconds(self._instance.activity(), now)
        when = datetime.now(timezone.utc) - timedelta(seconds=idle_s)
        self._task.set_status({"last_action": when.isoformat(timespec="seconds")})
        self._task.ping()

    def _row(self, model: HostedModel) -> ModelRow:
        gateway = self._instance.gateway
        return ModelRow(
            name=model.name,
            url=gateway.url_for(model.name) if gateway else "",
            status=model.status,
            progress=self._instance.progress_of(model),
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
        try:
            tokens = parse_engine_tokens(await gateway.engine_text(model.name, path, timeout_s))
        except (EngineCrashError, ValueError):
            return  # the engine is busy or gone; its totals are read next time
        if tokens is not None:
            self._instance.recorder.observe_engine_tokens(model.name, tokens)
        if not requests.in_flight:
            self._counted[model.name] = seen
