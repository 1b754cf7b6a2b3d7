"""What the gateway's page and metrics show of a running instance."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from common.engines.process_tree import read_tree
from common.runtime.app import AnySettings
from common.runtime.background import in_background
from common.runtime.console import Console
from common.runtime.idle import idle_seconds, instance_status

if TYPE_CHECKING:
    from common.runtime.hosted_model import HostedModel
    from common.runtime.instance import Instance

TICK_EVERY_S = 5.0
"""Distance of the points in the page's charts."""


class RunningView:
    """Implements `common.gateway.models.InstanceView` for an instance.

    Args:
        instance: What is shown. Only read.
        settings: Its settings.
        console: Its console, for the last lines.
    """

    def __init__(self, instance: Instance, settings: AnySettings, console: Console) -> None:
        self._instance = instance
        self._settings = settings
        self._console = console
        self._next_tick = 0.0
        self._memory: dict[str, int] = {}
        # The task's page in the ClearML UI, once it is known; empty offline.
        self.web_url = ""

    @property
    def memory(self) -> Mapping[str, int]:
        """Bytes that each model's engine holds, as of the last tick; models without one are left out."""
        return self._memory

    async def metrics(self) -> tuple[bytes, str]:
        """Return the Prometheus exposition and its content type."""
        # Imported at the first scrape: an instance that nobody scrapes does not pay for it.
        from common.telemetry.prometheus import CONTENT_TYPE, PrometheusExporter

        instance = self._instance
        exporter = PrometheusExporter(
            instance.recorder.snapshot,
            lambda: {model.name: model.status for model in instance.models},
        )
        return exporter.render(), CONTENT_TYPE

    async def tick(self) -> None:
        """Measure what the charts show, if that is due; call it every few seconds."""
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + TICK_EVERY_S
        self._memory = await self._read_memory()

    def state(self) -> dict[str, Any]:
        """Return what the page shows of the instance."""
        instance = self._instance
        now = time.monotonic()
        activity = instance.activity()
        engine = instance.engine
        return {
            "instance": {
                "app": instance.app_title,
                "engine": f"{engine.label} {engine.version}".strip() if engine else "",
                "task_url": self.web_url.removesuffix("/output/log"),
                "console_url": self.web_url,
                "status": instance_status(activity, now),
                "warning": instance.access.warning if instance.access else "",
                "idle_s": idle_seconds(activity, now),
                "idle_limit_hours": self._settings.idle.idle_time_limit_hours or None,
            },
            "models": {model.name: self._model(model) for model in instance.models},
            "charts": {},
        }

    def console(self, after: int) -> dict[str, Any]:
        """Return the console lines after the one numbered `after`."""
        lines, newest = self._console.recent(after)
        return {"lines": lines, "next": newest}

    def _model(self, model: HostedModel) -> dict[str, Any]:
        return {
            "progress": self._instance.progress_of(model),
            "is_embedding": self._settings.is_embedding(model.options),
            "memory_bytes": self._memory.get(model.name),
        }

    async def _read_memory(self) -> dict[str, int]:
        found = {}
        for model in self._instance.models:
            pid = model.supervisor.pid if model.supervisor else None
            if pid is not None:
                found[model.name] = (await in_background(read_tree, pid)).rss_bytes
        return found
