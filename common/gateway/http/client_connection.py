"""One client's connection: requests in, one after the other; their answers out, in that order."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol, cast

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from common.errors import RequestError
from common.gateway.http.headers import FieldKinds
from common.gateway.http.incoming_body import IncomingBody
from common.gateway.http.request import FieldList, RequestHead, bad_request, read_head

MAX_HEAD_BYTES = 64 * 1024
MAX_FIELDS = 128
MAX_TARGET_BYTES = 8 * 1024
MAX_PIPELINED = 64
"""Requests that may wait for the answer to an earlier one on the same connection."""

HELD_PIPELINED = 4
"""With so many, nothing more is read from the client until one is answered."""

MAX_SKIPPED_BYTES = 1024 * 1024
"""So much of the body of a refused request is read to keep the connection."""


@dataclass(frozen=True)
class Timeouts:
    """What a client may take its time for, in seconds.

    Attributes:
        head: From the first byte of a request to the end of its head.
        body: Between two pieces of a body.
        idle: Between two requests. Longer than of usual clients and proxies, so that they close first.
        send: Without reading anything of an answer.
        linger: To finish sending a body that was refused.
    """

    head: float = 30.0
    body: float = 60.0
    idle: float = 75.0
    send: float = 300.0
    linger: float = 30.0


class Handler(Protocol):
    """Answers one request of a connection."""

    @property
    def body(self) -> IncomingBody:
        """The request's body."""

    def start(self) -> None:
        """Begin: all earlier requests of the connection are answered."""

    def client_left(self) -> None:
        """Nobody is left to be answered."""

    def client_blocked(self, is_blocked: bool) -> None:
        """The client reads slower than the answer comes, or has caught up."""


class ConnectionServer(Protocol):
    """What serves the connections."""

    kinds: FieldKinds
    timeouts: Timeouts
    now: float
    max_body_bytes: int
    is_tls: bool

    def opened(self, connection: ClientConnection) -> None:
        """A client connected."""

    def held(self, connection: ClientConnection, is_held: bool) -> None:
        """Nothing is read from a client for now, or it is again."""

    def closed(self, connection: ClientConnection) -> None:
        """A client is gone."""

    def handler(
        self, connection: ClientConnection, head: RequestHead, body: IncomingBody
    ) -> Handler:
        """Return what answers a request."""

    def refusal(
        self, connection: ClientConnection, body: IncomingBody, error: Exception
    ) -> Handler:
        """Return what answers bytes that are no request; the connection ends with it."""

    def too_large(self) -> Exception:
        """Return the error of a body above the limit."""


