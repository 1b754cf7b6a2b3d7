"""Sleep mode, spoken to a process that behaves as vLLM does."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from apps.vllm.sleep import SleepLimits, SleepMode
from common.engines.contract import EngineAddress
from common.memory.offload import OffloadError, RunningEngine

FAKE = Path(__file__).parents[1] / "fakes" / "sleeping_vllm.py"
FAST = SleepLimits(sleep_s=0.5, wake_s=0.5, reload_s=0.5, settle_s=0.3)


@dataclass
class Running:
    """A vLLM that can sleep, and a client of it."""

    engine: RunningEngine
    process: asyncio.subprocess.Process
    session: aiohttp.ClientSession

    async def ask(self, query: str = "") -> str:
        """The text of one completion."""
        url = f"{self.engine.address.base_url}/v1/completions{query}"
        async with self.session.post(url, json={}) as answer:
            return str((await answer.json())["choices"][0]["text"])

    async def told(self) -> Any:
        """What came, and how many requests run."""
        async with self.session.get(f"{self.engine.address.base_url}/fake/calls") as answer:
            return await answer.json()

    async def calls(self) -> list[str]:
        """What came except requests."""
        return [call for call in (await self.told())["calls"] if "/v1/" not in call]

    async def until(self, what: str) -> None:
        """Wait until a call came, or a request runs."""
        while True:
            told = await self.told()
            if what in told["calls"] or (what == "running" and told["running"]):
                return
            await asyncio.sleep(0.01)

    async def tell(self, what: str, body: Any = None) -> None:
        async with self.session.post(
            f"{self.engine.address.base_url}/fake/{what}", json=body
        ) as answer:
            assert answer.status == 200


@asynccontextmanager
async def running(folder: Path, *arguments: str, dev_mode: bool = True) -> AsyncIterator[Running]:
    socket = folder / "e.sock"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(FAKE),
        "--socket",
        str(socket),
        *arguments,
        env={**os.environ, "VLLM_SERVER_DEV_MODE": "1" if dev_mode else "0"},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        engine = RunningEngine(process.pid, EngineAddress(socket_path=socket))
        connector = aiohttp.UnixConnector(str(socket), force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Running(engine, process, session)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_level_1_wakes_with_what_it_had(tmp_path: Path) -> None:
    mode = SleepMode(1)
    assert mode.label == "sleep level 1"
    async with running(tmp_path) as run:
        assert await run.ask() == "right"
        await mode.put_aside(run.engine)
        waiting = asyncio.create_task(run.ask())
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done
        await mode.bring_back(run.engine)
        assert await waiting == "right"
        assert await run.calls() == [
            "POST /reset_prefix_cache",
            "POST /sleep?level=1&mode=wait",
            "GET /is_sleeping",
            "POST /wake_up",
            "GET /is_sleeping",
        ]


@pytest.mark.parametrize("old", [[], ["--old"]])
async def test_level_2_has_its_weights_before_the_next_request(
    tmp_path: Path, old: list[str]
) -> None:
    mode = SleepMode(2, waits=False)
    async with running(tmp_path, *old) as run:
        assert await run.ask() == "right"
        await mode.put_aside(run.engine)
        waiting = asyncio.create_task(run.ask())
        await mode.bring_back(run.engine)
        assert await waiting == "right"
        assert await run.calls() == [
            "POST /reset_prefix_cache",
            "POST /sleep?level=2",
            "GET /is_sleeping",
            "POST /wake_up?tags=weights",
            "POST /collective_rpc reload_weights",
            "POST /wake_up?tags=kv_cache",
            "POST /reset_prefix_cache",
            "GET /is_sleeping",
        ]


async def test_an_engine_with_a_request_is_not_touched(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        held = asyncio.create_task(run.ask("?hold=1"))
        await run.until("running")
        with pytest.raises(OffloadError, match="still has requests") as caught:
            await SleepMode(1, limits=FAST).put_aside(run.engine)
        assert caught.value.is_untouched
        assert not [call for call in await run.calls() if "/sleep" in call]
        await run.tell("release")
        assert await held == "right"


async def test_a_request_that_ends_in_a_moment_is_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        held = asyncio.create_task(run.ask("?hold=1"))
        await run.until("running")
        asleep = asyncio.create_task(SleepMode(1).put_aside(run.engine))
        await run.until("POST /reset_prefix_cache")
        await run.tell("release")
        assert await held == "right"
        await asleep


async def test_without_its_routes_it_is_untouched(tmp_path: Path) -> None:
    async with running(tmp_path, dev_mode=False) as run:
        with pytest.raises(OffloadError, match="/reset_prefix_cache with 404") as caught:
            await SleepMode(1).put_aside(run.engine)
        assert caught.value.is_untouched
        assert await run.ask() == "right"


@pytest.mark.parametrize(
    ("step", "path", "status", "words"),
    [
        ("put_aside", "/sleep", 500, "answered /sleep with 500: /sleep failed as told: out of"),
        ("put_aside", "/sleep", 0, "did not answer /sleep within 0.5 s"),
        ("put_aside", "/is_sleeping", 500, "answered /is_sleeping with 500"),
        ("bring_back", "/wake_up", 500, "answered /wake_up with 500"),
        ("bring_back", "/wake_up", 0, "did not answer /wake_up within 0.5 s"),
        ("bring_back", "/collective_rpc", 500, "answered /collective_rpc with 500"),
        ("bring_back", "/collective_rpc", 404, "answered /collective_rpc with 404"),
        ("bring_back", "/reset_prefix_cache", 500, "answered /reset_prefix_cache with 500"),
    ],
)
async def test_what_fails_is_told_and_leaves_the_engine_spoilt(
    tmp_path: Path, step: str, path: str, status: int, words: str
) -> None:
    mode = SleepMode(2, limits=FAST)
    async with running(tmp_path) as run:
        if step == "bring_back":
            await mode.put_aside(run.engine)
        await run.tell("script", {path: status})
        with pytest.raises(OffloadError) as caught:
            await getattr(mode, step)(run.engine)
        assert words in str(caught.value)
        assert not caught.value.is_untouched


async def test_an_engine_that_died_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        await SleepMode(1).put_aside(run.engine)
        run.process.kill()
        await run.process.wait()
        with pytest.raises(OffloadError, match="broke off at /wake_up") as caught:
            await SleepMode(1).bring_back(run.engine)
        assert not caught.value.is_untouched


async def test_a_sleep_that_is_cancelled_leaves_no_connection(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        await run.tell("script", {"/sleep": 0})
        moving = asyncio.create_task(SleepMode(1).put_aside(run.engine))
        await run.until("POST /sleep?level=1&mode=wait")
        moving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await moving
