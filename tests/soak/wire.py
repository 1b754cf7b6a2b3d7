"""A client's connection that knows exactly what it sent and what came back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass


class BrokenOffError(Exception):
    """The connection ended in an answer, or before it."""


@dataclass
class Head:
    """The head of an answer."""

    status: int
    fields: dict[str, str]

    @property
    def keeps_alive(self) -> bool:
        return self.fields.get("connection", "").lower() != "close"


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.uses = 0

    @classmethod
    async def open(cls, port: int, receive_bytes: int = 0) -> Wire:
        """Connect; with `receive_bytes` the kernel takes no more than about so much."""
        end = socket.socket()
        end.setblocking(False)
        if receive_bytes:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", port))
        limit = receive_bytes or 2**16
        return cls(*await asyncio.open_connection(sock=end, limit=limit))

    async def send(self, data: bytes) -> None:
        if self._writer.is_closing():
            return  # whoever reads the answer hung up
        self._writer.write(data)
        with contextlib.suppress(ConnectionError):  # an answer may have come before
            await self._writer.drain()

    async def head(self) -> Head:
        """The head of the next answer; interim ones are skipped."""
        while True:
            try:
                text = await self._reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise BrokenOffError from error
            except asyncio.LimitOverrunError as error:
                start = await self._reader.read(100)
                raise BrokenOffError(f"what came is no head: {start!r}") from error
            lines = text.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            if status >= 200:
                pairs = (line.partition(":") for line in lines[1:] if line)
                return Head(status, {name.lower(): value.strip() for name, _, value in pairs})

    async def body(self, head: Head) -> AsyncIterator[bytes]:
        """The pieces of the answer's body."""
        try:
            if head.fields.get("transfer-encoding") == "chunked":
                while size := int(await self._reader.readuntil(b"\r\n"), 16):
                    yield (await self._reader.readexactly(size + 2))[:-2]
                await self._reader.readexactly(2)
                return
            left = int(head.fields["content-length"])
            while left:
                piece = await self._reader.read(min(left, 65536))
                if not piece:
                    raise BrokenOffError
                left -= len(piece)
                yield piece
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise BrokenOffError from error

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
