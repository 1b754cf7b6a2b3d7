"""The stub engine with faults: each request says in ``X-Soak-Fault`` how it is to be answered.

Every answer that was made for a request carries its ``X-Request-Id`` as ``X-Soak-Echo``: who gets
another one's answer sees it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from aiohttp import web

from tests.fakes import stub_engine

FAULT_FIELD = "X-Soak-Fault"
ECHO_FIELD = "X-Soak-Echo"

GARBAGE = bytes(range(256)) * 4
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{echo}"

# Written in place of an answer; the connection is closed behind it.
RAW_FAULTS: dict[str, tuple[str, bytes]] = {
    "closed": ("", b""),
    "garbage": ("", GARBAGE),
    "half head": ("HTTP/1.1 200 OK\r\nContent-Ty", b""),
    "only head": (HEAD + "Content-Length: 1000\r\n\r\n", b""),
    "truncated": (HEAD + "Content-Length: 100000\r\n\r\n", b"x" * 50_000),
    "cut chunk": (HEAD + "Transfer-Encoding: chunked\r\n\r\n", b"4000\r\n" + b"x" * 1000),
    "no last chunk": (HEAD + "Transfer-Encoding: chunked\r\n\r\n", b"4\r\nabcd\r\n"),
    "garbage chunk": (HEAD + "Transfer-Encoding: chunked\r\n\r\n", b"4\r\nabcd\r\n" + GARBAGE),
    "two lengths": (HEAD + "Content-Length: 5\r\nContent-Length: 7\r\n\r\n", b"12345"),
    "huge head": ("HTTP/1.1 200 OK\r\n" + "X-Filler: " + "y" * 400_000 + "\r\n\r\n", b""),
}
# After these the client must not take what it got for a whole answer.
BREAKING = frozenset({*RAW_FAULTS, "dies"})
# These are answers as they should be, made as engines may make them.
HARMLESS = ("", "slow", "closes after", "error", "answers early")


class FaultyEngine(stub_engine.StubEngine):
    """A stub that does as it is told."""

    def app(self) -> web.Application:
        app = super().app()
        app.middlewares.append(self._faults)
        app.on_response_prepare.append(self._echo)
        return app

    async def _echo(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers[ECHO_FIELD] = request.headers.get("X-Request-Id", "")

    @web.middleware
    async def _faults(self, request: web.Request, handler: Any) -> web.StreamResponse:
        fault = request.headers.get(FAULT_FIELD, "")
        if fault in RAW_FAULTS:
            await request.read()
            return await self._write_raw(request, *RAW_FAULTS[fault])
        if fault == "dies":
            os._exit(1)
        if fault == "slow":
            await asyncio.sleep(0.7)
        if fault == "error":
            return web.json_response({"error": {"message": "as asked"}}, status=500)
        if fault == "answers early":  # before it has read what is uploaded
            return web.json_response({"error": {"message": "not wanted"}}, status=400)
        response: web.StreamResponse = await handler(request)
        if fault == "closes after" and request.transport is not None:
            if not response.prepared:
                await response.prepare(request)
            await response.write_eof()
            request.transport.close()  # and did not say so
        return response

    async def _write_raw(self, request: web.Request, head: str, rest: bytes) -> web.StreamResponse:
        transport = request.transport
        if transport is not None:
            echo = f"{ECHO_FIELD}: {request.headers.get('X-Request-Id', '')}\r\n"
            transport.write(head.replace("{echo}", echo).encode() + rest)
            transport.close()
        return web.Response()  # nobody gets it


def main() -> int:
    stub_engine.StubEngine = FaultyEngine  # type: ignore[misc]
    return stub_engine.main()


if __name__ == "__main__":
    sys.exit(main())