class ClientConnection(asyncio.Protocol):
    """A connection from a client.

    Attributes:
        is_gone: Whether the client left, or was cut off.
        is_blocked: Whether the client reads slower than it is written to.
        peer: The client's address, for X-Forwarded-For.
    """

    __slots__ = (
        "_advancing",
        "_awaits_continue",
        "_block_bytes",
        "_body",
        "_body_head",
        "_busy_since",
        "_current",
        "_fields",
        "_held",
        "_in_head",
        "_is_closing",
        "_is_deaf",
        "_lingers",
        "_parser",
        "_queue",
        "_server",
        "_skips_head",
        "_stalled_bytes",
        "_stalled_size",
        "_target",
        "_to_start",
        "_was_used",
        "is_blocked",
        "is_gone",
        "peer",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, server: ConnectionServer) -> None:
        self._server = server
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        self._target = b""
        self._fields: FieldList = []
        self._in_head = False
        self._block_bytes = 0
        self._body: IncomingBody | None = None  # of the request that is being received
        self._body_head: RequestHead | None = None
        self._current: Handler | None = None  # being answered
        self._queue: deque[Handler] = deque()
        self._to_start = False
        self._advancing = False
        self._awaits_continue = False
        self._skips_head = False
        self._held = False
        self._is_deaf = False
        self._is_closing = False
        self._lingers = False
        self._stalled_bytes = self._stalled_size = 0
        self._was_used = False
        self._busy_since = server.now
        self.is_gone = False
        self.is_blocked = False
        self.peer = b""

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(peer[0]).encode("latin-1", "replace")
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        """Read requests, or pieces of one."""
        if self._is_deaf:
            return
        fields, body = self._fields, self._body
        if self._in_head:  # its time runs from its first byte
            self._block_bytes += len(data)
        else:
            self._block_bytes = len(data)
            self._busy_since = self._server.now
        try:
            self._parser.feed_data(data)  # type: ignore[union-attr]
        except (HttpParserError, HttpParserUpgrade) as error:
            self._parse_failed(error, data)
        if self._in_head:
            if self._fields is not fields:  # the block began with what came before this head
                self._block_bytes = self._head_size()
            if self._block_bytes > MAX_HEAD_BYTES and not self._is_deaf:
                self._reject(_head_too_large())
        elif body is not None and self._body is body:  # all of the block belongs to it
            self._check_progress(body, len(data))
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

    # What the parser calls.

    def on_url(self, data: bytes) -> None:
        """Keep the target, which may come in pieces; with it a request begins."""
        if self._in_head:
            self._target += data
        else:
            self._in_head = True
            self._target = data
            self._fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field; those after the body (trailers) go no further."""
        if self._in_head:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Read the head; its answer begins when the block that it came in has been read."""
        self._in_head = False
        if self._skips_head:  # of an upgrade that is not made: the body follows
            self._skips_head = False
            return
        if self._is_deaf:
            return
        parser = self._parser
        assert parser is not None
        fields = self._fields
        try:
            if (
                len(self._target) > MAX_TARGET_BYTES
                or len(fields) > MAX_FIELDS
                or self._block_bytes > MAX_HEAD_BYTES
            ):
                self._check_limits()
            version = parser.get_http_version()
            if version not in _VERSIONS:
                raise bad_request(f"HTTP/{version} is not spoken here", 505, "http_version")
            head = read_head(
                self._server.kinds,
                parser.get_method(),
                self._target,
                fields,
                is_http10=version == "1.0",
                keeps_alive=parser.should_keep_alive(),
            )
        except RequestError as error:
            self._reject(error)
            return
        server = self._server
        body = self._body = IncomingBody(self, server.max_body_bytes, server.too_large)
        self._body_head = head
        self._awaits_continue = head.expects_continue
        self._was_used = True
        self._busy_since = server.now
        self._stalled_bytes = self._stalled_size = 0
        self._add(server.handler(self, head, body))

    def on_body(self, data: bytes) -> None:
        """Pass on a piece of the body."""
        self._awaits_continue = False
        if self._body is not None:
            self._body.feed(data)

    def on_message_complete(self) -> None:
        """The request is complete."""
        body, head = self._body, self._body_head
        if body is None or head is None or self._is_deaf:
            return
        body.end()
        self._body = None
        if not head.keeps_alive:
            self._is_deaf = True  # nothing that follows is a request
        if self._is_closing:
            self._close()

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

    def close_if_idle(self) -> None:
        """Close a connection that waits for a further request."""
        if self._current is None and not self._queue and not self._in_head:
            self._close()

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
                self._reject(_too_slow("head", timeouts.head))
                self._advance()
        elif self._body is not None:
            if waited > timeouts.body:
                self._body_too_slow(timeouts.body)
        elif self._current is None:
            if waited > (timeouts.idle if self._was_used else timeouts.head):
                self._close()

    # Inside.

    def _feed(self, data: bytes) -> None:
        parser = self._parser
        assert parser is not None
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._parse_failed(error, data)

    def _parse_failed(self, error: Exception, data: bytes) -> None:
        if isinstance(error, HttpParserUpgrade):
            self._stay_with_http(data[error.args[0] :])
        elif not self._is_deaf:
            if isinstance(error, HttpParserCallbackError):
                raise error.__context__ or error  # a mistake of ours
            self._reject(bad_request(str(error)))

    def _stay_with_http(self, rest: bytes) -> None:
        """Ignore the wish for another protocol: read the body that the parser left out."""
        body, head = self._body, self._body_head
        # `on_message_complete` was called for it already.
        if head is None or self._is_deaf and head.keeps_alive:
            return
        if head.method == b"CONNECT":
            self._is_deaf = True
            return
        last = self._queue[-1] if self._queue else self._current
        self._parser = HttpRequestParser(self)
        if last is not None and head.has_body and body is None:
            length = head.content_length
            framing = (
                b"Transfer-Encoding: chunked"
                if length is None
                else (b"Content-Length: %d" % length)
            )
            self._body = last.body
            self._body.is_complete = False
            self._is_deaf = False
            self._skips_head = True
            self._feed(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
        if rest and not self._is_deaf:
            self._feed(rest)

    def _check_limits(self) -> None:
        if len(self._target) > MAX_TARGET_BYTES:
            raise bad_request(
                f"its target has more than {MAX_TARGET_BYTES} bytes", 414, "target_too_long"
            )
        if len(self._fields) > MAX_FIELDS:
            raise bad_request(
                f"it has more than {MAX_FIELDS} header fields", 431, "headers_too_large"
            )
        if self._block_bytes > MAX_HEAD_BYTES:  # there is a body behind it, or the head is large
            if self._head_size() > MAX_HEAD_BYTES:
                raise _head_too_large()

    def _head_size(self) -> int:
        return len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._fields)

    def _check_progress(self, body: IncomingBody, came: int) -> None:
        """Refuse a body that grows by frames and trailers alone."""
        if body.size != self._stalled_size or body.is_discarded:
            self._stalled_size = body.size
            self._stalled_bytes = 0
            return
        self._stalled_bytes += came
        if self._stalled_bytes > MAX_HEAD_BYTES and not self._is_deaf:
            self._reject(
                bad_request(
                    f"its body has more than {MAX_HEAD_BYTES // 1024} KiB that are no content",
                    431,
                    "headers_too_large",
                )
            )

    def _add(self, handler: Handler) -> None:
        if self._current is None and not self._queue:
            self._current = handler
            self._to_start = True
            return
        self._queue.append(handler)
        if len(self._queue) >= HELD_PIPELINED:
            self.hold_reading()
        if len(self._queue) > MAX_PIPELINED:
            self._reject(bad_request("too many requests were sent before the first answer"))

    def _reject(self, error: RequestError) -> None:
        """Answer what is no request after all earlier answers, and read nothing more."""
        body = self._body
        self._is_deaf = self._lingers = True
        self._in_head = False
        if body is not None:  # of a request that is known already: its handler says it
            self._body = None
            body.fail(error)
            if self._current is None and not self._queue:  # or said it already
                self._close()
            return
        body = IncomingBody(self, 0, self._server.too_large)
        body.end()
        self._add_last(self._server.refusal(self, body, error))

    def _add_last(self, handler: Handler) -> None:
        if self._current is None and not self._queue:
            self._current = handler
            self._to_start = True
        else:
            self._queue.append(handler)

    def _body_too_slow(self, limit_s: float) -> None:
        if self._current is None:  # answered already
            self._close()
        else:
            self._reject(_too_slow("body", limit_s))

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


_VERSIONS = frozenset({"1.1", "1.0"})


def _too_slow(what: str, limit_s: float) -> RequestError:
    return RequestError(
        f"The request's {what} did not come within {limit_s:g} s.",
        status=408,
        code="request_timeout",
    )


def _head_too_large() -> RequestError:
    return bad_request(
        f"its head is larger than {MAX_HEAD_BYTES // 1024} KiB", 431, "headers_too_large"
    )
