"""What the memory soak judges by, with real processes where it looks at processes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.soak.memory_faults import Fault, FaultLog
from tests.soak.memory_watch import ALIVE, ASLEEP, Watch, running
from tests.soak.turning_engine import text_of


def test_a_failure_needs_a_fault_of_its_own_model_and_time() -> None:
    log = FaultLog()
    log.add(Fault("killed", "a", 10.0, 10.5))
    assert log.explains("a", 9.0, 10.1, is_refused=False)
    assert log.explains("a", 10.4, 12.0, is_refused=False)
    assert not log.explains("a", 8.0, 9.9, is_refused=False)
    assert not log.explains("a", 10.6, 12.0, is_refused=False)
    assert not log.explains("b", 9.0, 10.1, is_refused=False)
    assert not log.explains("a", 9.0, 10.1, is_refused=True)


def test_no_memory_explains_refusals_of_all_models_and_no_broken_answer() -> None:
    log = FaultLog()
    fault = log.add(Fault("no memory", "", 10.0, float("inf"), refuses=True))
    assert log.explains("a", 20.0, 21.0, is_refused=True)
    assert not log.explains("a", 20.0, 21.0, is_refused=False)
    fault.ended = 15.0
    assert not log.explains("a", 20.0, 21.0, is_refused=True)


def test_models_say_different_words() -> None:
    assert text_of("a", 3) == "a 1 2"
    assert text_of("a", 3) != text_of("b", 3)


@asynccontextmanager
async def engine(folder: Path, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A real engine on a Unix socket, with its file."""
    program = Path(__file__).with_name("turning_engine.py")
    for state in (ALIVE, ASLEEP):
        (folder / state).mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(program), "--socket", str(folder / f"{name}.sock")),
        *("--name", name, "--folder", str(folder)),
    )
    try:
        while name not in running(folder / ALIVE):
            assert process.returncode is None
            await asyncio.sleep(0.01)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_an_engine_that_runs_is_seen_until_it_ends(tmp_path: Path) -> None:
    async with engine(tmp_path, "a") as process:
        assert running(tmp_path / ALIVE) == {"a": [process.pid]}
        process.kill()
        await process.wait()
        assert running(tmp_path / ALIVE) == {}
        assert list((tmp_path / ALIVE).iterdir()) == []


@pytest.mark.parametrize(
    ("places", "room", "told"),
    [
        ({"a"}, 1, ""),
        ({"a"}, 0, "memory for 0"),
        (set(), 1, "no place"),
    ],
)
async def test_what_runs_without_memory_or_place_is_told(
    tmp_path: Path, places: set[str], room: int, told: str
) -> None:
    problems: list[str] = []
    async with engine(tmp_path, "a"):
        watch = Watch(tmp_path, lambda: set(places), lambda: room, problems.append)
        watch.look()
    assert [told in problem for problem in problems] == ([True] if told else [])


async def test_who_was_there_before_memory_became_less_may_stay(tmp_path: Path) -> None:
    problems: list[str] = []
    places, room = {"a"}, 1
    async with engine(tmp_path, "a"):
        watch = Watch(tmp_path, lambda: set(places), lambda: room, problems.append)
        watch.capacity_changes()
        room = 0
        watch.look()
        assert problems == []
        places.clear()
        watch.look()
        places.add("a")
        problems.clear()
        watch.look()
        assert len(problems) == 1
