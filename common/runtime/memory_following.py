"""Follows what an instance's models hold, and what others leave of the memory, while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace

from common.errors import DeployError
from common.memory.contract import Bytes, Tier
from common.memory.engine_ways import MachineFacts
from common.memory.scheduler import MemoryScheduler
from common.models.memory import AvailableMemory
from common.options.memory import MemorySettings
from common.runtime.background import in_background
from common.runtime.emptied_engines import Claim, is_in_the_way, total_of, without
from common.runtime.footprint_learning import has_changed
from common.runtime.memory_capacity import Capacity, capacity, held_now, is_gpu
from common.runtime.memory_readings import MemoryReadings
from common.runtime.moved_model import MovedModel

READ_EVERY_S = 5.0
"""Between two measurements of what others leave of the memory."""


class MemoryFollowing:
    """Has the scheduler know what the models may take, and learns what each of them does.

    Args:
        settings: How the models share the memory.
        machine: The machine.
        readings: Measures.
        scheduler: Is told.
        found: The capacity, measured before any model was loaded.
        moved: The models, by name; grows.
    """

    def __init__(
        self,
        settings: MemorySettings,
        machine: MachineFacts,
        readings: MemoryReadings,
        scheduler: MemoryScheduler,
        found: Capacity,
        moved: Mapping[str, MovedModel],
    ) -> None:
        self._settings = settings
        self._machine = machine
        self._readings = readings
        self._scheduler = scheduler
        self._found = found
        self._moved = moved
        self._next_reading = 0.0
        # What emptied engines were measured to keep, by model.
        self._kept: dict[str, Bytes] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}

    @property
    def pools(self) -> Bytes:
        """What the models may take now, by pool: without what emptied engines keep."""
        return without(self._found.pools, self._kept_by(self._emptied()))

    def share_out(self) -> None:
        """Have the scheduler know at once what emptied engines keep: one came, or is gone."""
        for name in [name for name in self._kept if name not in self._emptied()]:
            del self._kept[name]
        self._scheduler.set_capacity(self.pools)

    def may_empty(self, name: str) -> bool:
        """Whether a model's engine that leaves may keep its process beside the other models."""
        leaving = {
            other for other in self._moved if self._scheduler.view(other).moving_to is Tier.DISK
        }
        return not self._is_in_the_way({*self._emptied(), *leaving, name})

    async def tick(self) -> None:
        """Measure again, if that is due, what others leave of the memory and what the models hold."""
        self._make_room()
        now = time.monotonic()
        if now < self._next_reading:
            return
        self._next_reading = now + READ_EVERY_S
        resting = self._resting()
        if resting is None:
            return  # what a model takes in the middle of a move says nothing
        emptied = self._emptied()
        memory = await self._readings.available()
        measured = await self._readings.held(
            {
                name: pid
                for name, moved in self._moved.items()
                if moved.model.supervisor is not None
                and (pid := moved.model.supervisor.pid) is not None
            },
            [moved.held.held_bytes for moved in self._moved.values() if moved.held is not None],
        )
        if self._resting() != resting or self._emptied() != emptied:
            return
        self._follow(memory, measured, resting, emptied)
        for name, moved in tuple(self._moved.items()):
            tier = resting.get(name)
            if (tier is Tier.GPU and moved.model.answers) or (
                tier is Tier.CPU and moved.has_process_asleep
            ):
                await self._learn(moved, tier, measured.get(name, {}))

    def cancel(self) -> None:
        """Have no more processes ended."""
        for task in self._ending.values():
            task.cancel()

    async def wait(self) -> None:
        """Wait until nothing is done any more, after `cancel`."""
        if self._ending:
            await asyncio.wait(set(self._ending.values()))

    async def _learn(self, moved: MovedModel, tier: Tier, measured: Bytes) -> None:
        known = await in_background(moved.learning.learn, tier, measured)
        if known is not None:
            self._scheduler.set_footprint(moved.model.name, known)

    def _resting(self) -> dict[str, Tier] | None:
        """The tier of each model; None while one moves."""
        views = {name: self._scheduler.view(name) for name in self._moved}
        if any(view.moving_to is not None for view in views.values()):
            return None
        return {name: view.tier for name, view in views.items()}

    def _follow(
        self,
        memory: AvailableMemory,
        measured: Mapping[str, Bytes],
        resting: Mapping[str, Tier],
        emptied: frozenset[str],
    ) -> None:
        """Have the scheduler know what others leave now."""
        counted = {
            name: self._scheduler.view(name).footprint.gpu
            for name, tier in resting.items()
            if tier is Tier.GPU
        }
        # What they hold is theirs here, and taken off what the models may take: by what the driver
        # tells of the process, or else by the estimate, the same on both sides.
        counted |= {name: self._moved[name].kept_when_emptied for name in emptied}
        for name in emptied:
            self._kept[name] = {
                **self._moved[name].kept_when_emptied,
                **{pool: n for pool, n in measured.get(name, {}).items() if n},
            }
        held = held_now(measured, counted)
        found = capacity(self._settings, memory, held, self._machine.architecture)
        if has_changed(self._found.pools, found.pools):
            self._found = replace(self._found, pools=found.pools)
        self.share_out()

    # Emptied engines.

    def _emptied(self) -> frozenset[str]:
        """Models on disk whose engines' processes are still there."""
        return frozenset(name for name, moved in self._moved.items() if moved.mover.keeps_process)

    def _kept_by(self, names: frozenset[str] | set[str]) -> Bytes:
        return total_of(self._kept.get(name, self._moved[name].kept_when_emptied) for name in names)

    def _is_in_the_way(self, names: frozenset[str] | set[str]) -> bool:
        claims = []
        for name, moved in self._moved.items():
            view = self._scheduler.view(name)
            goes_to = view.moving_to or view.tier
            claims.append(
                Claim(
                    view.footprint.gpu,
                    is_there=goes_to is Tier.GPU and name not in names,
                    is_waiting=bool(view.waiting),
                    is_pinned=moved.is_pinned,
                )
            )
        return is_in_the_way(self._kept_by(names), claims, self._found.pools)

    def _make_room(self) -> None:
        """End the process of an emptied engine that has come to be in another model's way."""
        emptied = self._emptied() - self._ending.keys()
        if emptied and self._is_in_the_way(emptied):
            name = min(emptied, key=self._use)
            ending = self._ending[name] = asyncio.ensure_future(self._end(name))
            ending.add_done_callback(lambda _: self._ending.pop(name, None))

    def _use(self, name: str) -> tuple[bool, float]:
        """Sorts models, the one that is needed least first."""
        return self._scheduler.view(name).waiting > 0, self._moved[name].demand.last_used

    async def _end(self, name: str) -> None:
        # Another wish came, or the instance stops: the process is the concern of others then.
        with contextlib.suppress(DeployError):
            await self._scheduler.end_process(name, "another model needs what it keeps")


def freed_by_leaving(gpu: Bytes, stays: Bytes) -> Bytes:
    """What comes back of the GPUs when a model is put aside, of what it takes there."""
    return {pool: size - stays.get(pool, 0) for pool, size in gpu.items() if is_gpu(pool)}
