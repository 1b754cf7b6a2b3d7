"""Moves between the tiers, with real engines, real files, and ways that do as told."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from common.engines.contract import EngineState
from common.errors import CapacityError, EngineConfigurationError, EngineCrashError
from common.memory.contract import Tier
from common.memory.offload import RunningEngine
from tests.engines_process.conftest import Launcher, is_alive, until

from .moved_engine import (
    HELD,
    OTHERS,
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
MIB = 1 << 20
SIZE = 40 * MIB

pytestmark = pytest.mark.usefixtures("no_orphan")


def count(path: Path) -> int:
    return len(path.read_text().splitlines())


# Without a GPU: the engine is stopped, its weights stay in RAM.


async def test_around_the_tiers_with_files(
    launcher: Launcher, weights: Path, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    moved = Moved(launcher, "--count-starts", str(starts), files=[weights])
    assert moved.mover.tier is DISK
    assert await moved.mover.move(GPU) is GPU
    assert moved.supervisor.state is READY
    assert await moved.mover.move(GPU) is GPU
    assert count(starts) == 1
    pid = moved.pid

    assert await moved.mover.move(CPU) is CPU
    assert moved.mover.tier is CPU
    assert not is_alive(pid)
    assert moved.files.held_bytes == SIZE
    assert "weights kept in host RAM" in moved.text

    assert await moved.mover.move(GPU) is GPU
    assert not moved.files.is_held
    assert count(starts) == 2

    await moved.mover.move(CPU)
    assert await moved.mover.move(DISK) is DISK
    assert not moved.files.is_held
    assert await moved.mover.move(DISK) is DISK

    await moved.mover.move(GPU)
    assert await moved.mover.move(DISK) is DISK
    assert moved.mover.tier is DISK
    assert moved.supervisor.state is STOPPED


async def test_weights_are_fetched_from_disk_without_an_engine(
    launcher: Launcher, weights: Path
) -> None:
    moved = Moved(launcher, files=[weights])
    assert await moved.mover.move(CPU) is CPU
    assert moved.files.is_held
    assert moved.supervisor.state is STOPPED
    weights.unlink()
    await moved.mover.move(DISK)
    assert await moved.mover.move(CPU) is DISK
    assert "it stays on disk" in moved.text


async def test_files_stay_held_where_they_are_the_same_memory(
    launcher: Launcher, weights: Path
) -> None:
    moved = Moved(launcher, files=[weights], keep_held=True)
    await moved.mover.move(GPU)
    await moved.mover.move(CPU)
    await moved.mover.move(GPU)
    assert moved.files.is_held
    assert moved.mover.tier is GPU
    assert await moved.mover.move(CPU) is CPU
    await moved.mover.move(GPU)
    # An engine that is stopped for good while it has its place holds nothing either.
    await moved.supervisor.stop()
    await until(lambda: not moved.files.is_held)
    assert moved.mover.tier is DISK


@pytest.mark.parametrize("why", ["ram", "gone", "none"])
async def test_without_the_ram_or_the_files_it_goes_to_disk(
    launcher: Launcher, weights: Path, why: str
) -> None:
    moved = Moved(
        launcher,
        files=[] if why == "none" else [weights],
        available=lambda: MIB if why == "ram" else 1 << 40,
    )
    await moved.mover.move(GPU)
    pid = moved.pid
    if why == "gone":
        weights.unlink()
    assert await moved.mover.move(CPU) is DISK
    assert not is_alive(pid)
    assert not moved.files.is_held
    words = {"ram": "can be had", "gone": "No such file", "none": "cannot be kept in host RAM"}
    assert f"it goes to disk: {'The' if why == 'ram' else ''}" in moved.text
    assert words[why] in moved.text
    assert await moved.mover.move(GPU) is GPU


async def test_ram_that_is_short_leaves_a_model_of_the_disk_there(
    launcher: Launcher, weights: Path
) -> None:
    moved = Moved(launcher, files=[weights], available=lambda: MIB)
    with pytest.raises(CapacityError, match="cannot be kept in host RAM"):
        await moved.mover.move(CPU)
    assert moved.mover.tier is DISK


async def test_hooks_come_before_a_stop_and_after_a_start_and_may_fail(
    launcher: Launcher, weights: Path
) -> None:
    calls: list[tuple[str, int]] = []

    async def save(engine: RunningEngine) -> None:
        assert is_alive(engine.pid)
        assert engine.address == moved.supervisor.address
        calls.append(("save", engine.pid))
        raise OSError("no space")

    async def restore(engine: RunningEngine) -> None:
        calls.append(("restore", engine.pid))
        await hang(engine)

    moved = Moved(launcher, files=[weights], before_leaving=save, after_coming=restore)
    assert await moved.mover.move(GPU) is GPU
    first = moved.pid
    assert await moved.mover.move(CPU) is CPU
    await moved.mover.move(GPU)
    second = moved.pid
    assert await moved.mover.move(DISK) is DISK
    assert calls == [("restore", first), ("save", first), ("restore", second), ("save", second)]
    assert "was not saved: no space" in moved.text
    assert "was not restored: it took more than 0.3 s" in moved.text


# With ways that keep the process.


async def test_an_engine_is_put_aside_and_woken_with_its_process(
    launcher: Launcher, weights: Path
) -> None:
    device = Device()
    way = ScriptedOffload(device)
    moved = Moved(launcher, device=device, offloads=[way], files=[weights])
    await moved.mover.move(GPU)
    pid = moved.pid
    for _ in range(2):
        assert await moved.mover.move(CPU) is CPU
        assert moved.supervisor.state is PARKED
        assert await moved.mover.move(CPU) is CPU
        assert not moved.files.is_held
        await asyncio.sleep(0)
        assert await moved.mover.move(GPU) is GPU
        assert moved.pid == pid
    assert way.calls == ["aside", "back"] * 2
    assert "asleep after 0.0 s (standstill): 8.00 GiB of 8.00 GiB came back" in moved.text
    assert "awake after 0." in moved.text


@pytest.mark.parametrize("knows_processes", [True, False])
async def test_a_way_that_frees_too_little_is_followed_by_the_next_and_then_the_stop(
    launcher: Launcher, weights: Path, knows_processes: bool
) -> None:
    device = Device(knows_processes=knows_processes)
    first = ScriptedOffload(device, "light sleep", keeps=HELD // 2)
    second = ScriptedOffload(device, "deep sleep", keeps=HELD // 4)
    moved = Moved(
        launcher, device=device, offloads=[first, second], files=[weights], held={"gpu0": HELD}
    )
    await moved.mover.move(GPU)
    pid = moved.pid
    assert await moved.mover.move(CPU) is CPU
    assert not is_alive(pid)
    assert moved.files.is_held
    assert "light sleep did not free its memory: 4.00 GiB of 8.00 GiB came back" in moved.text
    assert "deep sleep did not free its memory: 6.00 GiB of 8.00 GiB came back" in moved.text
    assert "was stopped, but" not in moved.text
    assert await moved.mover.move(GPU) is GPU
    assert first.calls == second.calls == ["aside"]  # nothing is undone that ended


async def test_two_ways_are_undone_in_reverse_order(launcher: Launcher) -> None:
    device = Device()
    order: list[str] = []

    def note(word: str):  # type: ignore[no-untyped-def]
        async def step(engine: RunningEngine) -> None:
            order.append(word)
            device.kept_by.setdefault(engine.pid, 0)

        return step

    first = ScriptedOffload(device, "a", keeps=HELD, aside=note("+a"), back=note("-a"))
    second = ScriptedOffload(device, "b", aside=note("+b"), back=note("-b"))
    moved = Moved(launcher, device=device, offloads=[first, second])
    await moved.mover.move(GPU)
    pid = moved.pid
    assert await moved.mover.move(CPU) is CPU
    assert await moved.mover.move(GPU) is GPU
    assert moved.pid == pid
    assert order == ["+a", "+b", "-b", "-a"]


async def test_what_cannot_be_measured_is_not_taken_for_free(launcher: Launcher) -> None:
    class Broken(Device):
        async def read(self, pids: frozenset[int]) -> None:  # type: ignore[override]
            raise OSError("no driver")

    device = Broken()
    moved = Moved(launcher, device=device, offloads=[ScriptedOffload(device)])
    await moved.mover.move(GPU)
    assert await moved.mover.move(CPU) is DISK
    assert "could not be measured" in moved.text


async def test_without_a_gpu_the_processes_own_memory_tells(launcher: Launcher) -> None:
    """The way stops the engine, which frees nothing of it."""
    moved = Moved(launcher, offloads=[ScriptedOffload(Device())])
    await moved.mover.move(GPU)
    assert await moved.mover.move(CPU) is DISK
    assert "standstill did not free its memory: 0 GiB of" in moved.text


async def test_memory_that_a_stop_does_not_free_is_told_in_time(launcher: Launcher) -> None:
    device = Device(knows_processes=False)
    moved = Moved(launcher, device=device, held={"gpu0": HELD})
    await moved.mover.move(GPU)

    async def take_over() -> None:
        await until(lambda: device.readings)
        device.leaked = HELD

    taking = asyncio.create_task(take_over())
    began = time.monotonic()
    assert await moved.mover.move(DISK) is DISK
    assert time.monotonic() - began < 3
    await taking
    assert "was stopped, but 0 GiB of 8.00 GiB came back: another process may hold" in moved.text
    assert (await device.read(frozenset())).total == {"gpu0": OTHERS + HELD}


async def test_others_that_take_memory_meanwhile_do_not_spoil_the_sleep(
    launcher: Launcher,
) -> None:
    device = Device()

    async def others_come(engine: RunningEngine) -> None:
        device.leaked = HELD

    moved = Moved(
        launcher,
        device=device,
        offloads=[ScriptedOffload(device, aside=others_come)],
        held={"gpu0": HELD},
    )
    await moved.mover.move(GPU)
    assert await moved.mover.move(CPU) is CPU
    assert moved.supervisor.state is PARKED


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (refuse, "not put to sleep (standstill): the driver says no"),
        (fail, "not put to sleep (standstill): 'a mistake'"),
        (hang, "not put to sleep (standstill): it took more than 0.5 s"),
        (kill, "not put to sleep (standstill): the engine ended"),
    ],
)
async def test_a_way_that_fails_ends_in_a_stop(
    launcher: Launcher,
    weights: Path,
    step,  # type: ignore[no-untyped-def]
    words: str,
) -> None:
    device = Device()
    first, second = ScriptedOffload(device, aside=step), ScriptedOffload(device, "other")
    moved = Moved(launcher, device=device, offloads=[first, second], files=[weights])
    await moved.mover.move(GPU)
    pid = moved.pid
    assert await moved.mover.move(CPU) is CPU
    assert words in moved.text
    assert second.calls == []  # who knows what state the engine is in
    assert not is_alive(pid)
    assert moved.supervisor.state is STOPPED
    assert moved.files.is_held
    assert await moved.mover.move(GPU) is GPU


async def test_a_way_that_left_the_engine_untouched_is_followed_by_the_next(
    launcher: Launcher,
) -> None:
    device = Device()
    first = ScriptedOffload(device, "none", aside=refuse_untouched)
    second = ScriptedOffload(device)
    moved = Moved(launcher, device=device, offloads=[first, second])
    await moved.mover.move(GPU)
    pid = moved.pid
    assert await moved.mover.move(CPU) is CPU
    assert await moved.mover.move(GPU) is GPU
    assert moved.pid == pid
    assert first.calls == ["aside"]


async def test_an_engine_that_no_way_touched_may_save_what_it_computed(
    launcher: Launcher, weights: Path
) -> None:
    saved: list[EngineState] = []

    async def save(engine: RunningEngine) -> None:
        saved.append(moved.supervisor.state)

    device = Device()
    way = ScriptedOffload(device, aside=refuse_untouched)
    moved = Moved(launcher, device=device, offloads=[way], files=[weights], before_leaving=save)
    await moved.mover.move(GPU)
    assert await moved.mover.move(CPU) is CPU
    assert saved == [READY]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (refuse, "not brought back (standstill): the driver says no"),
        (fail, "not brought back (standstill): 'a mistake'"),
        (hang, "not brought back (standstill): it took more than 0.5 s"),
        (kill, "not brought back (standstill): the engine ended"),
    ],
)
async def test_an_engine_that_cannot_be_woken_is_started_anew(
    launcher: Launcher,
    step,  # type: ignore[no-untyped-def]
    words: str,
) -> None:
    device = Device()
    moved = Moved(launcher, device=device, offloads=[ScriptedOffload(device, back=step)])
    await moved.mover.move(GPU)
    pid = moved.pid
    await moved.mover.move(CPU)
    assert await moved.mover.move(GPU) is GPU
    assert not is_alive(pid)
    assert moved.supervisor.state is READY
    assert f"{words}; it is started anew" in moved.text


async def test_an_engine_that_does_not_answer_when_woken_is_started_anew(
    launcher: Launcher, tmp_path: Path
) -> None:
    device, mute = Device(), tmp_path / "mute"

    async def stay_silent(engine: RunningEngine) -> None:
        mute.touch()

    way = ScriptedOffload(device, back=stay_silent)
    moved = Moved(launcher, "--mute-when", str(mute), device=device, offloads=[way])
    await moved.mover.move(GPU)
    pid = moved.pid
    await moved.mover.move(CPU)
    waking = asyncio.create_task(moved.mover.move(GPU))
    await until(lambda: not is_alive(pid))
    mute.unlink()
    assert await waking is GPU
    assert "did not answer within 0.5 s after it was woken; it is started anew" in moved.text


# Engines that end or stand still by themselves.


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_crash_while_asleep_has_it_on_disk(launcher: Launcher, number: int) -> None:
    device = Device()
    way = ScriptedOffload(device)
    moved = Moved(launcher, device=device, offloads=[way])
    await moved.mover.move(GPU)
    await moved.mover.move(CPU)
    pid = moved.pid
    os.kill(pid, number)
    os.kill(pid, signal.SIGCONT)  # else SIGSEGV waits as the engine does
    await until(lambda: moved.mover.tier is DISK)
    assert moved.supervisor.state is STOPPED
    assert "while it was asleep" in str(moved.supervisor.failure)
    assert await moved.mover.move(GPU) is GPU
    assert way.calls == ["aside"]
    assert await moved.mover.move(CPU) is CPU
    assert await moved.mover.move(GPU) is GPU
    assert way.calls == ["aside", "aside", "back"]


async def test_a_crash_while_awake_keeps_its_place_and_leaves_when_told(
    launcher: Launcher, weights: Path
) -> None:
    moved = Moved(launcher, files=[weights])
    await moved.mover.move(GPU)
    os.kill(moved.pid, signal.SIGKILL)
    await until(lambda: moved.supervisor.state is not READY)
    assert moved.mover.tier is GPU  # the supervisor starts it again
    await moved.supervisor.ensure_ready(10)
    os.kill(moved.pid, signal.SIGKILL)
    await until(lambda: moved.supervisor.state is not READY)
    assert await moved.mover.move(CPU) is CPU
    assert moved.supervisor.state is STOPPED


async def test_an_engine_that_stands_still_is_moved_all_the_same(
    launcher: Launcher, weights: Path
) -> None:
    moved = Moved(launcher, files=[weights])
    await moved.mover.move(GPU)
    pid = moved.pid
    os.kill(pid, signal.SIGSTOP)
    assert await moved.mover.move(CPU) is CPU
    assert not is_alive(pid)


async def test_a_sleeping_engine_is_stopped_for_the_disk(launcher: Launcher) -> None:
    device = Device()
    moved = Moved(launcher, "--ignore-term", device=device, offloads=[ScriptedOffload(device)])
    await moved.mover.move(GPU)
    pid = moved.pid
    await moved.mover.move(CPU)
    assert await moved.mover.move(DISK) is DISK
    assert not is_alive(pid)
    assert "was stopped, but" not in moved.text


async def test_a_load_that_fails_for_good_has_it_on_disk(
    launcher: Launcher, weights: Path, tmp_path: Path
) -> None:
    moved = Moved(launcher, "--print", "error: bad option --frob", "--exit", "1", files=[weights])
    await moved.mover.move(CPU)
    with pytest.raises(EngineConfigurationError, match="bad option --frob"):
        await moved.mover.move(GPU)
    assert moved.mover.tier is DISK
    assert not moved.files.is_held
    assert await moved.mover.move(CPU) is DISK
    assert not moved.files.is_held
    with pytest.raises(EngineConfigurationError):  # tried afresh, since somebody asks
        await moved.mover.move(GPU)
    assert launcher.states.count(EngineState.STARTING) == 2


async def test_a_load_whose_engine_is_stopped_meanwhile(launcher: Launcher, weights: Path) -> None:
    moved = Moved(launcher, "--load-seconds", "60", files=[weights])
    await moved.mover.move(CPU)
    loading = asyncio.create_task(moved.mover.move(GPU))
    await until(lambda: moved.supervisor.pid)
    await moved.supervisor.stop()
    with pytest.raises(CapacityError, match="was stopped"):
        await loading
    assert moved.mover.tier is CPU


async def test_a_second_move_at_the_same_time_is_refused(launcher: Launcher) -> None:
    moved = Moved(launcher, "--load-seconds", "0.3")
    loading = asyncio.create_task(moved.mover.move(GPU))
    await asyncio.sleep(0)
    with pytest.raises(CapacityError, match="being moved already"):
        await moved.mover.move(DISK)
    assert await loading is GPU


async def test_a_mistake_ends_the_engine_and_is_told(
    launcher: Launcher, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Moved(launcher, files=[weights])
    await moved.mover.move(GPU)
    pid = moved.pid

    async def break_down() -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(moved.files, "hold", break_down)
    with pytest.raises(EngineCrashError, match="a mistake of this program: ZeroDivisionError"):
        await moved.mover.move(CPU)
    assert not is_alive(pid)
    assert moved.mover.tier is DISK
