"""Fuzzes the connection of a client without sockets: bytes in, in pieces; answers out.

    python tests/gateway/conformance/fuzz_connection.py -atheris_runs=100000

By atheris, which follows the code that is reached, where it is installed; otherwise with random
changes of proper requests. What must hold: no exception but those that are answers, and the same
requests are read whatever the pieces are.
"""

from __future__ import annotations

import random
import sys
from typing import Any

from common.gateway.http.client_connection import ClientConnection
from common.gateway.http.headers import REQUEST_KINDS, FieldKinds
from common.gateway.http.incoming_body import IncomingBody
from common.gateway.http.request import RequestHead
from common.gateway.http.serving import Timeouts

SEEDS = [
    b"GET /v1/a HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /v1/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: 1\r\n\r\n",
    b"POST /v1/a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi",
    b"POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
]


class FakeTransport:
    """Takes what is written."""

    def __init__(self) -> None:
        self.is_closed = False

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def write(self, data: bytes) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    resume_reading = write_eof = pause_reading

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.is_closed = True

    abort = close


class Handler:
    """Answers at once, when the body is complete or as soon as it begins."""

    def __init__(self, connection: ClientConnection, body: IncomingBody) -> None:
        self.body = body
        self._connection = connection

    def start(self) -> None:
        self._connection.write(b"x")

    def client_left(self) -> None:
        pass

    def client_blocked(self, is_blocked: bool) -> None:
        pass


class Server:
    """Notes what requests it is given."""

    now = 0.0
    max_body_bytes = 1 << 20
    is_tls = False
    timeouts = Timeouts()

    def __init__(self) -> None:
        self.kinds = FieldKinds(REQUEST_KINDS)
        self.heads: list[RequestHead] = []
        self.bodies: list[IncomingBody] = []
        self.refusals = 0

    def opened(self, connection: ClientConnection) -> None:
        pass

    closed = opened

    def held(self, connection: ClientConnection, is_held: bool) -> None:
        pass

    def handler(
        self, connection: ClientConnection, head: RequestHead, body: IncomingBody
    ) -> Handler:
        self.heads.append(head)
        self.bodies.append(body)
        return Handler(connection, body)

    def refusal(
        self, connection: ClientConnection, body: IncomingBody, error: Exception
    ) -> Handler:
        self.refusals += 1
        return Handler(connection, body)

    def too_large(self) -> Exception:
        return ValueError("too large")


def read(pieces: list[bytes]) -> list[Any]:
    """Return the requests that a connection reads in these pieces."""
    server = Server()
    connection = ClientConnection(server)
    connection.connection_made(FakeTransport())  # type: ignore[arg-type]
    for piece in pieces:
        connection.data_received(piece)
    found: list[Any] = []
    for head, body in zip(server.heads, server.bodies, strict=True):
        content = b"" if body.failure else body.take()
        found.append((head.method, head.target, head.fields, content, body.is_complete))
        if body.is_complete and head.content_length is not None:
            assert len(content) == head.content_length
    assert server.refusals <= 1
    connection.connection_lost(None)
    return found


def check(data: bytes) -> None:
    """Check what must hold of some bytes, of which the first two tell where they are cut."""
    cut, data = int.from_bytes(data[:2], "big"), data[2:]
    whole = read([data])
    cut %= len(data) + 1
    assert read([data[:cut], data[cut:]]) == whole, (cut, data)
    assert read([data[i : i + 1] for i in range(len(data))]) == whole, data


def random_data(chance: random.Random) -> bytes:
    """Return proper requests with some bytes changed."""
    data = bytearray(b"".join(chance.choices(SEEDS, k=chance.randint(1, 3))))
    for _ in range(chance.randint(0, 4)):
        at = chance.randrange(len(data))
        piece = chance.choice([b"\r\n", b"\0", b" ", b":", b"\n", b"0", b"chunked", b"\xff", b""])
        data[at : at + chance.randint(0, 2)] = piece
    return chance.randbytes(2) + bytes(data)


def main(arguments: list[str]) -> int:
    try:
        import atheris
    except ImportError:
        runs = next((int(a.split("=")[1]) for a in arguments if a.startswith("-atheris_runs=")), 1)
        chance = random.Random(1)
        for _ in range(runs):
            check(random_data(chance))
        sys.stdout.write(f"{runs} random inputs\n")
        return 0
    atheris.instrument_func(check)
    for name in ("data_received", "read", "on_headers_complete", "_stay_with_http", "reject"):
        function = getattr(ClientConnection, name)
        setattr(ClientConnection, name, atheris.instrument_func(function))
    atheris.Setup([sys.argv[0], *arguments], check)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
