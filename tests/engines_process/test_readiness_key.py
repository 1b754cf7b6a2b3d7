"""An engine that asks for its key, also where it is asked for its health."""

from __future__ import annotations

import asyncio

import pytest

from common.engines.contract import EngineAddress
from common.engines.readiness import Answer, HealthProbe


@pytest.mark.parametrize(
    ("key", "answer"), [("right", Answer.OK), ("wrong", Answer.NOT_YET), (None, Answer.NOT_YET)]
)
async def test_the_probe_shows_the_key_of_the_engine(key: str | None, answer: Answer) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status = b"200 OK" if b"Authorization: Bearer right\r\n" in head else b"401 Unauthorized"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = EngineAddress(port=server.sockets[0].getsockname()[1], key=key)
    async with server, HealthProbe(address, "/health") as probe:
        assert await probe.ask(5.0) is answer


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(EngineAddress(port=1, key="secret"))
    assert EngineAddress(port=1).headers == {}
