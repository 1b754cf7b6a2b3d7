"""One connection to an engine: a request out, its answer in, the next request."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from common.errors import EngineCrashError, EngineError
from common.gateway.http.headers import FieldKinds
from common.gateway.http.known_head import KnownHead, is_worth_keeping, known_head
from common.gateway.http.request import FieldList
from common.gateway.http.response import ResponseHead, read_response

MAX_HEAD_BYTES = 256 * 1024


class AnswerSink(Protocol):
    """Who sent the request on an engine's connection."""

    def answer_came(self, payload: bytes, is_complete: bool) -> None:
        """A piece of the body came; the first call comes with the head, maybe without a piece."""

    def engine_lost(self, error: EngineError) -> None:
        """The answer will not be complete. The connection is closed."""


class ConnectionOwner(Protocol):
    """The pool that a connection belongs to."""

    kinds: FieldKinds

    def put(self, connection: EngineConnection) -> None:
        """The connection is free again."""

    def lost(self, connection: EngineConnection) -> None:
        """The connection ended."""


_TOO_LONG = "The head of the engine's answer is too long."
_NOT_HTTP = "The engine's answer is not valid HTTP."


class _HeadTooLong(Exception):
    """Ends the parsing of an answer."""


class _BytesBehindAnswer(Exception):
    """The engine sent more than its answer."""


