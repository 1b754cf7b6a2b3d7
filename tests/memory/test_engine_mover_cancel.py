"""Moves that are cancelled, in every phase, with real engines."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from common.engines.contract import EngineState
from common.memory.contract import Tier
from common.memory.offload import RunningEngine
from tests.engines_process.conftest import Launcher, is_alive, until

from .moved_engine import HELD, Device, Moved, ScriptedOffload, hang

GPU, CPU, DISK = Tier.GPU, Tier.CPU, Tier.DISK
READY, PARKED, STOPPED = EngineState.READY, EngineState.PARKED, EngineState.STOPPED

pytestmark = pytest.mark.usefixtures("no_orphan")


async def cancel(move: asyncio.Task[Tier], times: int = 1) -> None:
    """Cancel it, also again while it clears up, and see it end."""
    for _ in range(times):
        move.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await move


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("is_held", [True, False])
async def test_a_cancelled_load_stops_the_engine_and_keeps_the_files(
    launcher: Launcher, weights: Path, is_held: bool, times: int
) -> None:
    moved = Moved(launcher, "--load-seconds", "60", "--ignore-term", files=[weights])
    if is_held:
        await moved.mover.move(CPU)
    loading = asyncio.create_task(moved.mover.move(GPU))
    await until(lambda: moved.supervisor.pid)
    pid = moved.pid
    await cancel(loading, times)
    assert not is_alive(pid)
    assert moved.supervisor.state is STOPPED
    assert moved.mover.tier is (CPU if is_held else DISK)


async def test_a_load_that_is_cancelled_before_it_began(launcher: Launcher) -> None:
    moved = Moved(launcher)
    loading = asyncio.create_task(moved.mover.move(GPU))
    await cancel(loading)
    assert moved.mover.tier is DISK
    for passes in range(1, 12):  # somewhere between the call and the process
        loading = asyncio.create_task(moved.mover.move(GPU))
        for _ in range(passes):
            await asyncio.sleep(0)
        await cancel(loading)
        assert moved.supervisor.pid is None
        assert moved.mover.tier is DISK
    assert await moved.mover.move(GPU) is GPU


async def test_a_load_that_is_cancelled_in_its_hook(launcher: Launcher) -> None:
    moved = Moved(launcher, after_coming=hang)
    loading = asyncio.create_task(moved.mover.move(GPU))
    await until(lambda: moved.supervisor.state is READY)
    await cancel(loading)
    assert moved.mover.tier is DISK


@pytest.mark.parametrize("phase", ["back", "answer"])
async def test_a_cancelled_waking_stops_the_engine(
    launcher: Launcher, tmp_path: Path, phase: str
) -> None:
    device, mute = Device(), tmp_path / "mute"

    async def be_silent(engine: RunningEngine) -> None:
        mute.touch()

    way = ScriptedOffload(device, back=hang if phase == "back" else be_silent)
    moved = Moved(launcher, "--mute-when", str(mute), device=device, offloads=[way])
    await moved.mover.move(GPU)
    pid = moved.pid
    await moved.mover.move(CPU)
    waking = asyncio.create_task(moved.mover.move(GPU))
    await until(lambda: "back" in way.calls)
    await asyncio.sleep(0.05)
    await cancel(waking, 2)
    assert not is_alive(pid)
    assert moved.mover.tier is DISK
    mute.unlink(missing_ok=True)
    assert await moved.mover.move(GPU) is GPU


@pytest.mark.parametrize("phase", ["aside", "measure"])
async def test_a_cancelled_sleep_stops_an_engine_that_was_touched(
    launcher: Launcher, phase: str
) -> None:
    device = Device()
    way = ScriptedOffload(device, keeps=HELD, aside=hang if phase == "aside" else None)
    moved = Moved(launcher, device=device, offloads=[way])
    await moved.mover.move(GPU)
    pid = moved.pid
    going = asyncio.create_task(moved.mover.move(CPU))
    await until(lambda: way.calls if phase == "aside" else device.kept_by)
    await cancel(going)
    assert not is_alive(pid)
    assert moved.mover.tier is DISK
    assert await moved.mover.move(GPU) is GPU


async def test_a_hold_that_is_cancelled_leaves_the_engine_as_it_was(
    launcher: Launcher, weights: Path
) -> None:
    reached, goes_on = threading.Event(), threading.Event()

    def wait(_done: int, _total: int) -> None:
        reached.set()
        goes_on.wait(10)

    moved = Moved(launcher, files=[weights], on_progress=wait)
    await moved.mover.move(GPU)
    pid = moved.pid
    going = asyncio.create_task(moved.mover.move(CPU))
    await asyncio.to_thread(reached.wait, 10)
    asyncio.get_running_loop().call_later(0.1, goes_on.set)
    await cancel(going)
    assert moved.pid == pid
    assert moved.mover.tier is GPU
    assert not moved.files.is_held
    assert await moved.mover.move(CPU) is CPU


async def test_a_hold_that_is_cancelled_after_the_engine_was_spoilt_stops_it(
    launcher: Launcher, weights: Path
) -> None:
    reached, goes_on = threading.Event(), threading.Event()

    def wait(_done: int, _total: int) -> None:
        reached.set()
        goes_on.wait(10)

    device = Device()
    way = ScriptedOffload(device, keeps=HELD)
    moved = Moved(launcher, device=device, offloads=[way], files=[weights], on_progress=wait)
    await moved.mover.move(GPU)
    pid = moved.pid
    going = asyncio.create_task(moved.mover.move(CPU))
    await asyncio.to_thread(reached.wait, 10)
    asyncio.get_running_loop().call_later(0.1, goes_on.set)
    await cancel(going)
    assert not is_alive(pid)
    assert moved.mover.tier is DISK
    assert not moved.files.is_held


@pytest.mark.parametrize("to", [CPU, DISK])
async def test_a_cancelled_stop_is_carried_out(launcher: Launcher, weights: Path, to: Tier) -> None:
    moved = Moved(launcher, "--ignore-term", files=[weights])
    await moved.mover.move(GPU)
    pid = moved.pid
    going = asyncio.create_task(moved.mover.move(to))
    await until(lambda: moved.supervisor.state is EngineState.STOPPING)
    await cancel(going, 3)
    assert not is_alive(pid)
    assert moved.mover.tier is to
    assert moved.files.is_held is (to is CPU)


@pytest.mark.parametrize("to", [CPU, DISK])
async def test_a_move_that_is_cancelled_in_the_hook_before_it_changes_nothing(
    launcher: Launcher, weights: Path, to: Tier
) -> None:
    moved = Moved(launcher, files=[weights], before_leaving=hang)
    await moved.mover.move(GPU)
    pid = moved.pid
    going = asyncio.create_task(moved.mover.move(to))
    await asyncio.sleep(0.05)
    await cancel(going)
    assert moved.pid == pid
    assert moved.mover.tier is GPU
    await moved.mover.move(DISK)
