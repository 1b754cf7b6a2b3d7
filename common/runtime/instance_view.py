"""What the gateway's page and metrics show of a running instance."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.runtime.app import AnySettings, InstalledEngine
from common.runtime.console import Console
from common.runtime.engine_memory import EngineMemory
from common.runtime.engine_scrape import EngineScrape
from common.runtime.idle import idle_seconds, instance_status
from common.runtime.memory_view import SharedMemory, memory_state
from common.telemetry.history import EVERY_S, History
from common.telemetry.names import CONTENT_TYPE

if TYPE_CHECKING:
    from common.runtime.hosted_model import HostedModel
    from common.runtime.instance import Instance


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
        self._history = History()
        # The first interval begins before the gateway opens: no request is left out.
        self._history.tick(instance.recorder.snapshot(), {})
        # Made of the history when somebody looks, and kept until it has a new point.
        self._charts: dict[str, Any] | None = None
        self._next_tick = 0.0
        # Also read by whoever reports to ClearML.
        self.memory = EngineMemory()
        self._scrape = EngineScrape(
            instance,
            lambda: self.memory.models,
            lambda: shared.capacity if (shared := self.shared_memory()) is not None else {},
            {m.name: "embeddings" for m in instance.models if settings.is_embedding(m.options)},
        )
        # Set by whoever moves the models, once it can.
        self.shared_memory: Callable[[], SharedMemory | None] = lambda: None
        # The task's page in the ClearML UI, once it is known; empty offline.
        self.web_url = ""

    async def metrics(self) -> tuple[bytes, str]:
        """Return the Prometheus exposition and its content type."""
        return await self._scrape.render(), CONTENT_TYPE

    async def tick(self) -> None:
        """Measure what the charts show, if that is due; call it every few seconds."""
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + EVERY_S
        await self._instance.tokens.read()
        await self.memory.read(self._instance.models)
        if self._history.tick(self._instance.recorder.snapshot(), self.memory.models):
            self._charts = None

    def state(self) -> dict[str, Any]:
        """Return what the page shows of the instance."""
        instance = self._instance
        now = time.monotonic()
        activity = instance.activity()
        access = instance.access
        if self._charts is None:
            self._charts = self._history.series()
        return {
            "instance": {
                "app": instance.app_title,
                "engine": _engine_name(instance.engine),
                "task_url": self.web_url.removesuffix("/output/log"),
                "console_url": self.web_url,
                "status": "failed" if instance.failure else instance_status(activity, now),
                "idle_s": idle_seconds(activity, now),
                "idle_limit_hours": self._settings.idle.idle_time_limit_hours or None,
                "warning": access.warning if access else "",
                # A key that somebody gave is known to them; nothing prints it.
                "key_is_given": access is not None
                and access.key is not None
                and not access.is_generated,
            },
            "models": {model.name: self._model(model) for model in instance.models},
            "charts": self._charts,
            "memory": memory_state(
                self.shared_memory(), (model.memory for model in instance.models)
            ),
        }

    def console(self, after: int) -> dict[str, Any]:
        """Return the console lines after the one numbered `after`."""
        lines, newest = self._console.recent(after)
        return {"lines": lines, "next": newest}

    def _model(self, model: HostedModel) -> dict[str, Any]:
        return {
            "progress": self._instance.progress_of(model),
            "is_embedding": self._settings.is_embedding(model.options),
            "memory_bytes": self.memory.models.get(model.name),
        }


def _engine_name(engine: InstalledEngine | None) -> str:
    """What an engine calls itself, with its version."""
    if engine is None:
        return ""
    return engine.label if engine.version in engine.label else f"{engine.label} {engine.version}"
