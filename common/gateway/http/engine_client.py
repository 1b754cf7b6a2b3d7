"""Whole answers of an engine to questions of the gateway's own."""

from __future__ import annotations

import asyncio

from common.errors import EngineCrashError, EngineError
from common.gateway.http.engine_connection import EngineConnection
from common.gateway.http.engine_pool import EnginePool

MAX_ANSWER_BYTES = 64 * 2**20


class _Collector:
    """Keeps an answer until it is complete."""

    def __init__(self, connection: EngineConnection) -> None:
        self._connection = connection
        self._parts: list[bytes] = []
        self._size = 0
        self.done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    def answer_came(self, payload: bytes, is_complete: bool) -> None:
        """Keep a piece."""
        head = self._connection.head
        assert head is not None
        self._parts.append(payload)
        self._size += len(payload)
        if self._size > MAX_ANSWER_BYTES:
            self._connection.abort()
            self.engine_lost(EngineCrashError("The engine's answer is too large."))
        elif is_complete:
            self._connection.release()
            if not self.done.done():
                self.done.set_result((head.status, b"".join(self._parts)))

    def engine_lost(self, error: EngineError) -> None:
        """Fail."""
        if not self.done.done():
            self.done.set_exception(error)


async def ask_engine(
    pool: EnginePool, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    """Send a request and return status and body of the answer.

    Args:
        pool: The engine's connections.
        method: HTTP method.
        path: Path and query.
        body: JSON; None: no body.

    Raises:
        EngineConnectError: Nothing listens there.
        EngineCrashError: The connection ended before the answer did.
    """
    request = f"{method} {path}".encode() + pool.first_lines
    if body is not None:
        request += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    request += b"\r\n" + (body or b"")
    connection = pool.take() or await pool.connect()
    try:
        return await _ask(connection, request)
    except EngineCrashError:
        if connection.uses == 1 or connection.has_answered:
            raise
        # The engine closed a free connection at this moment: said once more, on a new one.
        return await _ask(await pool.connect(), request)


async def _ask(connection: EngineConnection, request: bytes) -> tuple[int, bytes]:
    collector = _Collector(connection)
    connection.send(collector, request)
    try:
        return await collector.done
    except asyncio.CancelledError:
        connection.abort()
        raise
