"""One request on its way through the gateway: what the client has got so far, and how it ends."""

from __future__ import annotations

from aiohttp import web

from common.gateway.auth import Identity
from common.gateway.envelope import ErrorAnswer
from common.telemetry.recorder import RequestRecord

EVENT_STREAM = "text/event-stream"


class ClientGoneError(ConnectionError):
    """The client closed its connection."""


class Exchange:
    """A request and its response; belongs to one handler.

    Attributes:
        request: The client's request.
        record: Its telemetry.
        response: What the client gets; None until a status line is out.
        identity: Who asks; None until that is known.
        is_limited: Whether the limits of the key count it as running.
    """

    def __init__(self, request: web.BaseRequest, record: RequestRecord) -> None:
        self.request = request
        self.record = record
        self.response: web.StreamResponse | None = None
        self.identity: Identity | None = None
        self.is_limited = False
        self._last = b"\n\n"

    async def commit(self, response: web.StreamResponse) -> None:
        """Send the response's head: the status cannot change any more.

        Raises:
            ClientGoneError: The client left.
        """
        try:
            await response.prepare(self.request)
        except ConnectionError as error:
            raise ClientGoneError from error
        self.response = response

    async def write(self, data: bytes) -> None:
        """Send bytes of the body; waits while the client reads slower than the engine writes.

        Raises:
            ClientGoneError: The client left.
        """
        assert self.response is not None
        try:
            await self.response.write(data)
        except ConnectionError as error:
            raise ClientGoneError from error
        self._last = data

    async def finish(self) -> web.StreamResponse:
        """End the body as a whole one.

        Raises:
            ClientGoneError: The client left.
        """
        assert self.response is not None
        try:
            await self.response.write_eof()
        except ConnectionError as error:
            raise ClientGoneError from error
        return self.response

    async def fail(self, answer: ErrorAnswer, *, is_last: bool = False) -> web.StreamResponse:
        """End the exchange with an error, as well as it still can be told.

        Before the head is out: the answer with its status. In a stream of events: one ``error``
        event, if the stream stands between two events. Otherwise the connection breaks, which is
        the only way to say that a body is not whole.
        """
        if self.response is None:
            return answer.response(is_last=is_last)
        is_stream = self.response.content_type == EVENT_STREAM
        if is_stream and self._last.endswith((b"\n\n", b"\r\n\r\n")):
            try:
                await self.write(answer.sse_event())
                return await self.finish()
            except ClientGoneError:
                pass  # nobody is left to be told
        self.abort()
        return self.response

    def abort(self) -> None:
        """Cut the connection."""
        if self.request.transport is not None:
            self.request.transport.abort()
