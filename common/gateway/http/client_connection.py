"""One client's connection: requests in, one after the other; their answers out, in that order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from common.errors import RequestError
from common.gateway.http.incoming_body import IncomingBody
from common.gateway.http.request import RequestHead, bad_request
from common.gateway.http.request_reader import RequestReader
from common.gateway.http.serving import ConnectionServer, Handler

MAX_PIPELINED = 64
"""Requests that may wait for the answer to an earlier one on the same connection."""

HELD_PIPELINED = 4
"""With so many, nothing more is read from the client until one is answered."""

MAX_AT_ONCE_BYTES = 128 * 1024
"""A larger block goes through the parser, whatever its head is."""

MAX_SKIPPED_BYTES = 1024 * 1024
"""So much of the body of a refused request is read to keep the connection."""


class ClientConnection(RequestReader, asyncio.Protocol):
    """A connection from a client.

    Attributes:
        is_gone: Whether the client left, or was cut off.
        is_blocked: Whether the client reads slower than it is written to.
        peer: The client's address, for X-Forwarded-For.
        origin_lines: The fields that say so, up to the value of the last one, X-Forwarded-Host.
    """

    __slots__ = (
        "_advancing",
        "_busy_since",
        "_current",
        "_held",
        "_queue",
        "_server",
        "_to_start",
        "_was_used",
        "is_blocked",
        "is_gone",
        "origin_lines",
        "peer",
        "scheme",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, server: ConnectionServer) -> None:
        RequestReader.__init__(self, server)
        self._server = server
        self._current: Handler | None = None  # being answered
        self._queue: deque[Handler] = deque()
        self._to_start = False
        self._advancing = False
        self._held = False
        self._was_used = False
        self._busy_since = server.now
        self.is_gone = False
        self.is_blocked = False
        self.peer = self.origin_lines = b""
        self.scheme = b"https" if server.is_tls else b"http"

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(peer[0]).encode("latin-1", "replace")
        self.origin_lines = (
            b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: "
            % (self.peer, self.scheme)
        )
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        """Read requests, or pieces of one."""
        if self._is_deaf:
            return
        known = self._known
        if (
            known is not None
            and self._is_between
            and self._current is None
            and not (self._queue or self._is_closing)
        ):
            start = known.body_start(data)
            if start >= 0 and len(data) <= MAX_AT_ONCE_BYTES:
                size = len(data) - start
                if size <= self._server.max_body_bytes:
                    self._came_again(known.head, size, data[start:])
                    return
        if not (self._in_head or self._is_closing):
            self._busy_since = self._server.now
        self.read(data)
        if self._to_start:
            self._to_start = False
            if self._current is not None:
                self._current.start()
        if self._queue:
            self._advance()

    def eof_received(self) -> None:
        """The client has closed: whoever closes one direction only is taken for gone."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End: nobody is left to be answered."""
        self.is_gone = True
        self._is_deaf = True
        self._parser = None  # it refers to this object
        waiting = list(self._queue)
        self._queue.clear()
        current, self._current = self._current, None
        self._body = None
        if current is not None:
            current.client_left()
        for handler in waiting:
            handler.client_left()
        self._server.closed(self)

    def pause_writing(self) -> None:
        """The client reads slower than the answer comes."""
        self.is_blocked = True
        self._busy_since = self._server.now
        if self._current is not None:
            self._current.client_blocked(True)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.is_blocked = False
        if self._current is not None:
            self._current.client_blocked(False)

    # What the handler of the current request calls.

    def write(self, data: bytes) -> None:
        """Send bytes of the answer."""
        if not self.is_gone:
            self.transport.write(data)

    def may_keep_alive(self, head: RequestHead, body: IncomingBody) -> bool:
        """Whether the connection may carry another request after the answer to this one."""
        if not head.keeps_alive or self._is_closing:
            return False
        if body.is_complete:
            return True
        length = head.content_length or 0
        return not (head.expects_continue or head.is_chunked or length > MAX_SKIPPED_BYTES)

    def answered(self, *, keeps_alive: bool) -> None:
        """The answer is complete: go on with the next request, or close."""
        current, self._current = self._current, None
        self._busy_since = self._server.now
        if self.is_gone:
            return
        if current is not None and not current.body.is_complete:
            current.body.discard()
            if not keeps_alive and self._parser is not None and not self._is_deaf:
                self._is_closing = True  # at once would take the answer from a client that sends
                return
        if self._held:  # by a body that is complete, and that nobody took
            self.go_on_reading()
        if not keeps_alive:
            self._close()
        elif self._queue:
            self._advance()
        elif self._is_deaf:
            self._close()

    def cut(self) -> None:
        """End the connection in the middle of an answer: the only way to say it is not whole."""
        self._current = None
        self._is_deaf = True
        if not self.is_gone:
            self.transport.abort()

    def abort(self) -> None:
        """End the connection, whatever is going on on it."""
        if not self.is_gone:
            self.transport.abort()

    # What a body calls.

    def hold_reading(self) -> None:
        """Read nothing more from this client for now."""
        if not self._held and not self.is_gone:
            self._held = True
            self.transport.pause_reading()
            self._server.held(self, True)

    def go_on_reading(self) -> None:
        """Read from this client again."""
        if self._held and not self.is_gone and len(self._queue) < HELD_PIPELINED:
            self._held = False
            self._busy_since = self._server.now
            self._server.held(self, False)
            self.transport.resume_reading()

    def send_continue(self) -> None:
        """Grant ``Expect: 100-continue``: only when the body is wanted."""
        if self._awaits_continue and not self.is_gone:
            self._awaits_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # What the server calls.

    def check(self, now: float) -> None:
        """End what takes too long; called about once a second."""
        timeouts = self._server.timeouts
        waited = now - self._busy_since
        if self.is_blocked:
            if waited > timeouts.send:
                self.transport.abort()
        elif self._held:
            return
        elif self._is_closing:
            if waited > timeouts.linger:
                self._close()
        elif self._in_head:
            if waited > timeouts.head and not self._is_deaf:
                self.reject(_too_slow("head", timeouts.head))
                self._advance()
        elif self._body is not None:
            if waited > timeouts.body:
                self._body_too_slow(timeouts.body)
        elif self._current is None:
            if waited > (timeouts.idle if self._was_used else timeouts.head):
                self._close()

    # Inside.

    def _came(self, head: RequestHead, body: IncomingBody) -> None:
        handler = self._server.handler(self, head, body)
        self._was_used = True
        self._busy_since = self._server.now
        if self._current is None and not self._queue:
            self._current = handler
            self._to_start = True
        else:
            self._add(handler)

    def _came_again(self, head: RequestHead, size: int, payload: bytes) -> None:
        """Take a whole request whose head is known, as the parser would have told it.

        The earlier request with this head is over: nobody else reads it any more.
        """
        server = self._server
        if size != head.content_length:
            head.announce(size)
        self._head = head
        self._awaits_continue = False
        self._unknown = 0
        body = IncomingBody(self, server.max_body_bytes, server.too_large)
        body.put(payload)
        self._was_used = True
        self._busy_since = server.now
        self._current = handler = server.handler(self, head, body)
        handler.start()

    def _ended_early(self) -> None:
        if self._current is None and not self._queue:  # it is answered already
            self._close()

    def _ended(self) -> None:
        self._close()

    def _last_body(self) -> IncomingBody | None:
        last = self._queue[-1] if self._queue else self._current
        return last.body if last is not None else None

    def _add(self, handler: Handler) -> None:
        """Keep a request until the earlier ones are answered."""
        self._queue.append(handler)
        if len(self._queue) >= HELD_PIPELINED:
            self.hold_reading()
        if len(self._queue) > MAX_PIPELINED:
            self.reject(bad_request("too many requests were sent before the first answer"))

    def _refused(self, error: RequestError) -> None:
        body = IncomingBody(self, 0, self._server.too_large)
        body.end()
        handler = self._server.refusal(self, body, error)
        if self._current is None and not self._queue:
            self._current = handler
            self._to_start = True
        else:
            self._queue.append(handler)

    def _body_too_slow(self, limit_s: float) -> None:
        if self._current is None:  # answered already
            self._close()
        else:
            self.reject(_too_slow("body", limit_s))

    def _advance(self) -> None:
        if self._advancing:
            return
        self._advancing = True
        try:
            while not self.is_gone:
                if self._to_start and self._current is not None:
                    self._to_start = False
                elif self._current is None and self._queue and not self._is_closing:
                    self._current = self._queue.popleft()
                else:
                    break
                self._current.start()
        finally:
            self._advancing = False
        self.go_on_reading()

    def _close(self) -> None:
        self._is_deaf = True
        if self.is_gone:
            return
        if self._lingers and self.transport.can_write_eof():
            # With bytes unread a close is a reset, which takes the answer from a client that sends.
            self._lingers = False
            self._is_closing = True
            self._busy_since = self._server.now
            try:
                self.transport.write_eof()
            except OSError:  # asyncio's own loop says so where the client has reset it just now
                self.transport.abort()
                return
            self.go_on_reading()
        else:
            self.transport.close()


def _too_slow(what: str, limit_s: float) -> RequestError:
    return RequestError(
        f"The request's {what} did not come within {limit_s:g} s.",
        status=408,
        code="request_timeout",
    )
