"""Requests that two readers could take for different ones: refused, and nothing hidden gets through."""

from __future__ import annotations

import pytest
from conformance_rig import HEAD, RawEngineProcess, Rig, request

HIDDEN = b"GET /m/v1/hidden HTTP/1.1\r\n" + HEAD + b"\r\n"
LINE = b"POST /m/v1/seen HTTP/1.1\r\n"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"


def head(*lines: bytes, start: bytes = LINE) -> bytes:
    return start + HEAD + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def chunked(body: bytes) -> bytes:
    return head(b"Transfer-Encoding: chunked") + body


REFUSED = {
    # Two framings.
    "cl.te": head(b"Content-Length: 15", b"Transfer-Encoding: chunked") + CHUNKS,
    "te.cl": head(b"Transfer-Encoding: chunked", b"Content-Length: 3") + CHUNKS,
    "te.cl-0": head(b"Transfer-Encoding: chunked", b"Content-Length: 0") + CHUNKS,
    "te-identity.cl": head(b"Transfer-Encoding: identity", b"Content-Length: 5") + b"hello",
    "te-spelled.cl": head(b"transfer-ENCODING: CHUNKED", b"Content-Length: 15") + CHUNKS,
    "te-folded.cl": head(b"Transfer-Encoding:\r\n chunked", b"Content-Length: 15") + CHUNKS,
    "te-upgrade.cl": head(
        b"Connection: Upgrade", b"Upgrade: x", b"Transfer-Encoding: chunked", b"Content-Length: 3"
    )
    + CHUNKS,
    # Transfer codings that somebody may read as chunked, or not.
    "te-gzip": head(b"Transfer-Encoding: gzip") + CHUNKS,
    "te-identity": head(b"Transfer-Encoding: identity") + CHUNKS,
    "te-empty": head(b"Transfer-Encoding:") + CHUNKS,
    "te-gzip-chunked": head(b"Transfer-Encoding: gzip, chunked") + CHUNKS,
    "te-chunked-gzip": head(b"Transfer-Encoding: chunked, gzip") + CHUNKS,
    "te-chunked-identity": head(b"Transfer-Encoding: chunked, identity") + CHUNKS,
    "te-twice-in-one": head(b"Transfer-Encoding: chunked, chunked") + CHUNKS,
    "te-twice": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + CHUNKS,
    "te-two-lines": head(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked") + CHUNKS,
    "te-chunked-then-other": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x") + CHUNKS,
    "te-x-chunked": head(b"Transfer-Encoding: xchunked") + CHUNKS,
    "te-quoted": head(b'Transfer-Encoding: "chunked"') + CHUNKS,
    "te-parameter": head(b"Transfer-Encoding: chunked;q=1") + CHUNKS,
    "te-comma": head(b"Transfer-Encoding: ,chunked") + CHUNKS,
    "te-vertical-tab": head(b"Transfer-Encoding: \x0bchunked") + CHUNKS,
    "te-form-feed": head(b"Transfer-Encoding: chunked\x0c") + CHUNKS,
    "te-nul": head(b"Transfer-Encoding: chunked\x00") + CHUNKS,
    "te-space-before-colon": head(b"Transfer-Encoding : chunked") + CHUNKS,
    "te-tab-before-colon": head(b"Transfer-Encoding\t: chunked") + CHUNKS,
    "te-http10": head(b"Transfer-Encoding: chunked", start=LINE.replace(b"1.1", b"1.0")) + CHUNKS,
    # Lengths.
    "cl-twice": head(b"Content-Length: 5", b"Content-Length: 6") + b"hello",
    "cl-twice-equal": head(b"Content-Length: 5", b"Content-Length: 5") + b"hello",
    "cl-list": head(b"Content-Length: 5, 6") + b"hello",
    "cl-list-equal": head(b"Content-Length: 5, 5") + b"hello",
    "cl-plus": head(b"Content-Length: +5") + b"hello",
    "cl-minus": head(b"Content-Length: -5") + b"hello",
    "cl-hex": head(b"Content-Length: 0x5") + b"hello",
    "cl-point": head(b"Content-Length: 5.0") + b"hello",
    "cl-exponent": head(b"Content-Length: 5e0") + b"hello",
    "cl-empty": head(b"Content-Length:") + b"hello",
    "cl-space": head(b"Content-Length: 1 5") + b"hello",
    "cl-underscore": head(b"Content-Length: 1_0") + b"helloworld",
    "cl-word": head(b"Content-Length: five") + b"hello",
    "cl-quoted": head(b'Content-Length: "5"') + b"hello",
    "cl-huge": head(b"Content-Length: 99999999999999999999999") + b"hello",
    "cl-2^64": head(b"Content-Length: 18446744073709551621") + b"hello",
    "cl-letters": head(b"Content-Length: 5\xa0") + b"hello",
    "cl-folded": head(b"Content-Length: 1\r\n 5") + b"hello",
    "cl-space-before-colon": head(b"Content-Length : 5") + b"hello",
    # Line ends and bytes that do not belong.
    "lf-lines": head().replace(b"\r\n", b"\n"),
    "lf-one-field": head(b"A: 1\nX-B: 2"),
    "lf-end": LINE + HEAD[:-2] + b"\r\n\n",
    "lf-start-line": LINE.replace(b"\r\n", b"\n") + HEAD + b"\r\n",
    "cr-lines": head().replace(b"\r\n", b"\r"),
    "cr-in-value": head(b"A: 1\rX-B: 2"),
    "cr-in-name": head(b"A\rB: 1"),
    "cr-cr-lf": head(b"A: 1\r"),
    "fold-space": head(b"A: 1\r\n 2"),
    "fold-tab": head(b"A: 1\r\n\t2"),
    "fold-first": LINE + b" " + HEAD + b"\r\n",
    "nul-in-value": head(b"A: 1\x002"),
    "nul-in-name": head(b"A\x00: 1"),
    "control-in-value": head(b"A: 1\x012"),
    "delete-in-value": head(b"A: 1\x7f"),
    "escape-in-value": head(b"A: \x1b[31m"),
    "space-in-name": head(b"A B: 1"),
    "no-colon": head(b"Abc"),
    "no-name": head(b": 1"),
    "bytes-in-name": head(b"\xc3\xa9: 1"),
    "parenthesis-in-name": head(b"A(b): 1"),
    # Start lines.
    "target-space": head(start=b"GET /m/v1/a b HTTP/1.1\r\n"),
    "target-nul": head(start=b"GET /m/v1/a\x00 HTTP/1.1\r\n"),
    "target-control": head(start=b"GET /m/v1/a\x01 HTTP/1.1\r\n"),
    "target-delete": head(start=b"GET /m/v1/a\x7f HTTP/1.1\r\n"),
    "target-tab": head(start=b"GET /m/v1/a\tb HTTP/1.1\r\n"),
    "target-cr": head(start=b"GET /m/v1/a\rb HTTP/1.1\r\n"),
    "target-none": head(start=b"GET  HTTP/1.1\r\n"),
    "line-no-version": head(start=b"GET /m/v1/seen\r\n"),
    "line-tab": head(start=b"GET\t/m/v1/seen\tHTTP/1.1\r\n"),
    "line-space-end": head(start=b"GET /m/v1/seen HTTP/1.1 \r\n"),
    "line-space-start": head(start=b" GET /m/v1/seen HTTP/1.1\r\n"),
    "line-version-long": head(start=b"GET /m/v1/seen HTTP/1.10\r\n"),
    "line-lower-method": head(start=b"get /m/v1/seen HTTP/1.1\r\n"),
    # Host.
    "host-none": LINE + HEAD[9:] + b"Content-Length: 0\r\n\r\n",
    "host-twice": head(b"Host: y", b"Content-Length: 0"),
    # Chunks.
    "chunk-empty-size": chunked(b"\r\nhello\r\n0\r\n\r\n"),
    "chunk-plus": chunked(b"+5\r\nhello\r\n0\r\n\r\n"),
    "chunk-minus": chunked(b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk-0x": chunked(b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk-space-before": chunked(b" 5\r\nhello\r\n0\r\n\r\n"),
    "chunk-space-after": chunked(b"5 \r\nhello\r\n0\r\n\r\n"),
    "chunk-not-hex": chunked(b"g\r\nhello\r\n0\r\n\r\n"),
    "chunk-underscore": chunked(b"0_5\r\nhello\r\n0\r\n\r\n"),
    "chunk-huge": chunked(b"fffffffffffffffff5\r\nhello\r\n0\r\n\r\n"),
    "chunk-2^64": chunked(b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "chunk-lf-after-size": chunked(b"5\nhello\r\n0\r\n\r\n"),
    "chunk-cr-after-size": chunked(b"5\rhello\r\n0\r\n\r\n"),
    "chunk-lf-after-data": chunked(b"5\r\nhello\n0\r\n\r\n"),
    "chunk-longer-than-said": chunked(b"5\r\nhelloo\r\n0\r\n\r\n"),
    "chunk-shorter-than-said": chunked(b"6\r\nhello\r\n0\r\n\r\n"),
    "chunk-lf-at-end": chunked(b"5\r\nhello\r\n0\n\n"),
    "chunk-extension-lf": chunked(b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    "chunk-extension-nul": chunked(b"5;a\x00\r\nhello\r\n0\r\n\r\n"),
    "chunk-trailer-no-name": chunked(b"5\r\nhello\r\n0\r\n: 1\r\n\r\n"),
    "chunk-trailer-te": chunked(b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "chunk-trailer-cl": chunked(b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n"),
    # Not HTTP at all.
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": bytes.fromhex("16030100a5010000a10303") + bytes(range(160)),
    "answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "zeros": bytes(100),
    "json": b'{"model": "m"}\r\n\r\n',
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_a_request_of_two_meanings_is_refused(
    shared: Rig, engine: RawEngineProcess, data: bytes
) -> None:
    engine.log()
    with shared.client() as client:
        client.send(data + HIDDEN)
        answer = client.answer()
        assert answer.status in (400, 413, 501, 505)
        assert answer.code
        assert answer.get("Connection") == "close"
        assert client.rest() == b""
    events = engine.log()
    assert not [e for e in events if e.get("target") == "/v1/hidden"], events
    assert not [e for e in events if e["what"] == "request"], events


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_it_is_refused_as_well_behind_proper_requests(
    shared: Rig, engine: RawEngineProcess, data: bytes
) -> None:
    """Whatever the gateway remembers of a connection's requests must not let another one through."""
    with shared.client() as client:
        for _ in range(3):
            client.send(head(b"Content-Length: 5") + b"hello")
            assert client.answer().json["body"] == "hello"
        engine.log()
        client.send(data + HIDDEN)
        assert client.answer().status in (400, 413, 501, 505)
        assert client.rest() == b""
    assert not [e for e in engine.log() if e["what"] == "request"]


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_it_is_refused_as_well_when_it_comes_in_small_pieces(
    shared: Rig, engine: RawEngineProcess, data: bytes
) -> None:
    engine.log()
    with shared.client() as client:
        data += HIDDEN
        for start in range(0, len(data), 7):
            client.send_as_far_as_wanted(data[start : start + 7])
        answer = client.answer()
        assert answer.status in (400, 413, 501, 505)
        assert client.rest() == b""
    events = engine.log()
    assert not [e for e in events if e.get("target") == "/v1/hidden"], events
    assert not [e for e in events if e["what"] == "request"], events


ACCEPTED = {
    "cl-leading-zeros": (head(b"Content-Length: 005") + b"hello", "hello"),
    "cl-spaces-around": (head(b"Content-Length:   5  ") + b"hello", "hello"),
    "te-spelled": (head(b"tRANSFER-eNCODING:\tChunked ") + CHUNKS, "hello"),
    "chunk-leading-zeros": (chunked(b"0005\r\nhello\r\n000\r\n\r\n"), "hello"),
    "chunk-capitals": (chunked(b"A\r\nhelloworld\r\n0\r\n\r\n"), "helloworld"),
    "chunk-extensions": (chunked(b'5;a=b;c="d e"\r\nhello\r\n0;x\r\n\r\n'), "hello"),
    "trailers": (chunked(b"5\r\nhello\r\n0\r\nX-A: 1\r\n\r\n"), "hello"),
    "get-with-body": (
        head(b"Content-Length: 5", start=b"GET /m/v1/seen HTTP/1.1\r\n") + b"hello",
        "hello",
    ),
    "line-two-spaces": (
        head(b"Content-Length: 5", start=b"POST  /m/v1/seen HTTP/1.1\r\n") + b"hello",
        "hello",
    ),
    "te-te": (head(b"TE: chunked", b"Content-Length: 5") + b"hello", "hello"),
    "obs-text": (head(b"X-A: \xff\xe9", b"Content-Length: 5") + b"hello", "hello"),
}


@pytest.mark.parametrize(("data", "body"), ACCEPTED.values(), ids=ACCEPTED)
def test_unusual_but_plain_requests_are_served(shared: Rig, data: bytes, body: str) -> None:
    with shared.client() as client:
        client.send(data + request(body=b"next"))
        assert client.answer().json["body"] == body
        assert client.answer().json["body"] == "next"
