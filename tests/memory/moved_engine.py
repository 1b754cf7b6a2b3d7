"""A mover with a real engine, ways to put it aside that do as told, and a device that is counted."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.engines.supervisor import Supervisor
from common.memory.contract import Bytes
from common.memory.engine_mover import EngineHook, EngineMover, MoverLimits
from common.memory.freed import FreedCheck, MemoryUse
from common.memory.held_files import HeldFiles
from common.memory.offload import Offload, OffloadError, RunningEngine
from tests.engines_process.conftest import Launcher, is_alive

GIB = 1 << 30
HELD = 8 * GIB
OTHERS = 3 * GIB
PLENTY = 1 << 50

QUICK = MoverLimits(
    put_aside_s=0.5, bring_back_s=0.5, reload_s=0.5, answer_s=0.5, hook_s=0.3, stop_grace_s=1.0
)


@dataclass
class Device:
    """One GPU's memory: an engine holds its part while it lives, unless a way freed it."""

    kept_by: dict[int, int] = field(default_factory=dict)
    """What an engine that was put aside still holds, by its process."""
    leaked: int = 0
    """What somebody else holds although the engine is gone."""
    knows_processes: bool = True
    readings: int = 0
    engines: set[int] = field(default_factory=set)

    async def read(self, pids: frozenset[int]) -> MemoryUse:
        self.readings += 1
        self.engines |= pids
        by_pid = {pid: self.kept_by.get(pid, HELD) for pid in self.engines if is_alive(pid)}
        total = {"gpu0": OTHERS + self.leaked + sum(by_pid.values())}
        own = {"gpu0": sum(size for pid, size in by_pid.items() if pid in pids)}
        return MemoryUse(total, own if self.knows_processes else None)


Step = Callable[[RunningEngine], Awaitable[None]]


class ScriptedOffload:
    """A way that stops the process as a driver's checkpoint does; `aside` and `back` add to it."""

    def __init__(
        self,
        device: Device,
        label: str = "standstill",
        *,
        keeps: int = 0,
        aside: Step | None = None,
        back: Step | None = None,
    ) -> None:
        self.label = label
        self._device = device
        self._keeps = keeps
        self._aside = aside
        self._back = back
        self.calls: list[str] = []

    async def put_aside(self, engine: RunningEngine) -> None:
        self.calls.append("aside")
        if self._aside is not None:
            await self._aside(engine)
        os.kill(engine.pid, signal.SIGSTOP)
        self._device.kept_by[engine.pid] = self._keeps

    async def bring_back(self, engine: RunningEngine) -> None:
        self.calls.append("back")
        if self._back is not None:
            await self._back(engine)
        del self._device.kept_by[engine.pid]
        os.kill(engine.pid, signal.SIGCONT)


async def refuse(engine: RunningEngine) -> None:
    raise OffloadError("the driver says no")


async def refuse_untouched(engine: RunningEngine) -> None:
    raise OffloadError("there is no such way here", is_untouched=True)


async def fail(engine: RunningEngine) -> None:
    raise KeyError("a mistake")


async def hang(engine: RunningEngine) -> None:
    await asyncio.sleep(600)


async def kill(engine: RunningEngine) -> None:
    os.kill(engine.pid, signal.SIGKILL)
    await asyncio.sleep(600)  # its answer never comes


class Moved:
    """One model that is moved, and all that is seen of it."""

    def __init__(
        self,
        launcher: Launcher,
        *flags: str,
        device: Device | None = None,
        offloads: Sequence[Offload] = (),
        emptied: Sequence[Offload] = (),
        may_empty: Callable[[], bool] = lambda: True,
        files: Sequence[Path] = (),
        available: Callable[[], int] = lambda: PLENTY,
        held: Bytes | None = None,
        keep_held: bool = False,
        before_leaving: EngineHook | None = None,
        after_coming: EngineHook | None = None,
        limits: MoverLimits = QUICK,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.supervisor: Supervisor = launcher.supervise(*flags)
        self.said: list[str] = []
        self.files = HeldFiles(files, available=available, reserve_bytes=0, on_progress=on_progress)
        self.mover = EngineMover(
            self.supervisor,
            FreedCheck(
                device.read if device else None, lambda: held or {}, settle_s=0.3, interval_s=0.02
            ),
            offloads=offloads,
            emptied=emptied,
            may_empty=may_empty,
            files=self.files if files else None,
            keep_held=keep_held,
            before_leaving=before_leaving,
            after_coming=after_coming,
            limits=limits,
            say=self.said.append,
        )

    @property
    def text(self) -> str:
        return "\n".join(self.said)

    @property
    def pid(self) -> int:
        assert self.supervisor.pid is not None
        return self.supervisor.pid
