"""What the client of one request gets: the head, pieces of a body, an end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.gateway.envelope import ErrorAnswer
from common.gateway.http.answer import Answer
from common.gateway.http.client_connection import ClientConnection
from common.gateway.http.incoming_body import IncomingBody
from common.gateway.http.request import RequestHead
from common.gateway.http.response import EVENT_STREAM, ResponseHead

if TYPE_CHECKING:
    from common.gateway.proxy import ModelProxy

# How a body is framed. Plain numbers: they are compared for every piece.
NOT_BEGUN, RAW, CHUNKED, NO_BODY = range(4)

JOINED_BYTES = 16 * 1024
"""A larger piece is not copied to go out together with its frame."""


class ClientReply:
    """The answer to one request, as far as the client has got it.

    Attributes:
        head: The request's head.
        body: What has come of the request's body.
        status: Status that the client got; 0: none yet.
        framing: How the body goes; `NOT_BEGUN` while no head is out.
        is_stream: Whether it is a stream of events.
        keeps_alive: Whether the connection goes on after it.
    """

    # What most requests never have stands in the class, and in an instance's own dictionary when set.
    __slots__ = (
        "__dict__",
        "_connection",
        "_last",
        "_proxy",
        "_request_id",
        "body",
        "framing",
        "head",
        "is_stream",
        "keeps_alive",
        "status",
    )

    def __init__(
        self,
        proxy: ModelProxy,
        connection: ClientConnection,
        head: RequestHead,
        body: IncomingBody,
    ) -> None:
        self._proxy = proxy
        self._connection = connection
        self.head = head
        self.body = body
        self._request_id = head.request_id or next(proxy.request_ids)
        self.framing = NOT_BEGUN
        self.is_stream = self.keeps_alive = False
        self.status = 0
        self._last = b"\n\n"

    @property
    def has_begun(self) -> bool:
        """Whether the client has got a status."""
        return self.framing != NOT_BEGUN

    def pass_whole(self, answer: ResponseHead, payload: bytes) -> bool:
        """Pass on an answer that came in one piece, as most do; False: it has something unusual."""
        connection, proxy = self._connection, self._proxy
        length = answer.length
        if (
            not length
            or proxy.is_draining
            or proxy.cors.is_on
            or connection.is_gone
            or answer.status == 204
            or not self.body.is_complete
            or not self.head.is_plain
        ):
            return False
        out = [
            answer.lines or proxy.status_lines.head(answer),
            b"" if answer.has_date else proxy.date_line,
            b"Content-Length: ",
            length,
            b"\r\nX-Request-Id: ",
            self._request_id,
            b"\r\n\r\n",
            payload,
        ]
        if len(payload) > JOINED_BYTES:
            connection.transport.writelines(out)
        else:
            connection.transport.write(b"".join(out))
        return True

    def begin(self, out: list[bytes], answer: ResponseHead) -> None:
        """Add the client's head to what goes out, made of the engine's."""
        self.status = answer.status
        self.is_stream = answer.is_stream
        out.append(answer.lines or self._proxy.status_lines.head(answer))
        if not answer.has_date:
            out.append(self._proxy.date_line)
        length = answer.length
        if answer.has_no_body or self.head.method == b"HEAD":
            self.framing = NO_BODY
            if length and answer.status != 204:
                out += (b"Content-Length: ", length, b"\r\n")
        elif length:
            self.framing = RAW
            out += (b"Content-Length: ", length, b"\r\n")
        else:
            self._frame(out)
        self._end_head(out)

    def send(self, out: list[bytes], payload: bytes, *, is_last: bool) -> None:
        """Send what goes out, and behind it a piece of the body.

        Args:
            out: A head, or nothing; changed.
            payload: The piece; may be empty.
            is_last: Whether the body ends with it.
        """
        framing = self.framing
        if payload:
            if framing == CHUNKED:
                self._last = payload
                if not (out or is_last) and len(payload) <= JOINED_BYTES:  # most pieces
                    if not self._connection.is_gone:
                        framed = b"%x\r\n%b\r\n" % (len(payload), payload)
                        self._connection.transport.write(framed)
                    return
                out += (b"%x\r\n" % len(payload), payload, b"\r\n")
            elif framing == RAW:
                out.append(payload)
                self._last = payload
        if is_last and framing == CHUNKED:
            out.append(b"0\r\n\r\n")
        connection = self._connection
        if out and not connection.is_gone:
            if len(payload) > JOINED_BYTES:
                connection.transport.writelines(out)
            else:
                connection.transport.write(b"".join(out))

    def send_comment(self, comment: bytes) -> None:
        """Send a comment in a stream of events that waits for its engine; the first begins it."""
        connection = self._connection
        if connection.is_gone or connection.is_blocked:
            return
        out: list[bytes] = []
        if self.framing == NOT_BEGUN:
            self.status = 200
            self.is_stream = True
            out += (
                self._proxy.status_lines.line(200),
                b"Content-Type: ",
                EVENT_STREAM,
                b"\r\nCache-Control: no-cache\r\n",
                self._proxy.date_line,
            )
            self._frame(out)
            self._end_head(out)
        self.send(out, comment, is_last=False)

    def send_answer(self, answer: Answer) -> None:
        """Send a whole answer of our own; ends the reply."""
        self._proxy.send_answer(self._connection, self.head, self.body, answer, self._request_id)

    def tell_late(self, answer: ErrorAnswer) -> None:
        """End a reply that has begun with an error, as well as that still can be told.

        In a stream of events: one ``error`` event, if the stream stands between two events. Otherwise
        the connection breaks, which is the only way to say that a body is not whole.
        """
        if self.is_stream and self._last.endswith((b"\n\n", b"\r\n\r\n")):
            self.send([], answer.sse_event(), is_last=True)
            self._connection.answered(keeps_alive=self.keeps_alive)
        else:
            self._connection.cut()

    def _frame(self, out: list[bytes]) -> None:
        """Choose a framing for a body of unknown length."""
        if self.head.is_http10:
            self.head.keeps_alive = False  # the end of the connection is the end of the body
            self.framing = RAW
        else:
            self.framing = CHUNKED
            out.append(b"Transfer-Encoding: chunked\r\n")

    def _end_head(self, out: list[bytes]) -> None:
        self.keeps_alive = self._proxy.end_head(
            out, self._connection, self.head, self.body, self._request_id
        )
