"""Connections to engines while they are opened."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_harness import until

from common.engines.contract import EngineAddress
from common.gateway.http.engine_pool import EnginePool, EnginePools


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "e.sock"))
        listening.listen(64)
        yield listening


def pool_of(listener: socket.socket) -> EnginePool:
    return EnginePools().of(EngineAddress(socket_path=Path(listener.getsockname())))


async def test_a_wait_that_is_cancelled_at_any_moment_ends_and_keeps_nothing(
    listener: socket.socket,
) -> None:
    pool = pool_of(listener)
    cancelled = 0
    for ticks in range(8):
        opening = asyncio.ensure_future(pool.connect())
        for _ in range(ticks):
            await asyncio.sleep(0)
        if not opening.cancel():
            opening.result().abort()
            continue
        cancelled += 1
        with pytest.raises(asyncio.CancelledError):
            await opening
    assert cancelled >= 3
    await until(lambda: pool.is_unused)
    listener.settimeout(0.2)
    while True:
        try:
            end, _ = listener.accept()
        except TimeoutError:
            break
        with end:
            end.settimeout(5)
            # Off the loop, which has to close the other end.
            assert await asyncio.to_thread(end.recv, 1) == b""


async def test_a_pool_is_not_forgotten_while_a_connection_is_opened(
    listener: socket.socket,
) -> None:
    pools = EnginePools()
    address = EngineAddress(socket_path=Path(listener.getsockname()))
    pool = pools.of(address)
    opening = asyncio.ensure_future(pool.connect())
    await asyncio.sleep(0)
    pools.sweep()
    assert pools.of(address) is pool
    assert not pool.is_closed
    connection = await opening
    connection.abort()
    await until(lambda: pool.is_unused)
    pools.sweep()
    assert pool.is_closed
    assert pools.of(address) is not pool


async def test_what_comes_back_to_a_closed_pool_is_not_kept(listener: socket.socket) -> None:
    pools = EnginePools()
    pool = pools.of(EngineAddress(socket_path=Path(listener.getsockname())))
    connection = await pool.connect()
    pools.close()
    pool.put(connection)
    assert connection.is_closed
    assert pool.take() is None
    await until(lambda: pool.is_unused)
