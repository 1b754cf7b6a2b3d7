"""Which models are loaded at the start of an instance, and in which order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

from common.errors import DeployError
from common.memory.contract import Bytes
from common.runtime.hosted_model import HostedModel

_ORDER_WAIT_S = 5.0
_LOOK_S = 0.05


class Preloading:
    """Has models loaded as they become ready to be.

    Args:
        models: All of the instance, in the order of the configuration.
        capacity: What they may take, by pool.
        load: Loads one, by its name.
    """

    def __init__(
        self,
        models: Sequence[HostedModel],
        capacity: Callable[[], Bytes],
        load: Callable[[str], Awaitable[None]],
    ) -> None:
        self._models = tuple(models)
        self._capacity = capacity
        self._load = load
        # Those of which it is known whether they are loaded.
        self._decided: set[str] = set()
        self._chosen: list[Bytes] = []
        self._loads: set[asyncio.Task[None]] = set()

    def take(self, name: str, needs: Bytes, is_asked: bool | None) -> None:
        """Take a model that can be loaded from now on.

        Args:
            name: Served name.
            needs: What it takes while it answers.
            is_asked: Whether it is loaded at the start; None: if it fits beside those before it.
        """
        if is_asked is False:
            self._decided.add(name)
            return
        task = asyncio.ensure_future(self._choose(name, needs, is_asked=bool(is_asked)))
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    def cancel(self) -> None:
        """Have nothing more loaded."""
        for task in self._loads:
            task.cancel()

    async def wait(self) -> None:
        """Wait until nothing is done any more, after `cancel`."""
        if self._loads:
            await asyncio.wait(self._loads)

    async def _choose(self, name: str, needs: Bytes, *, is_asked: bool) -> None:
        await self._wait_for_those_before(name)
        chosen = [*self._chosen, needs]
        fits = all(
            sum(taken.get(pool, 0) for taken in chosen) <= size
            for pool, size in self._capacity().items()
        )
        self._decided.add(name)
        if fits or is_asked:
            self._chosen.append(needs)
            # Whoever asks for the model is told the same; the console has it from the moves.
            with contextlib.suppress(DeployError):
                await self._load(name)

    async def _wait_for_those_before(self, name: str) -> None:
        """Let those that come first in the configuration choose first, but not for a long download."""
        until = time.monotonic() + _ORDER_WAIT_S
        for model in self._models:
            if model.name == name:
                return
            while model.error is None and model.name not in self._decided:
                # With its supervisor it has all its files, and comes in a moment.
                if model.supervisor is None and time.monotonic() >= until:
                    return
                await asyncio.sleep(_LOOK_S)
