"""Whether the models of an instance fit into this machine's memory, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from common.errors import CapacityError
from common.models.fetch import ModelFiles
from common.models.memory import AvailableMemory, available_memory, without
from common.runtime.app import AnySettings, App, ModelPlan
from common.runtime.background import in_background


class Placement:
    """Checks each model against what those before it leave."""

    def __init__(self, app: App, settings: AnySettings, environ: Mapping[str, str]) -> None:
        self._app = app
        self._settings = settings
        self._environ = environ
        self._left: AvailableMemory | None = None
        self._placed: list[str] = []
        self._lock = asyncio.Lock()

    async def place(self, plan: ModelPlan, files: ModelFiles) -> tuple[str, ...]:
        """Inspect a model and take its memory from what is left; lines for the console.

        Raises:
            ModelFormatError: Not what the engine can load.
            CapacityError: It does not fit beside the others.
        """
        async with self._lock:
            if self._left is None:
                self._left = await in_background(available_memory, self._environ)
            try:
                found = await in_background(
                    self._app.inspect, plan, files, self._settings, self._left
                )
            except CapacityError as error:
                if not self._placed:
                    raise
                others = ", ".join(self._placed)
                raise CapacityError(f"{error} It has to fit beside {others}.") from error
            self._left = without(self._left, found.need)
            self._placed.append(plan.name)
        return found.lines
