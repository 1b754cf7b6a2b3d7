"""Client libraries, synchronous ones in threads, behind one way to call them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import psutil
from gateway_harness import KEY, Running

NAME = "org/repo/M.gguf"
PATH = f"/{NAME}"
MESSAGES: Any = [{"role": "user", "content": "one two three"}]
CHAT = {"model": NAME, "messages": MESSAGES}
WORDS = "tok0 tok1 tok2 tok3 tok4"

Request = Callable[[Any], Any]


class InThread:
    """A library's synchronous client; each call runs in a thread of its own."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def call(self, request: Request) -> Any:
        return await asyncio.to_thread(request, self.client)

    async def items(self, request: Request) -> list[Any]:
        """All items of a streamed answer."""
        return await asyncio.to_thread(lambda: list(request(self.client)))

    async def first_item(self, request: Request) -> Any:
        """The first item of a streamed answer, which is then closed."""

        def ask() -> Any:
            stream = request(self.client)
            item = next(iter(stream))
            stream.close()
            return item

        return await asyncio.to_thread(ask)

    async def close(self) -> None:
        await asyncio.to_thread(self.client.close)


class InLoop:
    """A library's asynchronous client."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def call(self, request: Request) -> Any:
        return await request(self.client)

    async def items(self, request: Request) -> list[Any]:
        """All items of a streamed answer."""
        return [item async for item in await request(self.client)]

    async def first_item(self, request: Request) -> Any:
        """The first item of a streamed answer, which is then closed."""
        stream = await request(self.client)
        item = await anext(aiter(stream))
        await stream.close()
        return item

    async def close(self) -> None:
        await self.client.close()


Client = InThread | InLoop


def _made(library: str, kind: str, base: str, options: dict[str, Any]) -> Client:
    if library == "openai":
        options["base_url"] = f"{base}/v1"
        if kind == "sync":
            return InThread(openai.OpenAI(**options))
        return InLoop(openai.AsyncOpenAI(**options))
    options["base_url"] = base
    if kind == "sync":
        return InThread(anthropic.Anthropic(**options))
    return InLoop(anthropic.AsyncAnthropic(**options))


@asynccontextmanager
async def client_of(library: str, kind: str, run: Running, **options: Any) -> AsyncIterator[Client]:
    """A client of a running gateway, with its key and without retries unless told otherwise."""
    client = _made(library, kind, run.base, {"api_key": KEY, "max_retries": 0} | options)
    try:
        yield client
    finally:
        await client.close()


def client_ports(port: int) -> set[int]:
    """The ports of the clients that are connected to a port of this process."""
    return {
        connection.raddr.port
        for connection in psutil.Process().net_connections("tcp4")
        if connection.laddr.port == port and connection.status == psutil.CONN_ESTABLISHED
    }
