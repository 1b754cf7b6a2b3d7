"""One connection of the load: a raw protocol, requests one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from benchmarks.gateway.response import Response, ResponseError, ResponseParser


class ClientError(Exception):
    """A request got no complete answer."""


class Client(asyncio.Protocol):
    """A connection. `ask` is for one request at a time.

    Args:
        on_progress: Called with the response whenever a piece of it has come.
    """

    def __init__(self, on_progress: Callable[[Response], None] | None = None) -> None:
        self._on_progress = on_progress
        self._parser = ResponseParser()
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[Response] | None = None
        self.is_open = False

    def ask(self, request: bytes) -> asyncio.Future[Response]:
        """Send a request; the future ends with its complete response, or a `ClientError`."""
        self._answer = asyncio.get_running_loop().create_future()
        self._parser.begin()
        if self.is_open:
            self._transport.write(request)
        else:
            self._fail("the connection was closed before the request")
        return self._answer

    @property
    def response(self) -> Response:
        """The response to the last request, as far as it has come."""
        return self._parser.response

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # A cast: uvloop's transports are of no common class.
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Take a piece of the response."""
        try:
            is_complete = self._parser.feed(data)
        except ResponseError as error:
            self._fail(str(error))
            self._transport.abort()
            return
        if self._on_progress is not None:
            self._on_progress(self._parser.response)
        if is_complete:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the connection as the end of the response, where it may be."""
        self.is_open = False
        if self._answer is None or self._answer.done():
            return
        if self._parser.feed_end():
            self._finish()
        else:
            at = len(self.response.body)
            self._fail(f"the connection was closed after {at} bytes of the answer's body")

    def _finish(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._parser.response)

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ClientError(reason))


async def connect(port: int, on_progress: Callable[[Response], None] | None = None) -> Client:
    """Open a connection to a port of this machine.

    Raises:
        ClientError: Nobody listens there.
    """
    running = asyncio.get_running_loop()
    try:
        _, client = await running.create_connection(lambda: Client(on_progress), "127.0.0.1", port)
    except OSError as error:
        raise ClientError(f"no connection: {error}") from error
    return client
