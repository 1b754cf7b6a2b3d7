"""Heads that come again are not parsed: nobody may see the difference."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import EngineError
from common.gateway.http.client_connection import ClientConnection
from common.gateway.http.engine_connection import EngineConnection
from common.gateway.http.headers import REQUEST_KINDS, RESPONSE_KINDS, FieldKinds
from common.gateway.http.incoming_body import IncomingBody
from common.gateway.http.known_head import KnownHead, is_worth_keeping, known_head
from common.gateway.http.request import RequestHead
from common.gateway.http.serving import Timeouts

HEADS = [
    b"POST /a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: %d\r\nX-A: 1\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer l\r\nContent-Length: %d\r\nX-A: 1\r\n\r\n",
    b"POST /a HTTP/1.1\r\ncontent-length: %d\r\nHost: x\r\n\r\n",
    b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length:  %d\r\n\r\n",
    b"\r\nPOST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
    b"HEAD /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nUpgrade: a\r\nConnection: Upgrade\r\nContent-Length: %d\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: X-A\r\nX-A: 1\r\nContent-Length: %d\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nContent-Length: 1\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nX-Length: %d\r\n\r\n0\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: x\r\nX-Length: %d\r\n\r\n",
    b"POST /a HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n",
    b"P",
    b"OST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
]
FEW_HEADS = st.lists(st.sampled_from(HEADS), min_size=1, max_size=2)
ENDS = st.sampled_from([b"", b"", b"\r\n"])


class Wire:
    """Stands for a transport."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.calls.append((name, *given))


class Server:
    """Notes what comes on a connection, and answers it at once."""

    kinds = FieldKinds(REQUEST_KINDS)
    timeouts = Timeouts()
    now = 0.0
    max_body_bytes = 100
    is_tls = False

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def opened(self, connection: ClientConnection) -> None: ...

    def held(self, connection: ClientConnection, is_held: bool) -> None: ...

    def closed(self, connection: ClientConnection) -> None: ...

    def too_large(self) -> Exception:
        return ValueError("too large")

    def handler(self, connection: ClientConnection, head: RequestHead, body: IncomingBody) -> Any:
        return _Answer(self, connection, head, body)

    def refusal(self, connection: ClientConnection, body: IncomingBody, error: Exception) -> Any:
        return _Answer(self, connection, None, body)


class _Answer:
    """Waits for the end of the body, as the gateway does, before the next request is looked at."""

    def __init__(
        self, server: Server, connection: ClientConnection, head: Any, body: IncomingBody
    ) -> None:
        self._server, self._connection, self._head, self.body = server, connection, head, body

    def start(self) -> None:
        head = self._head
        self._note = ["refused"]
        if head is not None:
            self._note = [
                *(head.method, head.target, [*head.fields], b"".join(head.forwarded)),
                *(head.content_length, head.secret, head.host, head.is_plain, head.keeps_alive),
                *(head.expects_continue, head.is_chunked, head.request_id),
            ]
        if self.body.is_complete or self.body.failure:
            self.finish()

    def finish(self) -> None:
        failure = self.body.failure
        self._server.seen.append((self._note, str(failure) if failure else self.body.take()))
        keeps = self._head is not None and failure is None and self._head.keeps_alive
        self._connection.answered(keeps_alive=keeps)

    def client_left(self) -> None: ...

    def client_blocked(self, is_blocked: bool) -> None: ...


def requests_in(blocks: list[bytes]) -> list[Any]:
    """Return what a connection makes of blocks; bodies are read when they are complete."""
    server = Server()
    connection = ClientConnection(cast(Any, server))
    connection.connection_made(cast(Any, Wire()))
    for block in blocks:
        connection.data_received(block)
        current = connection._current
        if isinstance(current, _Answer) and (current.body.is_complete or current.body.failure):
            current.finish()
    return server.seen


