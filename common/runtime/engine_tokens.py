"""Takes over the token totals that the engines count themselves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from common.errors import EngineCrashError
from common.runtime.hosted_model import HostedModel
from common.telemetry.engine_metrics import parse_engine_tokens

if TYPE_CHECKING:
    from common.runtime.instance import Instance

TIMEOUT_S = 2.0
# An engine may count the last tokens a moment after it has answered, or after the client has left.
_SETTLED_S = 1.0


class EngineTokenReader:
    """Reads the totals of an instance's engines into its recorder; one event loop.

    An engine is asked only while its totals may have changed: an idle one is left alone.

    Args:
        instance: Whose engines.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        # By model: requests so far when none was running, and since when that is so.
        self._quiet: dict[str, tuple[int, float]] = {}
        self._settled: dict[str, int] = {}

    async def read(self, timeout_s: float = TIMEOUT_S) -> None:
        """Read the totals of all engines that are ready, at the same time."""
        models = self._instance.models
        await asyncio.gather(*(self.read_one(model, timeout_s) for model in models))

    async def read_one(self, model: HostedModel, timeout_s: float = TIMEOUT_S) -> None:
        """Read the totals of one model's engine; before it ends this is the last chance.

        One that is busy or gone is asked next time.
        """
        recorder = self._instance.recorder
        gateway, engine = self._instance.gateway, self._instance.engine
        path = engine.metrics_path if engine else None
        if gateway is None or path is None or not model.answers:
            return
        now = recorder.snapshot().models[model.name]
        if not now.in_flight and self._settled.get(model.name) == now.requests:
            return
        asked_at = recorder.now()
        try:
            text = await gateway.engine_text(model.name, path, timeout_s)
            # That of vLLM is long enough to hold up a stream.
            tokens = await asyncio.to_thread(parse_engine_tokens, text)
        except (EngineCrashError, ValueError):
            return
        if tokens is not None:
            recorder.observe_engine_tokens(model.name, tokens, asked_at)
        if now.in_flight:
            self._quiet.pop(model.name, None)
            return
        requests, since = self._quiet.get(model.name, (-1, asked_at))
        if requests != now.requests:
            self._quiet[model.name] = (now.requests, asked_at)
        elif asked_at - since >= _SETTLED_S:
            self._settled[model.name] = now.requests
