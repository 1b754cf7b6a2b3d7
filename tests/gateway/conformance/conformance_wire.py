"""A client that writes bytes and reads answers with a strict reader of its own."""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_S = 20.0
"""For what is bound to come: only a gateway that hangs reaches it."""


class BadAnswer(AssertionError):
    """The gateway's answer is not plain HTTP/1.1."""


@dataclass
class Answer:
    """One answer as it came."""

    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    chunks: list[int] | None = None
    is_whole: bool = True
    interim: list[int] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) < 2, (name, values)
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error of the gateway's own."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return str(error["code"])


class Client:
    """One connection to the gateway."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIMEOUT_S)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def send_as_far_as_wanted(self, data: bytes) -> None:
        """Send to a peer that may have answered and gone before the end."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            pass

    def ask(self, *pieces: bytes, method: str = "GET") -> Answer:
        self.send(*pieces)
        return self.answer(method)

    def answer(self, method: str = "GET") -> Answer:
        """Read the next answer, with the interim ones before it."""
        interim: list[int] = []
        while True:
            answer = self._head()
            if answer.status >= 200:
                answer.interim = interim
                self._read_body(answer, method)
                return answer
            interim.append(answer.status)

    def interim(self) -> int:
        """Read one interim answer."""
        answer = self._head()
        assert answer.status < 200, answer
        return answer.status

    def until(self, end: bytes) -> bytes:
        """Read up to the end of these bytes."""
        while end not in self._held:
            piece = self.socket.recv(65536)
            if not piece:
                raise BadAnswer(f"the connection ended in {self._held[-200:]!r}")
            self._held += piece
        taken, _, rest = self._held.partition(end)
        self._held = rest
        return taken + end

    def rest(self) -> bytes:
        """Read until the gateway closes."""
        parts = [self._held]
        self._held = b""
        try:
            while piece := self.socket.recv(65536):
                parts.append(piece)
        except ConnectionResetError:
            pass
        return b"".join(parts)

    def is_open(self) -> bool:
        """Whether the connection carries a further request."""
        try:
            return self.ask(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").status in (200, 503)
        except (BadAnswer, ConnectionError):
            return False

    def is_silent(self, seconds: float = 0.05) -> bool:
        """Whether nothing comes for a moment."""
        self.socket.settimeout(seconds)
        try:
            self._held += self.socket.recv(65536)
        except TimeoutError:
            return not self._held
        finally:
            self.socket.settimeout(TIMEOUT_S)
        return False

    def _head(self) -> Answer:
        line, *rest = self.until(b"\r\n\r\n")[:-4].decode("latin-1").split("\r\n")
        version, _, text = line.partition(" ")
        status, _, reason = text.partition(" ")
        if version != "HTTP/1.1" or len(status) != 3 or not status.isdigit():
            raise BadAnswer(line)
        fields = []
        for row in rest:
            name, colon, value = row.partition(": ")
            if not colon or not name or any(ord(c) < 32 and c != "\t" for c in name + value):
                raise BadAnswer(row)
            fields.append((name, value))
        return Answer(int(status), reason, fields)

    def _read_body(self, answer: Answer, method: str) -> None:
        length, coding = answer.get("Content-Length"), answer.get("Transfer-Encoding")
        if length is not None and coding is not None:
            raise BadAnswer("Content-Length and Transfer-Encoding")
        if method == "HEAD" or answer.status in (204, 304):
            return
        if coding is not None:
            assert coding == "chunked"
            self._read_chunks(answer)
        elif length is not None:
            answer.body, answer.is_whole = self._exactly(int(length))
        else:
            answer.body = self.rest()

    def _read_chunks(self, answer: Answer) -> None:
        answer.chunks = []
        while True:
            try:
                line = self.until(b"\r\n")
            except (BadAnswer, ConnectionError):
                answer.is_whole = False
                return
            size = int(line[:-2], 16)
            if b"%x\r\n" % size != line:
                raise BadAnswer(f"the chunk size {line!r}")
            piece, answer.is_whole = self._exactly(size + 2)
            answer.body += piece[:size]
            if not answer.is_whole:
                return
            if piece[size:] != b"\r\n":
                raise BadAnswer("a chunk that does not end where it should")
            if size == 0:
                return
            answer.chunks.append(size)

    def _exactly(self, size: int) -> tuple[bytes, bool]:
        parts, missing = [self._held[:size]], size - len(self._held)
        self._held = self._held[size:]
        while missing > 0:
            try:
                piece = self.socket.recv(min(missing, 1 << 20))
            except ConnectionError:
                piece = b""
            if not piece:
                return b"".join(parts), False
            parts.append(piece)
            missing -= len(piece)
        return b"".join(parts), True


def until(condition: Any, timeout_s: float = TIMEOUT_S) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)
