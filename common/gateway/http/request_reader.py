"""Requests read from the bytes of one connection: strict HTTP/1.1 and 1.0, nothing repaired."""

from __future__ import annotations

from typing import Protocol

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from common.errors import RequestError
from common.gateway.http.headers import FieldKinds
from common.gateway.http.incoming_body import IncomingBody
from common.gateway.http.known_head import KnownHead, is_worth_keeping, known_head
from common.gateway.http.request import FieldList, RequestHead, bad_request, read_head

MAX_HEAD_BYTES = 64 * 1024
MAX_FIELDS = 128
MAX_TARGET_BYTES = 8 * 1024


class BodyMaker(Protocol):
    """What a reader needs of the server."""

    kinds: FieldKinds
    max_body_bytes: int

    def too_large(self) -> Exception:
        """Return the error of a body above the limit."""


class RequestReader:
    """Reads the requests of one connection, one after the other; the parser calls it.

    A connection inherits it: one object less per request's way. Bytes that are no request are told
    once by `_refused`, and nothing is read after them.
    """

    # The classes below it have slots: those that both use stand here.
    __slots__ = (
        "_awaits_continue",
        "_block_bytes",
        "_body",
        "_fields",
        "_head",
        "_in_head",
        "_is_between",
        "_is_closing",
        "_is_deaf",
        "_known",
        "_unknown",
        "_lingers",
        "_maker",
        "_parser",
        "_skips_head",
        "_stalled_bytes",
        "_stalled_size",
        "_target",
    )

    def __init__(self, maker: BodyMaker) -> None:
        self._maker = maker
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        self._target = b""
        self._fields: FieldList = []
        self._in_head = False
        self._block_bytes = 0
        self._body: IncomingBody | None = None  # of the request that is being received
        self._head: RequestHead | None = None  # of the last one
        self._awaits_continue = False
        self._skips_head = False
        self._is_deaf = False
        self._is_closing = False
        self._lingers = False
        self._is_between = True  # no byte of another message has come
        self._known: KnownHead[RequestHead] | None = None
        self._unknown = 0  # heads in a row
        self._stalled_bytes = self._stalled_size = 0

    # What the connection is told.

    def _came(self, head: RequestHead, body: IncomingBody) -> None:
        """A request came; more of its body may follow."""
        raise NotImplementedError

    def _ended(self) -> None:
        """The body of a request is complete that was refused."""
        raise NotImplementedError

    def _ended_early(self) -> None:
        """The rest of a request will not be read."""
        raise NotImplementedError

    def _refused(self, error: RequestError) -> None:
        """What came is no request."""
        raise NotImplementedError

    def _last_body(self) -> IncomingBody | None:
        """The body of the request that came last, if it is not answered."""
        raise NotImplementedError

    def hold_reading(self) -> None:
        """Read nothing more from this client for now."""
        raise NotImplementedError

    def go_on_reading(self) -> None:
        """Read from this client again."""
        raise NotImplementedError

    def send_continue(self) -> None:
        """Grant ``Expect: 100-continue``."""
        raise NotImplementedError

    # What the parser calls.

    def on_message_begin(self) -> None:
        """The first byte of a request came."""
        self._is_between = False

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
                self._maker.kinds,
                parser.get_method(),
                self._target,
                fields,
                is_http10=version == "1.0",
                keeps_alive=parser.should_keep_alive(),
            )
        except RequestError as error:
            self.reject(error)
            return
        maker = self._maker
        body = self._body = IncomingBody(self, maker.max_body_bytes, maker.too_large)
        self._head = head
        self._awaits_continue = head.expects_continue
        self._stalled_bytes = self._stalled_size = 0
        self._came(head, body)

    def on_body(self, data: bytes) -> None:
        """Pass on a piece of the body."""
        self._awaits_continue = False
        if self._body is not None:
            self._body.feed(data)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._is_between = True
        body, head = self._body, self._head
        if body is None or head is None or self._is_deaf:
            return
        body.end()
        self._body = None
        if not head.keeps_alive:
            self._is_deaf = True  # nothing that follows is a request
        if self._is_closing:
            self._ended()

    # Inside.

    def read(self, data: bytes) -> None:
        """Read a block of bytes."""
        fields, body = self._fields, self._body
        if self._in_head:
            self._block_bytes += len(data)
        else:
            self._block_bytes = len(data)
        was_between = self._is_between
        try:
            self._parser.feed_data(data)  # type: ignore[union-attr]
        except (HttpParserError, HttpParserUpgrade) as error:
            self._parse_failed(error, data)
        else:
            if was_between and not (self._in_head or self._is_deaf):
                self._remember(data)
        if self._in_head:
            if self._fields is not fields:  # the block began with what came before this head
                self._block_bytes = self._head_size()
            if self._block_bytes > MAX_HEAD_BYTES and not self._is_deaf:
                self.reject(_head_too_large())
        elif body is not None and self._body is body:  # all of the block belongs to it
            self._check_progress(body, len(data))

    def reject(self, error: RequestError) -> None:
        """Take what came for no request, and read nothing more."""
        body, self._body = self._body, None
        self._is_deaf = self._lingers = True
        self._in_head = False
        if body is not None:  # of a request that is known already: its handler says it
            body.fail(error)
            self._ended_early()
        else:
            self._refused(error)

    def _remember(self, block: bytes) -> None:
        """Keep the head that came in a block, to know it again."""
        head = self._head
        if head is None or not head.can_recur:
            return
        self._unknown += 1
        if is_worth_keeping(self._unknown):
            self._known = known_head(head, block) or self._known

    def _check_progress(self, body: IncomingBody, came: int) -> None:
        """Refuse a body that grows by frames and trailers alone."""
        if body.size != self._stalled_size or body.is_discarded:
            self._stalled_size = body.size
            self._stalled_bytes = 0
            return
        self._stalled_bytes += came
        if self._stalled_bytes > MAX_HEAD_BYTES and not self._is_deaf:
            self.reject(
                bad_request(
                    f"its body has more than {MAX_HEAD_BYTES // 1024} KiB that are no content",
                    431,
                    "headers_too_large",
                )
            )

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
            self.reject(bad_request(str(error)))

    def _stay_with_http(self, rest: bytes) -> None:
        """Ignore the wish for another protocol: read the body that the parser left out."""
        body, head = self._body, self._head
        # `on_message_complete` was called for it already.
        if head is None or self._is_deaf and head.keeps_alive:
            return
        if head.method == b"CONNECT":
            self._is_deaf = True
            return
        last = self._last_body()
        self._parser = HttpRequestParser(self)
        if last is not None and head.has_body and body is None:
            length = head.content_length
            framing = (
                b"Transfer-Encoding: chunked"
                if length is None
                else (b"Content-Length: %d" % length)
            )
            self._body = last
            last.is_complete = False
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


_VERSIONS = frozenset({"1.1", "1.0"})


def _head_too_large() -> RequestError:
    return bad_request(
        f"its head is larger than {MAX_HEAD_BYTES // 1024} KiB", 431, "headers_too_large"
    )
