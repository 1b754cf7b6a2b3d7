"""Bodies both ways: the same bytes, whatever their framing and however they are cut."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest
from conformance_rig import (
    HEAD,
    RawEngineProcess,
    Rig,
    chunked,
    gateway,
    model,
    play,
    request,
    said,
)

OK = "HTTP/1.1 200 OK\r\n"
BLOB = random.Random(1).randbytes(300_000)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 300_000])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_request_body_reaches_the_engine_as_it_was(shared: Rig, size: int, framing: str) -> None:
    blob = BLOB[:size]
    pieces = [blob[i : i + 10_000] for i in range(0, size, 10_000)]
    data = request(body=blob) if framing == "length" else request(chunks=pieces)
    seen = shared.ask(data).json
    assert seen["body"].encode("latin-1") == blob


@pytest.mark.parametrize("size", [0, 1, 65536, 300_000, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunks", "end"])
def test_an_answer_reaches_the_client_as_it_was(shared: Rig, size: int, framing: str) -> None:
    block = "0123456789abcdef" * 64
    times, rest = divmod(size, len(block))
    head = {
        "length": f"Content-Length: {size}\r\n",
        "chunks": "Transfer-Encoding: chunked\r\n",
        "end": "Connection: close\r\n",
    }[framing]
    steps: list[list[object]] = [["send", f"{OK}{head}\r\n"]]
    if framing == "chunks":
        steps.append(["repeat", f"{len(block):x}\r\n{block}\r\n", times])
        steps.append(["send", chunked([b"x" * rest] if rest else []).decode()])
    else:
        steps += [["repeat", block, times], ["send", "x" * rest]]
    if framing == "end":
        steps.append(["close"])
    answer = shared.ask(request("GET", play(*steps)))
    assert answer.is_whole
    assert answer.body == (block * times + "x" * rest).encode()
    assert answer.get("Content-Length") == (str(size) if framing == "length" else None)


@pytest.mark.parametrize(
    "data",
    [
        request("POST", "/v1/seen", b"X-Field: value", body=b'{"a": 1}'),
        request("POST", "/v1/seen", b"X-Field: value", chunks=[b"first", b"s"]),
        request("GET", "/v1/seen?query=1"),
        request("GET", "/v1/seen", b"Connection: Upgrade", b"Upgrade: h2c"),
        request("POST", "/v1/seen", b"Connection: Upgrade", b"Upgrade: h2c", body=b"abc"),
        request("POST", "/v1/seen", b"Connection: Upgrade", b"Upgrade: h2c", chunks=[b"abc"]),
    ],
    ids=["length", "chunks", "none", "upgrade", "upgrade-length", "upgrade-chunks"],
)
def test_a_request_means_the_same_wherever_it_is_cut(shared: Rig, data: bytes) -> None:
    with shared.client() as client:
        expected = essence(client.ask(data).json)
        for cut in range(1, len(data)):
            client.send(data[:cut])
            assert client.is_silent(0.002)
            client.send(data[cut:])
            assert essence(client.answer().json) == expected, cut


def essence(seen: dict[str, Any]) -> list[Any]:
    """What an engine's answer depends on: a short chunked body may come with a length or not."""
    own = ("X-Request-Id", "Content-Length", "Transfer-Encoding")
    fields = [field for field in seen["fields"] if field[0] not in own]
    return [seen["method"], seen["target"], seen["body"], fields]


def test_a_request_in_single_bytes(shared: Rig) -> None:
    data = request(chunks=[b"one", b"two", b"three"])
    with shared.client() as client:
        client.send(*(data[i : i + 1] for i in range(len(data))))
        assert client.answer().json["body"] == "onetwothree"


