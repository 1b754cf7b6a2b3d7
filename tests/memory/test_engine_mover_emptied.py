"""Moves to the disk that keep the engine's process without its weights, with real engines."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from common.engines.contract import EngineState
from common.memory.contract import Tier
from common.memory.offload import RunningEngine
from tests.engines_process.conftest import Launcher, is_alive, until

from .moved_engine import (
    HELD,
    Device,
    Moved,
    ScriptedOffload,
    fail,
    hang,
    kill,
    refuse,
    refuse_untouched,
)

GPU, CPU, DISK = Tier.GPU, Tier.CPU, Tier.DISK
READY, PARKED, STOPPED = EngineState.READY, EngineState.PARKED, EngineState.STOPPED
KEPT = HELD // 10

pytestmark = pytest.mark.usefixtures("no_orphan")


def emptying(launcher: Launcher, device: Device, way: ScriptedOffload) -> Moved:
    return Moved(launcher, device=device, emptied=[way])


async def test_an_emptied_engine_is_on_disk_and_comes_back_with_its_process(
    launcher: Launcher, weights: Path
) -> None:
    device = Device()
    way = ScriptedOffload(device, "sleep level 2", keeps=KEPT)
    moved = Moved(launcher, device=device, emptied=[way], files=[weights])
    await moved.mover.move(CPU)
    await moved.mover.move(GPU)
    pid = moved.pid
    for _ in range(2):
        assert not moved.mover.keeps_process
        assert await moved.mover.move(DISK) is DISK
        assert moved.mover.tier is DISK
        assert moved.mover.keeps_process
        assert moved.supervisor.state is PARKED
        assert not moved.files.is_held
        assert await moved.mover.move(DISK) is DISK  # there already
        assert moved.pid == pid
        assert await moved.mover.move(GPU) is GPU
        assert moved.supervisor.state is READY
        assert moved.pid == pid
    assert way.calls == ["aside", "back"] * 2
    assert "without its weights after 0.0 s (sleep level 2): 7.20 GiB of 8.00 GiB" in moved.text


async def test_it_ends_where_the_process_is_not_to_stay(launcher: Launcher) -> None:
    device = Device()
    way = ScriptedOffload(device)
    moved = emptying(launcher, device, way)
    await moved.mover.move(GPU)
    pid = moved.pid
    assert await moved.mover.move(DISK, ends_process=True) is DISK
    assert way.calls == []
    assert not is_alive(pid)

    await moved.mover.move(GPU)
    pid = moved.pid
    await moved.mover.move(DISK)
    assert is_alive(pid)
    assert await moved.mover.move(DISK, ends_process=True) is DISK
    assert not is_alive(pid)
    assert not moved.mover.keeps_process
    assert moved.supervisor.state is STOPPED


async def test_without_room_for_what_it_keeps_it_is_stopped(launcher: Launcher) -> None:
    device = Device()
    way = ScriptedOffload(device)
    has_room = False
    moved = Moved(launcher, device=device, emptied=[way], may_empty=lambda: has_room)
    await moved.mover.move(GPU)
    assert await moved.mover.move(DISK) is DISK
    assert moved.supervisor.state is STOPPED
    assert way.calls == []
    assert "needed for others" in moved.text
    has_room = True
    await moved.mover.move(GPU)
    await moved.mover.move(DISK)
    assert moved.supervisor.state is PARKED


async def test_a_sleeping_engine_is_stopped_for_the_disk_all_the_same(launcher: Launcher) -> None:
    device = Device()
    asleep, emptied = ScriptedOffload(device), ScriptedOffload(device)
    moved = Moved(launcher, device=device, offloads=[asleep], emptied=[emptied])
    await moved.mover.move(GPU)
    pid = moved.pid
    assert await moved.mover.move(CPU) is CPU
    assert not moved.mover.keeps_process
    assert await moved.mover.move(DISK) is DISK
    assert not is_alive(pid)
    # And the other way round: what it was emptied by says nothing of its next sleep.
    await moved.mover.move(GPU)
    assert await moved.mover.move(DISK) is DISK
    await moved.mover.move(GPU)
    assert await moved.mover.move(CPU) is CPU
    assert moved.mover.tier is CPU
    assert (asleep.calls, emptied.calls) == (["aside"] * 2, ["aside", "back"])


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (refuse, "not emptied (standstill): the driver says no"),
        (fail, "not emptied (standstill): 'a mistake'"),
        (hang, "not emptied (standstill): it took more than 0.5 s"),
        (kill, "not emptied (standstill): the engine ended"),
        (refuse_untouched, "not emptied (standstill): there is no such way here"),
    ],
)
async def test_a_way_that_fails_ends_in_a_stop(
    launcher: Launcher,
    step,  # type: ignore[no-untyped-def]
    words: str,
) -> None:
    device = Device()
    moved = emptying(launcher, device, ScriptedOffload(device, aside=step))
    await moved.mover.move(GPU)
    pid = moved.pid
    assert await moved.mover.move(DISK) is DISK
    assert words in moved.text
    assert not is_alive(pid)
    assert moved.supervisor.state is STOPPED
    assert await moved.mover.move(GPU) is GPU


async def test_a_way_that_frees_too_little_ends_in_a_stop(launcher: Launcher) -> None:
    device = Device()
    moved = emptying(launcher, device, ScriptedOffload(device, keeps=HELD // 2))
    await moved.mover.move(GPU)
    assert await moved.mover.move(DISK) is DISK
    assert moved.supervisor.state is STOPPED
    assert "standstill did not free its memory" in moved.text


@pytest.mark.parametrize("step", [refuse, fail, hang, kill])
async def test_one_that_cannot_be_brought_back_is_started_anew(
    launcher: Launcher,
    step,  # type: ignore[no-untyped-def]
) -> None:
    device = Device()
    moved = emptying(launcher, device, ScriptedOffload(device, back=step))
    await moved.mover.move(GPU)
    pid = moved.pid
    await moved.mover.move(DISK)
    assert await moved.mover.move(GPU) is GPU
    assert not is_alive(pid)
    assert "it is started anew" in moved.text
    assert moved.supervisor.state is READY


async def test_a_crash_while_emptied_leaves_it_on_disk(launcher: Launcher) -> None:
    device = Device()
    way = ScriptedOffload(device)
    moved = emptying(launcher, device, way)
    await moved.mover.move(GPU)
    await moved.mover.move(DISK)
    os.kill(moved.pid, signal.SIGKILL)
    await until(lambda: not moved.mover.keeps_process)
    await until(lambda: moved.supervisor.state is STOPPED)
    assert moved.mover.tier is DISK
    assert await moved.mover.move(GPU) is GPU
    assert way.calls == ["aside"]


async def test_a_move_that_is_cancelled_leaves_no_emptied_engine(launcher: Launcher) -> None:
    device = Device()
    reached = asyncio.Event()

    async def wait(engine: RunningEngine) -> None:
        reached.set()
        await hang(engine)

    way = ScriptedOffload(device, aside=wait)
    moved = emptying(launcher, device, way)
    await moved.mover.move(GPU)
    pid = moved.pid
    moving = asyncio.create_task(moved.mover.move(DISK))
    await reached.wait()
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert not is_alive(pid)
    assert moved.mover.tier is DISK
    assert not moved.mover.keeps_process


async def test_an_engine_is_asked_for_the_last_time_before_it_is_emptied(
    launcher: Launcher,
) -> None:
    asked: list[EngineState] = []

    async def ask(engine: RunningEngine) -> None:
        asked.append(moved.supervisor.state)

    device = Device()
    ways = [ScriptedOffload(device, aside=refuse_untouched)]
    moved = Moved(launcher, device=device, emptied=ways, before_leaving=ask)
    for count in (1, 2):
        await moved.mover.move(GPU)
        assert await moved.mover.move(DISK) is DISK
        assert asked == [READY] * count
        ways[0]._aside = None


async def test_the_end_of_the_instance_ends_it(launcher: Launcher) -> None:
    device = Device()
    moved = emptying(launcher, device, ScriptedOffload(device))
    await moved.mover.move(GPU)
    pid = moved.pid
    await moved.mover.move(DISK)
    await moved.supervisor.stop()
    assert not is_alive(pid)
    assert moved.mover.tier is DISK
