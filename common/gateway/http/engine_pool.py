"""Connections to engines, kept for the next request."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from common.engines.contract import EngineAddress
from common.errors import EngineCrashError
from common.gateway.http.engine_connection import EngineConnection
from common.gateway.http.headers import RESPONSE_KINDS, FieldKinds

CONNECT_TIMEOUT_S = 5.0
"""Loopback or a Unix socket: a longer wait means a full backlog of a hung engine."""

MAX_FREE = 256
"""Free connections to one engine; more are closed when their answer is complete."""

FREE_FOR_S = 60.0
"""Engines close idle connections after 5 s or more; those that do not must not pile up."""

CLOSED_AT_ONCE_S = 1.0
"""An engine that closes a free connection so soon after a stream does so after every stream."""


class EngineConnectError(EngineCrashError):
    """Nothing listens where the engine should be; no byte was sent."""


class EnginePool:
    """The connections to one engine's address. One event loop.

    llama.cpp closes its socket after each streamed answer although it promised to keep it: once an
    engine was seen to do that, connections are not used again after a stream.

    Args:
        address: Where the engine listens.
        kinds: Of `headers.RESPONSE_KINDS`, shared by all pools.
    """

    def __init__(self, address: EngineAddress, kinds: FieldKinds) -> None:
        self.address = address
        self.kinds = kinds
        self.closes_after_streams = False
        host = "engine" if address.socket_path else f"{address.host}:{address.port}"
        fields = "".join(f"{name}: {value}\r\n" for name, value in address.headers.items())
        self.first_lines = f" HTTP/1.1\r\nHost: {host}\r\n{fields}".encode("latin-1")
        """What follows the target in every request to this engine."""
        self._free: list[EngineConnection] = []
        self._all: set[EngineConnection] = set()
        self._opening = 0
        self.is_closed = False

    @property
    def is_unused(self) -> bool:
        """Whether it has no connection, and none is being opened."""
        return not self._all and not self._opening

    def take(self) -> EngineConnection | None:
        """Return the free connection that was used last; None: there is none."""
        free = self._free
        while free:
            connection = free.pop()
            if not connection.is_closed:
                return connection
        return None

    async def connect(self) -> EngineConnection:
        """Open a connection.

        Raises:
            EngineConnectError: Nothing listens there, or nothing accepts in time.
        """
        connection = EngineConnection(self)
        self._opening += 1
        try:
            await self._open(connection)
        finally:
            self._opening -= 1
        self._all.add(connection)
        return connection

    async def _open(self, connection: EngineConnection) -> None:
        loop = asyncio.get_running_loop()
        path = self.address.socket_path

        def make() -> EngineConnection:
            return connection

        if path is not None:
            opening = loop.create_task(loop.create_unix_connection(make, str(path)))
        else:
            address = self.address
            opening = loop.create_task(
                loop.create_connection(make, address.host, address.port or 0)
            )
        opening.add_done_callback(_retrieve)
        try:
            # Before Python 3.12 `wait_for` swallows a cancellation that comes with the connection.
            await asyncio.wait({opening}, timeout=CONNECT_TIMEOUT_S)
        except asyncio.CancelledError:
            opening.cancel()
            connection.give_up()
            raise
        if not opening.done():
            opening.cancel()
            connection.give_up()
            raise EngineConnectError(
                f"The engine did not accept a connection within {CONNECT_TIMEOUT_S:g} s."
            )
        try:
            opening.result()
        except OSError as error:
            raise EngineConnectError(
                "The engine is not running: nothing listens at its address."
            ) from error
        if connection.is_closed:
            raise EngineConnectError("The engine closed a new connection at once.")

    def put(self, connection: EngineConnection) -> None:
        """Keep a connection for the next request, if it can carry one."""
        free = self._free
        is_of_no_use = self.closes_after_streams and connection.ended_with_stream
        if self.is_closed or is_of_no_use or len(free) >= MAX_FREE:
            connection.close()
            return
        connection.free_since = time.monotonic()
        free.append(connection)

    def lost(self, connection: EngineConnection) -> None:
        """Forget a connection that ended, and learn from how it did."""
        self._all.discard(connection)
        if connection.ended_with_stream and not connection.has_answered:
            age = time.monotonic() - connection.free_since
            if age < CLOSED_AT_ONCE_S:
                self.closes_after_streams = True
        if connection in self._free:
            self._free.remove(connection)

    def sweep(self) -> None:
        """Close connections that were free for long; those used least are first in the list."""
        now = time.monotonic()
        while self._free and now - self._free[0].free_since > FREE_FOR_S:
            self._free.pop(0).close()

    def close(self) -> None:
        """Cut all connections, and keep none that comes back."""
        self.is_closed = True
        self._free.clear()
        for connection in list(self._all):
            connection.abort()


def _retrieve(opening: asyncio.Task[Any]) -> None:
    """Whoever gave up the wait does not look at the error."""
    if not opening.cancelled():
        opening.exception()


class EnginePools:
    """The pools of all engines of an instance, by address: a restart may change it."""

    def __init__(self) -> None:
        self._kinds = FieldKinds(RESPONSE_KINDS)
        self._pools: dict[EngineAddress, EnginePool] = {}

    def of(self, address: EngineAddress) -> EnginePool:
        """Return the pool of an address."""
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = EnginePool(address, self._kinds)
        return pool

    def sweep(self) -> None:
        """Close what is idle for long, and forget addresses that are used no more."""
        for address, pool in list(self._pools.items()):
            pool.sweep()
            if pool.is_unused:
                pool.is_closed = True  # whoever keeps it asks for another
                del self._pools[address]

    def close(self) -> None:
        """Cut all connections."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
