"""Engines that are left alone for a while, with real children."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from common.engines.contract import EngineState
from common.engines.supervisor import Supervisor
from common.errors import CapacityError, EngineCrashError, EngineError

from .conftest import Launcher, is_alive, until

STOPPED, STARTING, READY = EngineState.STOPPED, EngineState.STARTING, EngineState.READY
PARKED, STOPPING, BACKOFF = EngineState.PARKED, EngineState.STOPPING, EngineState.BACKOFF
PARKED_LIFE = [STARTING, READY, PARKED, STOPPING, STOPPED]

# Three unanswered questions make an engine hung here: 0.9 s (see QUICK).
HUNG_S = 1.2


async def park(launcher: Launcher, *flags: str) -> tuple[Supervisor, int]:
    supervisor = launcher.supervise(*flags)
    await supervisor.ensure_ready(10)
    pid = supervisor.pid
    assert pid is not None
    await supervisor.park()
    assert supervisor.state is PARKED
    assert supervisor.ready_since is None
    return supervisor, pid


async def test_a_parked_engine_may_stand_still_and_is_watched_again_afterwards(
    launcher: Launcher,
) -> None:
    supervisor, pid = await park(launcher)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(HUNG_S)
    assert supervisor.state is PARKED
    assert supervisor.pid == pid
    os.kill(pid, signal.SIGCONT)
    await supervisor.unpark(5.0)
    assert supervisor.state is READY
    assert supervisor.ready_since is not None
    assert launcher.states == [STARTING, READY, PARKED, READY]
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: supervisor.state is not READY)
    await supervisor.ensure_ready(10)
    assert supervisor.pid != pid
    assert launcher.states[4:] == [STOPPING, BACKOFF, STARTING, READY]


async def test_parking_twice_and_again_is_the_same(launcher: Launcher) -> None:
    supervisor, pid = await park(launcher)
    await supervisor.park()
    await asyncio.gather(supervisor.unpark(5.0), supervisor.unpark(5.0))
    await supervisor.unpark(5.0)
    await asyncio.gather(supervisor.park(), supervisor.park())
    await supervisor.unpark(5.0)
    assert supervisor.pid == pid
    assert launcher.states == [STARTING, READY, PARKED, READY, PARKED, READY]


async def test_a_parked_engine_that_ends_is_stopped_with_the_reason(launcher: Launcher) -> None:
    supervisor, pid = await park(launcher, "--print", "sleep well")
    os.kill(pid, signal.SIGSEGV)
    await supervisor.wait_closed()
    assert launcher.states == PARKED_LIFE
    assert isinstance(supervisor.failure, EngineCrashError)
    assert "killed by SIGSEGV" in str(supervisor.failure)
    assert "while it was asleep" in str(supervisor.failure)
    assert supervisor.failure.tail == ("sleep well",)
    assert supervisor.pid is None
    with pytest.raises(EngineCrashError, match="while it was asleep"):
        await supervisor.unpark(1.0)
    await supervisor.ensure_ready(10)  # wanted again, it starts afresh
    assert supervisor.failure is None


async def test_one_that_is_wanted_while_it_ends_asleep_is_started_again(
    launcher: Launcher, tmp_path: Path
) -> None:
    """Its descendants take a second to be ended: within that somebody asks."""
    supervisor, pid = await park(launcher, "--grandchild", str(tmp_path / "pid"))
    os.kill(pid, signal.SIGKILL)
    await until(lambda: supervisor.state is STOPPING)
    await supervisor.ensure_ready(10)
    assert launcher.states == [*PARKED_LIFE, STARTING, READY]


async def test_nobody_starts_a_parked_engine_by_asking_for_it(launcher: Launcher) -> None:
    supervisor, pid = await park(launcher)
    with pytest.raises(CapacityError, match='"acme/tiny" is asleep'):
        await supervisor.ensure_ready(5)
    await supervisor.start()
    assert supervisor.state is PARKED
    assert supervisor.pid == pid


async def test_only_a_ready_engine_is_parked_and_only_a_parked_one_unparked(
    launcher: Launcher,
) -> None:
    supervisor = launcher.supervise("--load-seconds", "60")
    for call in (supervisor.park, lambda: supervisor.unpark(1.0)):
        with pytest.raises(CapacityError, match="is stopped"):
            await call()
    await supervisor.start()
    await until(lambda: supervisor.state is STARTING)
    for call in (supervisor.park, lambda: supervisor.unpark(1.0)):
        with pytest.raises(CapacityError, match="is starting"):
            await call()


@pytest.mark.parametrize("flags", [(), ("--ignore-term",)])
@pytest.mark.parametrize("grace_s", [None, 0.0])
async def test_a_parked_engine_that_stands_still_is_stopped(
    launcher: Launcher, flags: tuple[str, ...], grace_s: float | None
) -> None:
    supervisor, pid = await park(launcher, *flags)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    await supervisor.stop(grace_s)
    assert time.monotonic() - began < (4.0 if grace_s is None else 1.5)
    assert launcher.states == PARKED_LIFE
    assert not is_alive(pid)
    assert supervisor.failure is None


async def test_a_stop_of_a_parked_engine_needs_no_long_grace(launcher: Launcher) -> None:
    supervisor, pid = await park(launcher)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    await supervisor.stop(60.0)
    assert time.monotonic() - began < 4.0
    assert not is_alive(pid)


async def test_one_that_does_not_answer_when_woken_stays_parked(launcher: Launcher) -> None:
    supervisor, pid = await park(launcher)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(EngineCrashError, match="did not answer within 0.3 s after it was woken"):
        await supervisor.unpark(0.3)
    assert 0.3 <= time.monotonic() - began < 2.0
    assert supervisor.state is PARKED
    os.kill(pid, signal.SIGCONT)
    await supervisor.unpark(5.0)
    assert supervisor.state is READY


async def test_one_that_ends_while_it_is_woken(launcher: Launcher) -> None:
    supervisor, pid = await park(launcher)
    os.kill(pid, signal.SIGSTOP)
    waking = asyncio.create_task(supervisor.unpark(30.0))
    await asyncio.sleep(0.1)
    assert not waking.done()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="killed by SIGKILL"):
        await waking
    assert launcher.states == PARKED_LIFE


async def test_a_stop_ends_the_waking(launcher: Launcher) -> None:
    supervisor, pid = await park(launcher)
    os.kill(pid, signal.SIGSTOP)
    waking = asyncio.create_task(supervisor.unpark(30.0))
    await asyncio.sleep(0.1)
    await supervisor.stop(0.0)
    with pytest.raises(CapacityError, match="was stopped"):
        await waking
    assert not is_alive(pid)


async def test_a_waking_that_is_cancelled_leaves_it_parked(launcher: Launcher) -> None:
    supervisor, pid = await park(launcher)
    os.kill(pid, signal.SIGSTOP)
    waking = asyncio.create_task(supervisor.unpark(30.0))
    await asyncio.sleep(0.1)
    waking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waking
    os.kill(pid, signal.SIGCONT)
    await asyncio.sleep(0.3)
    assert supervisor.state is PARKED
    await supervisor.unpark(5.0)
    assert supervisor.state is READY


async def test_an_engine_that_ends_as_it_is_parked(launcher: Launcher) -> None:
    """Whichever is first, the call returns or raises, and the supervisor is in a state to go on."""
    supervisor = launcher.supervise()
    for _ in range(5):
        await supervisor.ensure_ready(10)
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        parking = asyncio.create_task(supervisor.park())
        await asyncio.wait({parking}, timeout=5.0)
        assert parking.done()
        parking.exception()
        await supervisor.stop()
        assert supervisor.state is STOPPED


async def test_the_end_of_the_event_loop_ends_a_parked_engine(launcher: Launcher) -> None:
    supervisor, pid = await park(launcher, "--ignore-term")
    os.kill(pid, signal.SIGSTOP)
    assert supervisor._loop is not None
    supervisor._loop.cancel()  # as asyncio.run does at its end
    await supervisor.wait_closed()
    assert not is_alive(pid)
