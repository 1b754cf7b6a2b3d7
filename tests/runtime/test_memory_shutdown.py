"""The end of an instance whose models take turns, in the middle of each kind of move."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from common.engines.contract import EngineState
from common.memory.engine_ways import EngineOffloads
from tests.runtime.running_instance import Running, until
from tests.runtime.sharing_instance import (
    BALLAST,
    OFFLOAD,
    QUICK,
    SWAP,
    StubSleep,
    Told,
    ask,
    operate,
    sharing,
    supervisor,
    waiting,
)

# Longer than an instance may take for its end: who ends a move must not wait for it.
LONG = 60.0
PATIENT = replace(QUICK, supervisor=replace(QUICK.supervisor, stop_grace_s=LONG))
MOST_S = 3.0
"""An end takes 1.5 s for an engine that does not hear, and a moment for all else."""


async def abort(running: Running) -> float:
    """End the instance at once; return how long that took, in seconds."""
    left = running.processes()
    assert left
    began = time.monotonic()
    await running.instance.close()
    took_s = time.monotonic() - began
    assert not [process for process in left if process.is_running()]
    assert not running.processes()
    return took_s


def is_told_of_the_stop(told: Told) -> bool:
    return told.status == 503 and "is stopping" in told.text and "Retry-After" in told.headers


@pytest.mark.parametrize("mode", [OFFLOAD, SWAP], ids=["RAM", "disk"])
async def test_the_end_while_a_model_is_loaded(tmp_path: Path, mode: dict[str, str]) -> None:
    flags = {"b": ("--load-seconds", "60", "--ignore-term")}
    async with sharing(
        tmp_path, "ab", mode, budget_gib=1.0, first="a", flags=flags, limits=PATIENT
    ) as running:
        await running.ready("a")
        asked = asyncio.ensure_future(ask(running, "b"))
        await until(lambda: supervisor(running, "b").pid)
        assert await abort(running) < MOST_S
        assert is_told_of_the_stop(await asked)


@pytest.mark.parametrize("mode", [OFFLOAD, SWAP], ids=["RAM", "disk"])
async def test_the_end_while_a_model_leaves(tmp_path: Path, mode: dict[str, str]) -> None:
    flags = {"a": ("--ignore-term",)}
    async with sharing(
        tmp_path, "ab", mode, budget_gib=1.0, first="a", flags=flags, limits=PATIENT
    ) as running:
        await running.ready("a")
        asked = [asyncio.ensure_future(ask(running, "b"))]
        await until(lambda: supervisor(running, "a").state is EngineState.STOPPING)
        asked.append(asyncio.ensure_future(ask(running, "a")))
        await until(lambda: waiting(running, "a"))
        assert await abort(running) < MOST_S
        for each in asked:
            assert is_told_of_the_stop(await each)
        assert supervisor(running, "b").pid is None


async def test_the_end_while_a_model_falls_asleep(tmp_path: Path) -> None:
    way = StubSleep()
    way.aside_goes_on.clear()
    ways = {"ways": EngineOffloads(asleep=(way,))}
    async with sharing(
        tmp_path, "ab", OFFLOAD, budget_gib=1.0, first="a", limits=PATIENT, installed=ways
    ) as running:
        await running.ready("a")
        asked = asyncio.ensure_future(ask(running, "b"))
        await until(lambda: way.calls)
        assert await abort(running) < MOST_S
        assert is_told_of_the_stop(await asked)


async def test_the_end_while_a_model_wakes(tmp_path: Path) -> None:
    way = StubSleep()
    way.back_goes_on.clear()
    ways = {"ways": EngineOffloads(asleep=(way,))}
    async with sharing(
        tmp_path, "a", OFFLOAD, flags={"a": BALLAST}, limits=PATIENT, installed=ways
    ) as running:
        await running.ready("a")
        assert await operate(running, "a", "sleep") == 200
        asked = asyncio.ensure_future(ask(running, "a"))
        await until(lambda: "back" in way.calls)
        assert await abort(running) < MOST_S
        assert is_told_of_the_stop(await asked)


async def test_the_end_while_models_sleep(tmp_path: Path) -> None:
    ways = {"ways": EngineOffloads(asleep=(StubSleep(),))}
    flags = {name: BALLAST for name in "ab"}
    async with sharing(
        tmp_path, "ab", OFFLOAD, flags=flags, limits=PATIENT, installed=ways
    ) as running:
        await running.ready("a", "b")
        assert await operate(running, "a", "sleep") == 200
        assert await abort(running) < MOST_S


async def test_a_drain_answers_streams_and_those_who_wait_for_their_turn(tmp_path: Path) -> None:
    async with sharing(tmp_path, "ab", OFFLOAD, budget_gib=1.0, first="a", limits=QUICK) as running:
        await running.ready("a")
        stream = asyncio.ensure_future(ask(running, "a", stream=True, stub_seconds=1.0))
        await until(lambda: running.instance.recorder.open_requests)
        waits = asyncio.ensure_future(ask(running, "b"))
        await until(lambda: waiting(running, "b"))
        await running.instance.drain()
        # By now both are answered, and who comes is refused.
        assert not running.instance.recorder.open_requests
        assert (await stream).text.rstrip().endswith("data: [DONE]")
        assert (await waits).status == 200
        late = await ask(running, "a")
        assert late.status == 503
        await abort(running)


async def test_who_cannot_have_a_turn_within_the_drain_is_told_at_its_end(tmp_path: Path) -> None:
    mode = {**OFFLOAD, "General/drain_seconds": "1"}
    async with sharing(tmp_path, "ab", mode, budget_gib=1.0, first="a", limits=QUICK) as running:
        await running.ready("a")
        stream = asyncio.ensure_future(ask(running, "a", stream=True, stub_seconds=30))
        await until(lambda: running.instance.recorder.open_requests)
        waits = asyncio.ensure_future(ask(running, "b"))
        await until(lambda: waiting(running, "b"))
        began = time.monotonic()
        await running.instance.drain()
        assert 0.9 < time.monotonic() - began < 2.0
        assert not waits.done()
        assert await abort(running) < MOST_S
        assert is_told_of_the_stop(await waits)
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