@given(FEW_HEADS, st.lists(st.tuples(st.integers(0, 12), ENDS), max_size=12), st.data())
def test_blocks_give_the_requests_that_single_bytes_give(
    heads: list[bytes], messages: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    blocks: list[bytes] = []
    for size, behind in messages:
        head = data.draw(st.sampled_from([HEADS[0], *heads]))
        whole = (head % size if b"%d" in head else head) + b"x" * size + behind
        cut = data.draw(st.sampled_from([0, 0, 0, len(whole) - size - len(behind), 3]))
        blocks += [whole[:cut], whole[cut:]] if 0 < cut < len(whole) else [whole]
    if data.draw(st.booleans()):  # some of them in one block
        blocks = [b"".join(blocks[i : i + 2]) for i in range(0, len(blocks), 2)]
    single = [bytes([byte]) for byte in b"".join(blocks)]
    assert requests_in(blocks) == requests_in(single)


KNOWN = HEADS[0] % 2 + b"xx"


@pytest.mark.parametrize(
    "blocks",
    [
        [KNOWN, KNOWN, b"P", KNOWN, KNOWN],
        [KNOWN, KNOWN, KNOWN[:1], KNOWN[1:], KNOWN[1:], KNOWN],
        [KNOWN[:2], KNOWN[2:], KNOWN[2:]],
        [KNOWN, KNOWN, KNOWN[:-1], KNOWN, KNOWN],
        [KNOWN, KNOWN, HEADS[0] % len(KNOWN), KNOWN, KNOWN],
        [KNOWN, KNOWN, KNOWN + KNOWN[:-2], b"xx", KNOWN],
        [KNOWN, KNOWN + b"\r", b"\n", KNOWN],
    ],
)
def test_a_known_head_counts_between_two_requests_only(blocks: list[bytes]) -> None:
    assert requests_in(blocks) == requests_in([bytes([byte]) for byte in b"".join(blocks)])


def test_a_body_that_is_too_large_behind_a_known_head_fails() -> None:
    blocks = [HEADS[0] % size + b"x" * size for size in (0, 2, 101)]
    seen = requests_in(blocks)
    assert seen == requests_in([bytes([byte]) for byte in b"".join(blocks)])
    assert [body for _, body in seen] == [b"", b"xx", "too large"]


def test_a_head_is_known_again_with_another_length() -> None:
    known = known_head("head", b"A\r\nContent-Length: 5\r\nB: c\r\n\r\nhello")
    assert known is not None
    assert known.body_start(b"A\r\nContent-Length: 5\r\nB: c\r\n\r\nworld") == 30
    assert known.body_start(b"A\r\nContent-Length: 11\r\nB: c\r\n\r\nhello world") == 31


def test_a_block_with_anything_else_is_not_known() -> None:
    known = KnownHead("head", b"A\r\nContent-Length: ", b"\r\n\r\n")
    for block in (
        *(b"A\r\nContent-Length: 2\r\n\r\nx", b"A\r\nContent-Length: 2\r\n\r\nxyz"),
        *(b"A\r\nContent-Length: +2\r\n\r\nxy", b"A\r\nContent-Length: 2 \r\n\r\nxy"),
        *(b"A\r\nContent-Length: \r\n\r\n", b"A\r\nContent-Length: 2\r\nB: c\r\n\r\nxy"),
        *(b"A\r\ncontent-length: 2\r\n\r\nxy", b"A\r\nContent-Length: 2\n\r\n\r\nxy"),
        *(b"A\r\nContent-Length: 1_0\r\n\r\n", b"A\r\nContent-Length: 2", b""),
        b"A\r\nContent-Length: " + b"0" * 30 + b"2\r\n\r\nxy",
    ):
        assert known.body_start(block) == -1, block


def test_what_cannot_be_told_apart_is_not_kept() -> None:
    for block in (
        b"A\r\nB: c\r\n\r\n",
        b"A\r\nContent-Length: 1\r\n\r\nxA",
        b"\r\n\r\nA\r\nContent-Length: 1\r\n\r\nx",
        b"A\r\nB: " + b"b" * 5000 + b"\r\nContent-Length: 1\r\n\r\nx",
    ):
        assert known_head("head", block) is None, block


def test_heads_that_never_come_again_are_kept_seldom() -> None:
    assert sum(is_worth_keeping(misses) for misses in range(1, 1001)) < 80


class Sink:
    """Sends a request as soon as its answer is there, and keeps what came."""

    def __init__(self, connection: EngineConnection) -> None:
        self.connection = connection
        self.seen: list[Any] = []

    def answer_came(self, payload: bytes, is_complete: bool) -> None:
        head = self.connection.head
        assert head is not None
        self.seen.append((head.status, head.length, b"".join(head.forwarded), payload))
        assert is_complete
        self.connection.release()

    def engine_lost(self, error: EngineError) -> None:
        self.seen.append(str(error))


class Pool:
    """Keeps every connection."""

    kinds = FieldKinds(RESPONSE_KINDS)

    def __init__(self) -> None:
        self.free = 0

    def put(self, connection: EngineConnection) -> None:
        self.free += 1

    def lost(self, connection: EngineConnection) -> None: ...


def answers_to(blocks: list[bytes]) -> tuple[list[Any], int]:
    """Return what a connection makes of one block for each request, and how often it was kept."""
    pool = Pool()
    connection = EngineConnection(cast(Any, pool))
    connection.connection_made(cast(asyncio.Transport, Wire()))
    sink = Sink(connection)
    for block in blocks:
        if connection.is_closed:
            break
        connection.send(cast(Any, sink), b"request")
        connection.data_received(block)
    return sink.seen, pool.free


ANSWER = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: %d\r\nDate: now\r\n\r\n%b"


def test_answers_of_other_lengths_are_read_as_the_first() -> None:
    bodies = [b"a" * size for size in (5, 5, 0, 12, 1000, 5)]
    seen, kept = answers_to([ANSWER % (len(body), body) for body in bodies])
    assert [(length, body) for _, length, _, body in seen] == [(b"%d" % len(b), b) for b in bodies]
    assert {fields for _, _, fields, _ in seen} == {b"X-A: 1\r\nDate: now\r\n"}
    assert kept == len(bodies)


def test_an_answer_with_another_head_between_known_ones_is_read() -> None:
    other = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"
    known = ANSWER % (2, b"ok")
    seen, kept = answers_to([known, known, other, known, other, known])
    assert [status for status, *_ in seen] == [200, 200, 404, 200, 404, 200]
    assert kept == 6


def test_bytes_behind_an_answer_that_is_known_end_its_connection() -> None:
    known = ANSWER % (2, b"ok")
    seen, kept = answers_to([known, known, known + b"HTTP/1.1 200 OK\r\n", known])
    assert [body for *_, body in seen] == [b"ok", b"ok", b"ok"]
    assert kept == 2
