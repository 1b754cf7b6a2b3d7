"""What engines keep whose models are on disk: counted at once, and given up when it is in the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.memory.contract import Bytes, Footprint, MemoryPolicy, Tier
from common.memory.engine_ways import MachineFacts
from common.memory.scheduler import MemoryScheduler
from common.models.memory import AvailableMemory, GpuMemory, MemoryNeed
from common.options.memory import MemorySettings
from common.runtime.emptied_engines import Claim, is_in_the_way, total_of, without
from common.runtime.memory_capacity import capacity, held_now
from common.runtime.memory_following import MemoryFollowing, freed_by_leaving
from common.runtime.memory_readings import MemoryReadings
from common.runtime.model_footprint import kept_when_emptied
from common.runtime.moved_model import MovedModel
from tests.memory.fake_mover import Devices, FakeMover
from tests.runtime.running_instance import until

GIB = 2**30
GPU, DISK = Tier.GPU, Tier.DISK
SETTINGS = MemorySettings(disk_swapping=True)


def gib(**pools: float) -> dict[str, int]:
    return {pool: int(size * GIB) for pool, size in pools.items()}


def claim(size: float, **state: bool) -> Claim:
    return Claim(gib(gpu0=size), **state)


# Pure.


@pytest.mark.parametrize(
    ("claims", "is_so"),
    [
        # The largest of all must fit beside what is kept.
        ([claim(78)], False),
        ([claim(79.5)], True),
        ([claim(90)], False),  # it never fits
        # Beside the pinned ones.
        ([claim(40, is_pinned=True), claim(38)], False),
        ([claim(40, is_pinned=True), claim(39.5)], True),
        # One that is waited for, beside those that stay.
        ([claim(40, is_there=True), claim(39.5)], False),
        ([claim(40, is_there=True), claim(39.5, is_waiting=True)], True),
        ([claim(40, is_there=True), claim(38, is_waiting=True)], False),
        # It has to wait for others to leave anyway.
        ([claim(40, is_there=True), claim(60, is_waiting=True)], False),
        ([], False),
    ],
)
def test_when_what_is_kept_is_in_the_way(claims: list[Claim], is_so: bool) -> None:
    assert is_in_the_way(gib(gpu0=1), claims, gib(gpu0=80)) is is_so
    assert is_in_the_way(gib(gpu0=0, gpu1=1), claims, gib(gpu0=80)) is False


def test_amounts() -> None:
    both = total_of([gib(gpu0=1, host=2), gib(gpu0=1, gpu1=3)])
    assert both == gib(gpu0=2, gpu1=3, host=2)
    assert without(gib(gpu0=1, host=5), both) == gib(gpu0=0, host=3)
    assert freed_by_leaving(gib(gpu0=8, host=2), gib(gpu0=1)) == gib(gpu0=7)


def test_what_is_kept_is_estimated_where_the_engine_says_it() -> None:
    need = MemoryNeed(4, 50, (30, 20), (3, 2))
    assert kept_when_emptied(need) == {"gpu0": 3, "gpu1": 2, "host": 4}
    assert kept_when_emptied(need, counts_held=True)["held"] == 4
    assert kept_when_emptied(MemoryNeed(4, 50, (30, 20))) == {}


# With a scheduler and readings of a machine.


@dataclass
class Machine:
    """One GPU of 80 GiB: what its processes have is free to be told, or not."""

    knows_processes: bool = True
    others: int = 0
    held_by: dict[str, dict[str, int]] = field(default_factory=dict)
    gpus: tuple[str, ...] = ("GPU-1",)

    async def available(self) -> AvailableMemory:
        taken = self.others + sum(pools.get("gpu0", 0) for pools in self.held_by.values())
        host = 100 * GIB - sum(pools.get("host", 0) for pools in self.held_by.values())
        gpu = GpuMemory("a GPU", "GPU-1", 80 * GIB - taken, 80 * GIB)
        return AvailableMemory(host, (gpu,))

    async def held(self, roots: dict[str, int], locked: list[int]) -> dict[str, Bytes]:
        return {
            name: {
                pool: size
                for pool, size in self.held_by.get(name, {}).items()
                if pool == "host" or self.knows_processes
            }
            for name in roots
        }


class KeepingMover(FakeMover):
    """One whose engine is emptied for the disk."""

    on_begin: Callable[[Tier], None] = staticmethod(lambda to: None)

    async def move(self, to: Tier, *, ends_process: bool = False) -> Tier:
        self.on_begin(to)
        reached = await super().move(to, ends_process=ends_process)
        self.keeps_process = to is DISK and not ends_process
        return reached


class Rig:
    """Models of 40 GiB that keep 1 GiB of the GPU and 2 GiB of the host while they are emptied."""

    def __init__(self, machine: Machine, *, size: float = 40.0) -> None:
        self.machine = machine
        self.moved: dict[str, MovedModel] = {}
        self.movers: dict[str, KeepingMover] = {}
        self.demands: dict[str, Any] = {}
        self.said: list[str] = []
        self.size = size
        self.devices = Devices(gib(gpu0=80, host=100))

    async def __aenter__(self) -> Rig:
        memory = await self.machine.available()
        found = capacity(SETTINGS, memory, {}, "x86_64")
        self.whole = found.pools
        self.scheduler = MemoryScheduler(
            found.pools,
            found.away,
            say=self.said.append,
            on_move=lambda *_: self.following.share_out(),
        )
        self.following = MemoryFollowing(
            SETTINGS,
            MachineFacts("x86_64"),
            cast(MemoryReadings, self.machine),
            self.scheduler,
            found,
            self.moved,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.following.cancel()
        await self.scheduler.close()
        await self.following.wait()

    def add(self, name: str, tier: Tier, size: float | None = None) -> KeepingMover:
        takes = Footprint(gib(gpu0=self.size if size is None else size, host=2))
        mover = KeepingMover(
            name, takes, self.devices, seconds={GPU: 0.0, Tier.CPU: 0.0, DISK: 0.0}, tier=tier
        )
        demand = SimpleNamespace(in_flight=0, queued=0, last_used=float(len(self.moved)))
        supervisor = SimpleNamespace(pid=1000 + len(self.moved))
        self.moved[name] = MovedModel(
            cast(Any, SimpleNamespace(name=name, supervisor=supervisor, answers=False)),
            cast(Any, mover),
            cast(Any, demand),
            None,
            None,
            cast(Any, None),
            has_process_asleep=False,
            kept_when_emptied=gib(gpu0=1, host=2),
            is_pinned=False,
        )
        self.movers[name], self.demands[name] = mover, demand
        self.scheduler.add(name, takes, mover, MemoryPolicy(), cast(Any, demand))
        return mover

    def reads(self) -> None:
        """Have the next tick measure."""
        self.following._next_reading = 0.0

    def missing(self) -> Bytes:
        """What the models may take less than the whole machine."""
        told = self.scheduler._loop.capacity
        assert dict(self.following.pools) == told
        return {pool: n for pool in told if (n := self.whole[pool] - told[pool])}


async def test_what_is_kept_counts_from_the_end_of_the_move_until_the_process_is_gone() -> None:
    async with Rig(Machine(), size=60.0) as rig:
        rig.add("a", GPU)
        seen = []
        rig.add("b", DISK).on_begin = lambda to: seen.append((to, rig.missing()))
        assert rig.missing() == {}
        await rig.scheduler.load("b")  # "a" leaves for it, and was emptied before it begins
        assert rig.movers["a"].keeps_process
        assert seen == [(GPU, gib(gpu0=1, host=2))]
        assert rig.missing() == gib(gpu0=1, host=2)
        rig.movers["a"].keeps_process = False  # it crashed
        rig.following.share_out()
        assert rig.missing() == {}
        await rig.scheduler.load("a")
        assert rig.missing() == gib(gpu0=1, host=2)
        await rig.scheduler.unload("b")
        rig.following.share_out()
        assert rig.missing() == {}


@pytest.mark.parametrize("knows_processes", [True, False])
async def test_readings_count_it_once(knows_processes: bool) -> None:
    """Neither as the models' own, which are free for them, nor twice, as others' besides."""
    machine = Machine(knows_processes)
    async with Rig(machine) as rig:
        rig.add("a", DISK).keeps_process = True
        rig.add("b", GPU)
        machine.held_by = {"a": gib(gpu0=1, host=2), "b": gib(gpu0=40, host=2)}
        rig.reads()
        await rig.following.tick()
        assert rig.missing() == gib(gpu0=1, host=2)
        # Others take some.
        machine.others = 10 * GIB
        rig.reads()
        await rig.following.tick()
        assert rig.missing() == gib(gpu0=11, host=2)
        if knows_processes:  # it keeps more than was thought
            machine.held_by["a"] = gib(gpu0=3, host=5)
            rig.reads()
            await rig.following.tick()
            assert rig.missing() == gib(gpu0=13, host=5)
        rig.movers["a"].keeps_process = False
        rig.following.share_out()
        assert rig.missing() == gib(gpu0=10)


def test_a_process_on_disk_that_is_not_counted_is_somebody_elses() -> None:
    """What the numbers rest on: only what is handed in as held is free for the models."""
    measured = {"a": gib(gpu0=1)}
    memory = AvailableMemory(100 * GIB, (GpuMemory("a GPU", "GPU-1", 79 * GIB, 80 * GIB),))
    ours = capacity(SETTINGS, memory, held_now(measured, {}), "x86_64").pools["gpu0"]
    others = capacity(SETTINGS, memory, held_now({}, {}), "x86_64").pools["gpu0"]
    assert (ours, others) == (80 * GIB, 79 * GIB)


async def test_an_engine_is_not_emptied_where_the_largest_model_would_not_fit() -> None:
    async with Rig(Machine()) as rig:
        for name in "abc":
            rig.add(name, GPU if name == "a" else DISK)
        assert rig.following.may_empty("a")
        rig.add("large", DISK, 79.0)
        assert rig.following.may_empty("a")
        rig.movers["b"].keeps_process = True  # with that one it would be too much
        assert not rig.following.may_empty("a")


async def test_a_process_in_the_way_is_ended_the_one_used_longest_ago_first() -> None:
    async with Rig(Machine(), size=20.0) as rig:
        for name in "abc":
            rig.add(name, DISK).keeps_process = True
        await rig.following.tick()
        rig.add("large", DISK, 78.0)
        rig.following.share_out()
        assert rig.missing() == gib(gpu0=3, host=6)
        await rig.following.tick()
        await until(lambda: not rig.movers["a"].keeps_process)
        assert rig.said == ['memory: "a" gives up its process: another model needs what it keeps']
        rig.following.share_out()
        assert rig.missing() == gib(gpu0=2, host=4)
        await rig.following.tick()
        await rig.scheduler.load("large")
        assert [rig.movers[name].keeps_process for name in "abc"] == [False, True, True]
