"""What an operator may do with the models of a running instance."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import RequestError
from common.runtime.engine_tokens import EngineTokenReader
from common.runtime.hosted_model import ENGINE_GRACE_S, HostedModel

# An engine that does not answer its metrics is no reason to keep it.
_LAST_COUNT_S = 2.0


class ModelOperations:
    """Implements `common.gateway.models.AdminOperations`.

    Args:
        models: The instance's models.
        tokens: Reads an engine's totals before it ends.
    """

    def __init__(self, models: Sequence[HostedModel], tokens: EngineTokenReader) -> None:
        self._models = models
        self._tokens = tokens

    async def load(self, name: str) -> None:
        """Start a model's engine, unless it runs, and wait for it; a failed one is tried again."""
        await self._model(name).load()

    async def unload(self, name: str) -> None:
        """Stop a model's engine; the next request starts it again.

        Raises:
            RequestError: It has no engine yet.
        """
        model = self._prepared(name, "unloaded")
        if model.turns is not None:
            await model.turns.unload()
            return
        await self._tokens.read_one(model, _LAST_COUNT_S)
        await model.stop(ENGINE_GRACE_S)

    async def sleep(self, name: str) -> None:
        """Put a model into CPU memory; the next request wakes it.

        Raises:
            RequestError: It has no engine yet, the models do not share the memory that way, or there is
                no room for it.
        """
        model = self._prepared(name, "put to sleep")
        if model.turns is None or not model.turns.view.can_sleep:
            raise RequestError(
                f'The model "{name}" cannot be put to sleep: "Enable Automatic CPU Offloading" is off. '
                "Unload it instead.",
                status=409,
                code="not_supported",
            )
        await model.turns.sleep()

    def _prepared(self, name: str, done: str) -> HostedModel:
        model = self._model(name)
        if model.supervisor is None:
            raise RequestError(
                f'The model "{name}" cannot be {done}: its files are still being fetched or checked.',
                status=409,
                code="not_loaded",
            )
        return model

    def _model(self, name: str) -> HostedModel:
        return next(model for model in self._models if model.name == name)
