"""The instance's Prometheus text: its own totals and what its engines say at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from common.errors import DeployError
from common.telemetry.engine_metrics import tokens_of

if TYPE_CHECKING:
    from common.runtime.instance import Instance

TIMEOUT_S = 1.0
"""The longest wait for the engines, all at once: a scrape of Prometheus has 10 s by default."""


class EngineScrape:
    """Renders ``/metrics``; scrapes that come while one runs share it.

    Args:
        instance: Whose. Only read, except that the engines' token totals are taken over.
        memory: Gives the bytes that each model's engine holds.
        capacity: Gives the bytes that the instance may take of each pool; empty: models are not moved.
        operations: What models other than those for chat are for, in the words of the
            OpenTelemetry convention.
    """

    def __init__(
        self,
        instance: Instance,
        memory: Callable[[], Mapping[str, int]],
        capacity: Callable[[], Mapping[str, int]],
        operations: Mapping[str, str],
    ) -> None:
        self._instance = instance
        self._memory = memory
        self._capacity = capacity
        self._operations = operations
        self._running: asyncio.Task[bytes] | None = None

    async def render(self) -> bytes:
        """Return the exposition."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._render())
        # Whoever hangs up gives up the own wait only.
        return await asyncio.shield(self._running)

    async def _render(self) -> bytes:
        # Imported at the first scrape: an instance that nobody scrapes does not pay for it.
        from common.telemetry.prometheus import parse_or_none, render_parsed

        instance = self._instance
        asked_at = instance.recorder.now()
        texts = await self._texts()
        parsed = await asyncio.to_thread(
            lambda: {model: parse_or_none(text) for model, text in texts.items()}
        )
        for model, families in parsed.items():
            tokens = tokens_of(families or ())
            if tokens is not None:
                instance.recorder.observe_engine_tokens(model, tokens, asked_at)
        statuses = {model.name: model.status for model in instance.models}
        placed = {
            model.name: memory for model in instance.models if (memory := model.memory) is not None
        }
        return await asyncio.to_thread(
            render_parsed,
            instance.recorder.snapshot(),
            statuses,
            dict(self._memory()),
            parsed,
            self._operations,
            placed,
            dict(self._capacity()),
        )

    async def _texts(self) -> dict[str, str | None]:
        """Ask every engine that is ready and has metrics, all at the same time."""
        gateway, engine = self._instance.gateway, self._instance.engine
        path = engine.metrics_path if engine else None
        if gateway is None or path is None:
            return {}

        async def text(name: str) -> str | None:
            try:
                return await gateway.engine_text(name, path, TIMEOUT_S)
            except (DeployError, UnicodeError):
                return None  # shown by the metric `names.ENGINE_SCRAPE`

        ready = [model.name for model in self._instance.models if model.status == "ready"]
        return dict(zip(ready, await asyncio.gather(*map(text, ready)), strict=True))
