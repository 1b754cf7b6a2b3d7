"""The app of the memory soak: `turning_engine` as an engine, which some models can put to sleep."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from common.memory.engine_ways import EngineOffloads, MachineFacts
from common.memory.offload import OffloadError, RunningEngine
from common.models.fetch import ModelFiles
from common.models.memory import AvailableMemory, MemoryNeed
from common.runtime.app import AnySettings, Inspection, ModelPlan
from tests.runtime.stub_app import StubApp, StubEngine

SLEEPER_MIB = 200
"""Of an engine that can sleep: beside it what the process keeps anyway is little."""
_ENGINE = Path(__file__).with_name("turning_engine.py")


class Sleep:
    """Implements `common.memory.offload.Offload`: the engine says itself that it sleeps."""

    label = "sleep"

    async def put_aside(self, engine: RunningEngine) -> None:
        await self._ask(engine, "sleep")

    async def bring_back(self, engine: RunningEngine) -> None:
        await self._ask(engine, "wake")

    async def _ask(self, engine: RunningEngine, what: str) -> None:
        connector = aiohttp.UnixConnector(str(engine.address.socket_path))
        try:
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.post(f"http://engine/{what}") as answer,
            ):
                await answer.read()
        except aiohttp.ClientError as error:
            raise OffloadError(f"it did not {what}: {error!r}") from error


@dataclasses.dataclass(frozen=True)
class TurningEngine(StubEngine):
    """Runs `turning_engine`; those of some models can sleep with their process kept."""

    folder: Path = Path()
    sleepers: frozenset[str] = frozenset()

    def command(self, plan: ModelPlan, settings: AnySettings) -> Any:
        command = super().command(plan, settings)
        argv = [sys.executable, "-I", "-S", str(_ENGINE), *command.argv[2:]]
        argv += ["--name", plan.name, "--folder", str(self.folder)]
        if plan.name in self.sleepers:
            argv += ["--memory-mib", str(SLEEPER_MIB)]
        return dataclasses.replace(command, argv=tuple(argv))

    def offloads(
        self, plan: ModelPlan, settings: AnySettings, machine: MachineFacts
    ) -> EngineOffloads:
        ways = (Sleep(),) if plan.name in self.sleepers else ()
        return EngineOffloads(asleep=ways, emptied=ways)


@dataclasses.dataclass(frozen=True)
class TurningApp(StubApp):
    """The app of the soak."""

    folder: Path = Path()
    sleepers: frozenset[str] = frozenset()

    def find_engine(self, settings: AnySettings, environ: Mapping[str, str]) -> StubEngine:
        return TurningEngine(self.flags, folder=self.folder, sleepers=self.sleepers)

    def preview_engine(self, settings: AnySettings, environ: Mapping[str, str]) -> StubEngine:
        return self.find_engine(settings, environ)

    def inspect(
        self, plan: ModelPlan, files: ModelFiles, settings: AnySettings, memory: AvailableMemory
    ) -> Inspection:
        # Something that stays of an engine is what makes it one that can be emptied.
        return Inspection((), MemoryNeed(self.need_bytes, 0, asleep_by_gpu=(2**20,)))
