"""Sleep mode's calls against a real vLLM: the routes, their order and what they do to requests.

The CPU build has the routes and the scheduler's part of it, not the memory's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from apps.vllm.sleep import SleepLimits, SleepMode
from common.engines.contract import EngineAddress
from common.memory.offload import OffloadError, RunningEngine
from tests.vllm.conftest import TinyModels

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]


@asynccontextmanager
async def started(
    python: Path, model: Path, folder: Path
) -> AsyncIterator[tuple[RunningEngine, aiohttp.ClientSession]]:
    socket, log = folder / "e.sock", folder / "engine.log"
    env = {
        **os.environ,
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(str(python), "-m", "vllm.entrypoints.cli.main", "serve", str(model)),
            *("--served-model-name", "tiny", "--uds", str(socket), "--enforce-eager"),
            *("--max-model-len", "256"),
            env=env,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
        )
    connector = aiohttp.UnixConnector(str(socket), force_close=True)
    try:
        async with aiohttp.ClientSession(connector=connector) as session:
            while not await is_ready(session):
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.2)
            engine = RunningEngine(process.pid, EngineAddress(socket_path=socket))
            yield engine, session
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def is_ready(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get("http://engine/health") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def complete(session: aiohttp.ClientSession, **more: Any) -> str:
    body = {"model": "tiny", "prompt": "Hello", "max_tokens": 8, "temperature": 0, **more}
    async with session.post("http://engine/v1/completions", json=body) as answer:
        told = await answer.json()
    assert answer.status == 200, told
    return str(told["choices"][0]["text"])


async def running_requests(session: aiohttp.ClientSession) -> float:
    async with session.get("http://engine/metrics") as answer:
        text = await answer.text()
    lines = (line for line in text.splitlines() if line.startswith("vllm:num_requests_running{"))
    return sum(float(line.split()[-1]) for line in lines)


async def test_a_real_engine_sleeps_and_wakes(
    vllm_python: Path, tiny: TinyModels, tmp_path: Path
) -> None:
    async with started(vllm_python, tiny.base, tmp_path) as (engine, session):
        before = await complete(session)
        for level in (1, 2):
            mode = SleepMode(level)  # type: ignore[arg-type]
            await mode.put_aside(engine)
            waiting = asyncio.create_task(complete(session))
            done, _ = await asyncio.wait({waiting}, timeout=0.5)
            assert not done
            await mode.bring_back(engine)
            assert await waiting == before
        # A request that runs is not cut off.
        long = {"max_tokens": 240, "min_tokens": 240, "ignore_eos": True}
        alone = await complete(session, **long)
        held = asyncio.create_task(complete(session, **long))
        while not await running_requests(session):
            assert not held.done()
        with pytest.raises(OffloadError, match="still has requests") as caught:
            await SleepMode(1, limits=SleepLimits(settle_s=0)).put_aside(engine)
        assert caught.value.is_untouched
        assert await held == alone
