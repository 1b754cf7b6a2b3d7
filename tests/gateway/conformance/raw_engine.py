"""An engine that shows every byte it gets and plays every byte it is told to: a real process.

    python tests/gateway/conformance/raw_engine.py

It prints its port, and reads requests with a parser of its own, which takes nothing but plain
HTTP/1.1. It answers with a description of what it saw, unless the target has a ``script``: base64
of JSON, a list of steps.

``["send", text]``, ``["repeat", text, times]``  send these bytes (latin-1)
``["fill", text, size]``                         send these bytes and so many more, in one piece
``["sleep", seconds]``, ``["go", name]``         wait, or wait until the test says so
``["close"]``, ``["reset"]``, ``["shut"]``       end the connection: in order, by RST, one direction
``["unread"]``                                   first step: leave the request's body on the wire
``["forever"]``                                  wait until the peer leaves

Without a script: ``GET /control/log`` what happened since the last time, ``POST /control/go/<name>``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import sys
import time
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Broken(Exception):
    """The peer sent what no proxy may send."""


class Request:
    """One request as it came."""

    def __init__(self, head: bytes) -> None:
        line, *rest = head[:-4].decode("latin-1").split("\r\n")
        parts = line.split(" ")
        if len(parts) != 3 or parts[2] != "HTTP/1.1" or not all(parts):
            raise Broken(f"the request line {line!r}")
        self.method, self.target, _ = parts
        self.fields: list[tuple[str, str]] = []
        for field in rest:
            name, colon, value = field.partition(": ")
            text = name + value
            if not colon or not name or " " in name or any(ord(c) < 32 and c != "\t" for c in text):
                raise Broken(f"the field {field!r}")
            self.fields.append((name, value))
        self.body = b""
        self.chunks: list[int] | None = None

    def only(self, name: str) -> str | None:
        values = [v for n, v in self.fields if n.lower() == name]
        if len(values) > 1:
            raise Broken(f"{name} came {len(values)} times")
        return values[0] if values else None

    @property
    def script(self) -> list[list[Any]] | None:
        given = parse_qs(urlsplit(self.target).query).get("script")
        return json.loads(base64.urlsafe_b64decode(given[0])) if given else None

    def description(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "target": self.target,
            "fields": self.fields,
            "body": self.body.decode("latin-1"),
            "chunks": self.chunks,
        }


async def read_body(reader: asyncio.StreamReader, request: Request) -> None:
    length, coding = request.only("content-length"), request.only("transfer-encoding")
    if length is not None and coding is not None:
        raise Broken("Content-Length and Transfer-Encoding")
    if length is not None:
        if not length.isdigit():
            raise Broken(f"Content-Length {length!r}")
        request.body = await reader.readexactly(int(length))
    elif coding is not None:
        if coding != "chunked":
            raise Broken(f"Transfer-Encoding {coding!r}")
        request.chunks = []
        parts = []
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line[:-2], 16)
            if b"%x\r\n" % size != line:
                raise Broken(f"the chunk size {line!r}")
            parts.append(await reader.readexactly(size))
            if await reader.readexactly(2) != b"\r\n":
                raise Broken("a chunk that does not end where it should")
            if size == 0:
                break
            request.chunks.append(size)
        request.body = b"".join(parts)


class RawEngine:
    """The handlers of one process."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.numbers = count(1)

    def say(self, number: int, what: str, **more: Any) -> None:
        self.events.append({"connection": number, "what": what, "at": time.monotonic(), **more})

    def gate(self, name: str) -> asyncio.Event:
        return self.gates.setdefault(name, asyncio.Event())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self.numbers)
        try:
            while await self.serve_one(number, reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            partial = getattr(error, "partial", b"")
            self.say(number, "left", partial=len(partial))
        except (Broken, ValueError, asyncio.LimitOverrunError) as error:
            self.say(number, "broken", why=str(error))
        finally:
            writer.close()

    async def serve_one(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        request = Request(await reader.readuntil(b"\r\n\r\n"))
        if request.target.startswith("/control/"):
            writer.write(answer(self.control(request)))
            return True
        script = request.script
        self.say(number, "head", **request.description())
        if script is None or script[:1] != [["unread"]]:
            await read_body(reader, request)
            self.say(number, "request", **request.description())
        if script is None:
            seen = request.description() | {"connection": number}
            writer.write(answer(seen, has_body=request.method != "HEAD"))
            await writer.drain()
            return True
        return await self.play(number, script, reader, writer)

    async def play(
        self,
        number: int,
        script: list[list[Any]],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        if script[0] == ["unread"]:
            return await self.steps(script[1:], writer)
        playing = asyncio.ensure_future(self.steps(script, writer))
        watching = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({playing, watching}, return_when=asyncio.FIRST_COMPLETED)
        if playing.done():
            watching.cancel()
            await asyncio.wait({watching})
            if watching.cancelled() or not playing.result():
                return playing.result()
        if watching.result():
            raise Broken("bytes before the answer was complete")
        playing.cancel()
        self.say(number, "left", partial=0)
        return False

    async def steps(self, script: list[list[Any]], writer: asyncio.StreamWriter) -> bool:
        for step, *args in script:
            if step == "send":
                writer.write(args[0].encode("latin-1"))
                await writer.drain()
            elif step == "repeat":
                for _ in range(args[1]):
                    writer.write(args[0].encode("latin-1"))
                    await writer.drain()
            elif step == "fill":
                writer.write(args[0].encode("latin-1") + b"x" * args[1])
                await writer.drain()
            elif step == "sleep":
                await asyncio.sleep(args[0])
            elif step == "go":
                await self.gate(args[0]).wait()
            elif step == "forever":
                await asyncio.Event().wait()
            elif step == "shut":
                writer.write_eof()
            elif step == "close":
                writer.close()
                return False
            elif step == "reset":
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return False
        return True

    def control(self, request: Request) -> Any:
        if request.target == "/control/log":
            events, self.events = self.events, []
            return events
        self.gate(request.target.removeprefix("/control/go/")).set()
        return None


def answer(content: Any, has_body: bool = True) -> bytes:
    body = json.dumps(content).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + (body if has_body else b"")


async def main() -> None:
    server = await asyncio.start_server(RawEngine().serve, "127.0.0.1", 0, limit=2**20)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
