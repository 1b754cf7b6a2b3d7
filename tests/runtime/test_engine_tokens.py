"""The engines' own token totals: read before they are lost, until they settle, and no longer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp

from tests.runtime.running_instance import Running, running

LATE_S = 0.5


def generated(it: Running) -> int:
    return it.instance.recorder.snapshot().models["m"].generated_tokens


async def readings(it: Running) -> int:
    """How often the engine was asked for its metrics, by its own count."""
    (model,) = it.instance.models
    connector = aiohttp.UnixConnector(str(model.address.socket_path))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://engine/stub/stats") as answer,
    ):
        stats: dict[str, Any] = await answer.json()
    return int(stats["metrics_hits"])


async def test_an_engine_that_counts_after_it_answered_is_read_until_it_has(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, m=("--counts-late", str(LATE_S))) as it:
        await it.ready("m")
        await it.chat("m")
        await it.instance.tokens.read()
        await asyncio.sleep(LATE_S + 1)
        await it.instance.tokens.read()
        assert generated(it) == 5


async def test_an_engine_that_nobody_uses_is_left_alone(tmp_path: Path) -> None:
    async with running(tmp_path, m=()) as it:
        await it.ready("m")
        await it.chat("m")
        await it.instance.tokens.read()
        await asyncio.sleep(1.1)
        await it.instance.tokens.read()
        before = await readings(it)
        for _ in range(3):
            await it.instance.tokens.read()
        assert await readings(it) == before
        await it.chat("m")
        await it.instance.tokens.read()
        assert await readings(it) == before + 1
        assert generated(it) == 10


async def test_tokens_of_streams_without_usage_outlive_an_unload(tmp_path: Path) -> None:
    async with running(tmp_path, m=("--as-asked",)) as it:
        await it.ready("m")
        await it.chat("m", stream=True)
        await it.instance.operations.unload("m")
        assert generated(it) == 5
        await it.chat("m", stream=True)
        await it.instance.tokens.read()
        assert generated(it) == 10