class EngineConnection(asyncio.Protocol):
    """A connection to an engine; made by its pool.

    Attributes:
        head: The head of the answer; None until it came.
        uses: Requests sent on it.
        has_answered: Whether a byte came back since the last request.
        ended_with_stream: Whether its last complete answer was a stream of events.
        free_since: When it was put back, in monotonic seconds.
    """

    __slots__ = (
        "_fields",
        "_head_bytes",
        "_is_complete",
        "_is_head_request",
        "_is_paused",
        "_is_told",
        "_is_too_long",
        "_keeps_alive",
        "_known",
        "_unknown",
        "_owner",
        "_parser",
        "_pieces",
        "_reason",
        "_sink",
        "_unblocked",
        "ended_with_stream",
        "free_since",
        "has_answered",
        "head",
        "is_closed",
        "transport",
        "uses",
    )

    transport: asyncio.Transport

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._sink: AnswerSink | None = None
        self._pieces: list[bytes] = []
        self._fields: FieldList = []
        self._reason = b""
        self._head_bytes = 0
        self._is_complete = self._is_told = self._is_head_request = False
        self._keeps_alive = True
        self._is_too_long = False
        self._is_paused = False
        self._known: KnownHead[ResponseHead] | None = None
        self._unknown = 0  # heads in a row
        self._unblocked: asyncio.Future[None] | None = None
        self.head: ResponseHead | None = None
        self.uses = 0
        self.has_answered = False
        self.ended_with_stream = False
        self.free_since = 0.0
        self.is_closed = False

    # What the sender of a request calls.

    def send(self, sink: AnswerSink, data: bytes, *, is_head_request: bool = False) -> None:
        """Send the head of a request, with its body or the beginning of it."""
        self._sink = sink
        self.uses += 1
        self.has_answered = False
        self.head = None
        self._is_complete = self._is_told = False
        self._is_head_request = is_head_request
        self.transport.write(data)

    async def write(self, data: bytes) -> None:
        """Send a further piece of the body; waits while the engine reads slower."""
        if self.is_closed:
            return  # the sink is told
        self.transport.write(data)
        if self._unblocked is not None:
            await self._unblocked

    def pause(self) -> None:
        """Read no more of the answer: the client reads slower."""
        if not self.is_closed and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read the answer again."""
        if not self.is_closed and self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()

    def release(self) -> None:
        """The answer is complete: the connection may carry another request."""
        self._sink = None
        self.has_answered = False
        if self._is_paused:  # the client may read slower still; the next one's answer must come
            self.resume()
        if self._keeps_alive and self._is_complete and not self.is_closed:
            self._owner.put(self)
        else:
            self.close()

    def abort(self) -> None:
        """Cut it: how an engine learns that nobody wants the answer."""
        self._sink = None
        if not self.is_closed:
            self.is_closed = True
            self.transport.abort()

    def close(self) -> None:
        """Close it."""
        self._sink = None
        if not self.is_closed:
            self.is_closed = True
            self.transport.close()

    def give_up(self) -> None:
        """Nobody wants it any more, whether it is open yet or not."""
        self.is_closed = True
        transport: asyncio.Transport | None = getattr(self, "transport", None)
        if transport is not None:
            transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast(asyncio.Transport, transport)
        if self.is_closed:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read a piece of the answer and pass it on at once."""
        sink = self._sink
        parser = self._parser
        if sink is None or parser is None:
            self.close()  # nobody asked: what comes now could be taken for the next answer
            return
        begins = not self.has_answered
        self.has_answered = True
        if begins and (known := self._known) is not None and not self._is_head_request:
            start = known.body_start(data)
            if start >= 0:
                head = self.head = known.head
                payload = data[start:]
                head.length = b"%d" % len(payload)
                self._is_complete = self._is_told = True
                self.ended_with_stream = head.is_stream
                self._unknown = 0
                sink.answer_came(payload, True)
                return
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._keeps_alive = False
            if not self._is_complete:
                self._fail(_TOO_LONG if self._is_too_long else _NOT_HTTP)
                return
        if self.head is None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._fail(_TOO_LONG)
            return
        if begins:
            self._remember(data)
        pieces = self._pieces
        if pieces:
            payload = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
        elif self._is_told and not self._is_complete:
            return
        else:
            payload = b""
        self._is_told = True
        sink.answer_came(payload, self._is_complete)

    def eof_received(self) -> None:
        """The end of the connection is the end of an answer without a length."""
        head, sink = self.head, self._sink
        if sink is not None and head is not None and head.ends_with_connection:
            self._is_complete = True
            self._keeps_alive = False
            sink.answer_came(b"", True)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.is_closed = True
        self._parser = None  # it refers to this object
        if self._unblocked is not None and not self._unblocked.done():
            self._unblocked.set_result(None)
        self._owner.lost(self)
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.engine_lost(_broken_off(self.has_answered))

    def pause_writing(self) -> None:
        """The engine reads slower than the request comes."""
        self._unblocked = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """The engine has caught up."""
        unblocked, self._unblocked = self._unblocked, None
        if unblocked is not None and not unblocked.done():
            unblocked.set_result(None)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Stop at what comes behind the answer: it could be taken for a part of it, or for the next."""
        if self._is_complete:
            raise _BytesBehindAnswer

    def on_status(self, reason: bytes) -> None:
        """Keep the reason phrase, which may come in pieces."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field; those after the body (trailers) go no further."""
        if self.head is None:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Read the head; an interim response (1xx) is not the answer."""
        assert self._parser is not None
        if self._head_bytes:  # it came in several blocks: the last one is not counted
            self._check_size()
        status = self._parser.get_status_code()
        fields, self._fields = self._fields, []
        reason, self._reason = self._reason, b""
        if status < 200:
            return
        head = self.head = read_response(self._owner.kinds, status, reason, fields)
        self._head_bytes = 0
        if self._is_head_request or head.has_no_body:
            self._is_complete = True
            # The parser does not know that no body follows the answer to a HEAD.
            self._keeps_alive = self._keeps_alive and not self._is_head_request

    def on_body(self, piece: bytes) -> None:
        """Keep a piece until the end of the block that it came in."""
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """The answer is complete, unless it was an interim one."""
        if self.head is None:
            return
        self._is_complete = True
        self.ended_with_stream = self.head.is_stream
        assert self._parser is not None
        if not self._parser.should_keep_alive():
            self._keeps_alive = False

    def _remember(self, block: bytes) -> None:
        """Keep the head of the answer that came in a block, to know it again."""
        head = self.head
        if head is None or not head.can_recur or not self._keeps_alive:
            return
        self._unknown += 1
        if is_worth_keeping(self._unknown):
            self._known = known_head(head, block) or self._known

    def _check_size(self) -> None:
        size = sum(len(name) + len(value) + 4 for name, value in self._fields)
        if size > MAX_HEAD_BYTES:
            self._is_too_long = True
            raise _HeadTooLong

    def _fail(self, message: str) -> None:
        sink = self._sink
        self.abort()
        if sink is not None:
            sink.engine_lost(EngineCrashError(message))


def _broken_off(has_answered: bool) -> EngineCrashError:
    if has_answered:
        return EngineCrashError(
            "The engine's answer broke off: it crashed or closed the connection."
        )
    return EngineCrashError(
        "The engine closed the connection before it answered; it may have crashed."
    )
