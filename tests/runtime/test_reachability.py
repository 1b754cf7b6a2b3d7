"""Whether an instance answers at its own address, and what is said when it does not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common.runtime.reachability import check_address, is_container_address, why_unreachable


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """A server that gives every request this answer, or none; its URL."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_instance_that_answers_is_reachable() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as url:
        assert await why_unreachable(url) == ""
        said: list[str] = []
        await check_address(url, said.append, in_container=lambda _: False)
        assert said == []


async def test_something_else_that_answers_is_told() -> None:
    for answer in (b"HTTP/1.1 503 Busy\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b""):
        async with answering(answer) as url:
            assert await why_unreachable(url) == "something else answers there"


async def test_silence_is_told() -> None:
    async with answering(None) as url:
        assert await why_unreachable(url, timeout_s=0.1) == "no answer within 0.1 s"


async def test_refused_connection_is_a_warning_that_says_what_to_do() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else can take the port
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        said: list[str] = []
        await check_address(url, said.append)
    (line,) = said
    assert line.startswith(f"WARNING: the instance does not answer at its own address {url} (")
    assert "Connect call failed" in line or "refused" in line
    assert "firewall" in line
    assert "General/public_url" in line


async def test_address_of_a_container_alone_is_a_warning() -> None:
    async def fine(_: str) -> str:
        return ""

    said: list[str] = []
    await check_address(
        "http://172.17.0.2:8800", said.append, ask=fine, in_container=lambda _: True
    )
    (line,) = said
    assert "http://172.17.0.2:8800 is an address of this container's own network" in line
    assert "General/public_url" in line


@pytest.mark.parametrize("host", ["192.168.1.5", "gpu7.example.com", "8.8.8.8", "fd00::1", ""])
def test_other_addresses_are_no_container_s(host: str) -> None:
    assert not is_container_address(host)
