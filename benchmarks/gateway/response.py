"""The client's side of HTTP/1.1: one response after the other, of any framing. No I/O.

A proxy may frame an answer as it likes (RFC 9112, 6), so what is compared is what is left without
the framing.
"""

from __future__ import annotations

from dataclasses import dataclass, field


class ResponseError(Exception):
    """What came is no HTTP response, or one that broke off."""


@dataclass(eq=False)
class Response:
    """A response as far as it has come.

    Attributes:
        status: 0 until the head is complete.
        headers: In their order, with names in lower case.
        body: Without its framing.
        is_complete: Whether it came to its end.
        keeps_alive: Whether the connection can take another request; valid when complete.
    """

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    is_complete: bool = False
    keeps_alive: bool = True


class ResponseParser:
    """Puts responses together from pieces of any size; requests are never HEAD."""

    def __init__(self) -> None:
        self.response = Response()
        self._rest = b""
        self._missing = 0  # bytes of the body, or of the chunk with the line end behind it
        self._is_chunked = False
        self._is_last = False  # the chunk of length 0 has come
        self._until_close = False

    def begin(self) -> Response:
        """Return the response to the request that is sent next."""
        self.response = Response()
        self._missing, self._is_chunked = 0, False
        self._is_last = self._until_close = False
        return self.response

    def feed(self, data: bytes) -> bool:
        """Take what came; returns whether the response is complete.

        Raises:
            ResponseError: It is no HTTP.
        """
        if self._rest:
            data, self._rest = self._rest + data, b""
        response = self.response
        while not response.status:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._rest = data
                return False
            head, data = data[:end], data[end + 4 :]
            self._take_head(head)
        if self._is_chunked:
            self._take_chunks(data)
        elif self._until_close:
            response.body += data
        else:
            response.body += data[: self._missing]
            if len(data) > self._missing:
                raise ResponseError(f"{len(data) - self._missing} bytes after the answer's end")
            self._missing -= len(data)
            response.is_complete = not self._missing
        return response.is_complete

    def feed_end(self) -> bool:
        """Take the end of the connection; returns whether it completes the response."""
        response = self.response
        response.keeps_alive = False
        if response.status and self._until_close:
            response.is_complete = True
        return response.is_complete

    def _take_head(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise ResponseError(f"no status line of HTTP/1: {lines[0][:80]!r}")
        status = int(rest[:3])
        if status < 200:
            return  # 100 Continue and the like: the response follows
        response = self.response
        response.status = status
        for line in lines[1:]:
            name, _, value = line.partition(":")
            response.headers.append((name.strip().lower(), value.strip()))
        fields = dict(response.headers)
        connection = fields.get("connection", "").lower()
        response.keeps_alive = "close" not in connection and (
            version != "HTTP/1.0" or "keep-alive" in connection
        )
        if status in (204, 304):
            return
        self._is_chunked = "chunked" in fields.get("transfer-encoding", "").lower()
        if not self._is_chunked:
            length = fields.get("content-length")
            self._until_close = length is None
            self._missing = int(length or 0)

    def _take_chunks(self, data: bytes) -> None:
        body = self.response.body
        at, size = 0, len(data)
        while at < size:
            if self._missing:
                # Of these, the last two are the line end, which is no data.
                piece = min(self._missing, size - at)
                body += data[at : at + min(piece, max(0, self._missing - 2))]
                self._missing -= piece
                at += piece
                continue
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                break
            line = data[at:line_end]
            at = line_end + 2
            if self._is_last:
                if not line:  # behind the trailers
                    self.response.is_complete = True
                    if at < size:
                        raise ResponseError(f"{size - at} bytes after the answer's end")
                    return
                continue
            length = _chunk_size(line)
            if length:
                self._missing = length + 2
            else:
                self._is_last = True
        self._rest = data[at:]


def _chunk_size(line: bytes) -> int:
    try:
        return int(line.partition(b";")[0], 16)
    except ValueError:
        raise ResponseError(f"no size of a chunk: {line[:80]!r}") from None