ENGINE_ANSWERS = {
    "length": f"{OK}Content-Length: 5\r\nX-Field: value\r\n\r\nhello",
    "chunks": f"{OK}Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\nT: 1\r\n\r\n",
    "interim": f"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{OK}Content-Length: 5\r\n\r\nhello",
    "events": f"{OK}Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    "5\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("text", ENGINE_ANSWERS.values(), ids=ENGINE_ANSWERS)
def test_an_answer_means_the_same_wherever_it_is_cut(shared: Rig, text: str) -> None:
    with shared.client() as client:
        for cut in range(1, len(text), 1 if len(text) < 100 else 2):
            path = play(["send", text[:cut]], ["sleep", 0.001], ["send", text[cut:]])
            answer = client.ask(request("GET", path))
            assert (answer.status, answer.body, answer.is_whole) == (200, b"hello", True), cut


def test_chunk_extensions_and_trailers_end_at_the_gateway(shared: Rig) -> None:
    body = b'5;name="va;lue"\r\nhello\r\n0;last\r\nX-Trailer: 1\r\n\r\n'
    data = request("POST", "/v1/seen", b"Trailer: X-Trailer", b"Transfer-Encoding: chunked")
    data = data.replace(b"Content-Length: 0\r\n", b"") + body
    with shared.client() as client:
        seen = client.ask(data).json
        assert seen["body"] == "hello"
        names = {name.lower() for name, _ in seen["fields"]}
        assert not names & {"trailer", "x-trailer"}
        assert client.is_open()


def test_a_streamed_upload_reaches_the_engine_while_it_is_sent(
    shared: Rig, engine: RawEngineProcess
) -> None:
    with shared.client() as client:
        client.send(request(chunks=[])[: -len(b"0\r\n\r\n")])
        client.send(b"5\r\nhello\r\n")
        engine.until("head")
        client.send(b"5\r\nworld\r\n0\r\n\r\n")
        assert client.answer().json["body"] == "helloworld"


def test_an_upload_waits_in_the_client_when_the_engine_does_not_read(
    engine: RawEngineProcess,
) -> None:
    size = 60_000_000  # more than sockets hold
    head = f"POST /m{play(['unread'], ['forever'])} HTTP/1.1\r\nContent-Length: {size}\r\n"
    with gateway([model(engine)], max_body_bytes=size) as rig, rig.client() as client:
        client.send(head.encode() + HEAD + b"\r\n")
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.send(b"x" * size)


def multipart(position: str, filling: int) -> tuple[bytes, bytes]:
    boundary = b"=_b"
    name = b'--%b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n' % boundary
    file = (
        b'--%b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n%b\r\n" % (boundary, b"\x00\xff\r\n--" * (filling // 6))
    )
    parts = name + file if position == "first" else file + name
    return b'Content-Type: multipart/form-data; boundary="=_b"', parts + b"--%b--\r\n" % boundary


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize(
    ("position", "filling"), [("first", 100), ("last", 100), ("last", 10 << 20)]
)
def test_a_form_finds_its_model_wherever_its_field_stands(
    engine: RawEngineProcess, position: str, filling: int, framing: str
) -> None:
    field, body = multipart(position, filling)
    path = "/v1/audio/transcriptions"
    models = [model(engine, "other"), model(engine)]
    with gateway(models, max_body_bytes=16 << 20) as rig:
        head = b"POST %b HTTP/1.1\r\n%b%b\r\n" % (path.encode(), HEAD, field)
        if framing == "length":
            data = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        else:
            pieces = [body[i : i + 100_000] for i in range(0, len(body), 100_000)]
            data = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(pieces)
        seen = rig.ask(data).json["body"].encode("latin-1")
        assert hashlib.sha256(seen).digest() == hashlib.sha256(body).digest()
        assert rig.results() == {("ok", 200): 1}


@pytest.mark.parametrize(
    ("status", "length"), [(204, ""), (304, ""), (304, "Content-Length: 5\r\n")]
)
def test_an_answer_without_a_body_by_its_status(shared: Rig, status: int, length: str) -> None:
    with shared.client() as client:
        for _ in range(2):
            answer = client.ask(
                request("GET", said(f"HTTP/1.1 {status} Quiet\r\nETag: 1\r\n{length}\r\n"))
            )
            assert (answer.status, answer.reason, answer.get("ETag")) == (status, "Quiet", "1")
            assert answer.get("Transfer-Encoding") is None
            assert answer.get("Content-Length") == (length[16:-2] or None)
        assert client.is_open()


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_the_answer_to_a_head_has_no_body(shared: Rig, framing: str) -> None:
    with shared.client() as client:
        for _ in range(2):
            path = said(f"{OK}{framing}\r\nX-Field: 1\r\n\r\n")
            answer = client.ask(request("HEAD", path), method="HEAD")
            assert (answer.status, answer.get("X-Field")) == (200, "1")
            assert client.is_silent()
        assert client.ask(request(body=b"after")).json["body"] == "after"


def test_interim_answers_are_not_the_answer(shared: Rig) -> None:
    text = f"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{OK}"
    answer = shared.ask(request("POST", said(f"{text}Content-Length: 2\r\n\r\nok"), body=b"x"))
    assert (answer.status, answer.body, answer.get("Link")) == (200, b"ok", None)


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_100_continue_comes_when_the_body_is_wanted_and_no_sooner(
    engine: RawEngineProcess, framing: bytes
) -> None:
    with gateway([model(engine, status="sleeping")]) as rig, rig.client() as client:
        body = b"hello" if b"Length" in framing else chunked([b"hello"])
        client.send(b"POST /m/v1/seen HTTP/1.1\r\n" + HEAD + b"Expect: 100-continue\r\n" + framing)
        client.send(b"\r\n\r\n")
        assert client.interim() == 100
        client.send(body)
        rig.become("m", "ready")
        answer = client.answer()
        assert (answer.json["body"], answer.interim) == ("hello", [])
        assert not [n for n, _ in answer.json["fields"] if n.lower() == "expect"]


@pytest.mark.parametrize(
    ("path", "field", "status"),
    [
        ("/m/v1/seen", b"X-Api-Key: wrong", 401),
        ("/nowhere", HEAD[9:-2], 404),
        ("/m/v1/seen", HEAD[9:-2] + b"\r\nExpect: 200-ok", 417),
    ],
)
def test_what_is_refused_gets_no_100(shared: Rig, path: str, field: bytes, status: int) -> None:
    with shared.client() as client:
        client.send(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n".encode()
            + (b"" if status == 417 else b"Expect: 100-continue\r\n")
            + field
            + b"\r\n\r\n"
        )
        answer = client.answer()
        assert (answer.status, answer.interim) == (status, [])
        assert answer.get("Connection") == "close"  # who sends the body nevertheless is not misread


def test_a_body_that_is_sent_without_waiting_for_100_needs_none(shared: Rig) -> None:
    with shared.client() as client:
        answer = client.ask(request("POST", "/v1/seen", b"Expect: 100-continue", body=b"hello"))
        assert (answer.json["body"], answer.interim) == ("hello", [])
