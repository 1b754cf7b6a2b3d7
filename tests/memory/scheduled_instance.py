"""A scheduler with fake movers and requests, on simulated time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from common.memory.contract import Bytes, Footprint, MemoryPolicy, Plan, Tier, World
from common.memory.planner import plan
from common.memory.scheduler import MemoryScheduler
from tests.memory.fake_gateway import Gateway
from tests.memory.fake_mover import Devices, FakeMover

GPU, CPU, DISK = Tier.GPU, Tier.CPU, Tier.DISK
BOTH = (CPU, DISK)


class Instance:
    """One instance of the application, as far as its memory goes.

    Attributes:
        moved: What `on_move` was told.
        said: The lines for the console.
        changes: How often something visible changed.
        when_changed: Called then.
    """

    def __init__(
        self,
        capacity: Bytes,
        *,
        away: tuple[Tier, ...] = BOTH,
        decide: Callable[[World], Plan] = plan,
    ) -> None:
        self.devices = Devices(capacity)
        self.gateway = Gateway()
        self.movers: dict[str, FakeMover] = {}
        self.moved: list[tuple[Any, ...]] = []
        self.said: list[str] = []
        self.changes = 0
        self.when_changed: Callable[[], None] = lambda: None
        self.scheduler = MemoryScheduler(
            capacity,
            away,
            decide=decide,
            now=asyncio.get_running_loop().time,
            say=self.said.append,
            on_move=lambda *move: self.moved.append(move),
            on_change=self._count_change,
        )
        self.gateway.scheduler = self.scheduler
        self.ask = self.gateway.ask

    def _count_change(self) -> None:
        self.changes += 1
        self.when_changed()

    def add(
        self,
        name: str,
        gpu: int = 10,
        cpu: int = 10,
        *,
        policy: MemoryPolicy | None = None,
        tier: Tier = DISK,
        seconds: dict[Tier, float] | None = None,
        footprint: Footprint | None = None,
    ) -> FakeMover:
        """Take on a model that needs so much of ``gpu0`` and ``host``."""
        footprint = footprint or Footprint(gpu={"gpu0": gpu}, cpu={"host": cpu})
        requests = self.gateway.model(name)
        mover = self.movers[name] = FakeMover(
            name,
            footprint,
            self.devices,
            seconds=seconds,
            tier=tier,
            users=lambda: requests.at_engine,
        )
        self.scheduler.add(name, footprint, mover, policy or MemoryPolicy(), requests, load_s=2.0)
        return mover

    def tiers(self) -> dict[str, Tier]:
        return {name: self.scheduler.view(name).tier for name in self.movers}

    async def until(self, condition: Callable[[], bool], within_s: float = 120.0) -> None:
        """Wait until something is so."""
        loop = asyncio.get_running_loop()
        end = loop.time() + within_s
        while not condition():
            assert loop.time() < end, (self.said, self.tiers())
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """End, and see that no rule was broken."""
        await self.scheduler.close()
        assert not self.devices.broken, self.devices.broken
        assert not any(mover.is_moving for mover in self.movers.values())
