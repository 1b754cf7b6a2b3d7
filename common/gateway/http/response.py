"""The head of an engine's response, and of the client's that is made of it (pure)."""

from __future__ import annotations

import re
from http import HTTPStatus

from common.errors import EngineCrashError
from common.gateway.http import headers as h
from common.gateway.http.request import FieldList

EVENT_STREAM = b"text/event-stream"
JSON = b"application/json"

_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]+")
"""RFC 9112 4; the parser lets other bytes through."""


class ResponseHead:
    """An engine's status line and fields.

    Attributes:
        status: Status code, 200 and above.
        reason: As it came; may be empty.
        forwarded: Fields for the client, flat: name, ``: ``, value, CRLF, and so on.
        lines: The same as bytes behind the client's status line, made when they are sent; empty before.
        length: Length of the body as it came; empty: it has another framing.
        is_chunked: Whether the body comes in chunks.
        has_date: Whether the engine dated it.
        is_stream: Whether the body is a stream of events.
        may_have_usage: Whether the body may tell the tokens that were used: events or JSON.
    """

    __slots__ = (
        "forwarded",
        "has_date",
        "is_chunked",
        "is_stream",
        "length",
        "lines",
        "may_have_usage",
        "reason",
        "status",
    )

    def __init__(self, status: int, reason: bytes) -> None:
        self.status = status
        self.reason = reason
        self.forwarded: list[bytes] = []
        self.lines = b""
        self.length = b""
        self.is_chunked = False
        self.has_date = False
        self.is_stream = False
        self.may_have_usage = False

    @property
    def has_no_body(self) -> bool:
        """Whether its status rules out a body (RFC 9110 6.4.1)."""
        return self.status == 204 or self.status == 304

    @property
    def can_recur(self) -> bool:
        """Whether the same fields with another length have the same meaning on their connection."""
        return bool(self.length) and not self.is_chunked and not self.has_no_body

    @property
    def ends_with_connection(self) -> bool:
        """Whether only the end of the connection ends the body."""
        return not self.length and not self.is_chunked and not self.has_no_body


def read_response(
    kinds: h.FieldKinds, status: int, reason: bytes, fields: FieldList
) -> ResponseHead:
    """Sort a response's fields.

    Args:
        kinds: Of `headers.RESPONSE_KINDS`.
        status: Status code.
        reason: Reason phrase.
        fields: All fields; the parser has checked their syntax.

    Raises:
        EngineCrashError: Its framing is unknown to us.
    """
    head = ResponseHead(status, reason)
    forwarded = head.forwarded
    seen = kinds.seen
    dropped: list[bytes] | None = None
    for name, value in fields:
        kind = seen.get(name)
        if kind is None:
            kind = kinds.of(name)
        if kind == 0:  # headers.PASSES
            forwarded += (name, b": ", value, b"\r\n")
        elif kind == h.CONTENT_LENGTH:
            head.length = value
        elif kind == h.CONTENT_TYPE:
            forwarded += (name, b": ", value, b"\r\n")
            kind_of_body = value.partition(b";")[0].strip().lower()
            head.is_stream = kind_of_body == EVENT_STREAM
            head.may_have_usage = head.is_stream or kind_of_body == JSON
        elif kind == h.DATE:
            forwarded += (name, b": ", value, b"\r\n")
            head.has_date = True
        elif kind == h.TRANSFER_ENCODING:
            if head.is_chunked or value.strip().lower() != b"chunked":
                raise EngineCrashError("The engine's answer has an unknown Transfer-Encoding.")
            head.is_chunked = True
        elif kind == h.CONNECTION and not h.only_options(value):
            dropped = [*(dropped or ()), value]
    if dropped is not None:
        head.forwarded = h.without(forwarded, h.connection_tokens(dropped))
    return head


class StatusLines:
    """Status lines as bytes, each made once."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[int, bytes] = {}

    def line(self, status: int, reason: bytes = b"") -> bytes:
        """Return ``HTTP/1.1 200 OK`` with its line end; an unusual reason is kept as it is."""
        line = self._lines.get(status)
        if line is None:
            try:
                usual = HTTPStatus(status).phrase
            except ValueError:
                usual = ""
            line = self._lines[status] = b"HTTP/1.1 %d %b\r\n" % (status, usual.encode())
        if reason and line[13:-2] != reason and _REASON.fullmatch(reason):
            return b"HTTP/1.1 %d %b\r\n" % (status, reason)
        return line

    def head(self, answer: ResponseHead) -> bytes:
        """Return the client's status line with the fields of an engine's answer, and keep it there."""
        line = self.line(answer.status, answer.reason)
        answer.lines = lines = b"".join((line, *answer.forwarded))
        return lines
