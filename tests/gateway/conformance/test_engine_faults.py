"""Engines that answer wrongly, break off or die: told to the client, never to another one."""

from __future__ import annotations

import pytest
from conformance_rig import RawEngineProcess, Rig, play, request, said
from conformance_wire import until

OK = "HTTP/1.1 200 OK\r\n"
LENGTH_5 = f"{OK}Content-Length: 5\r\n\r\n"
CHUNKED = f"{OK}Transfer-Encoding: chunked\r\n\r\n"

NO_ANSWER = {
    "garbage": "this is no HTTP\r\n\r\n",
    "zeros": "\0" * 64,
    "tls": "\x15\x03\x01\x00\x02\x02\x28",
    "request": "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "version": "HTTP/3.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status-word": "HTTP/1.1 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status-short": "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status-long": "HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status-101": "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello",
    "cl-te": f"{OK}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "te-cl": f"{OK}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "cl-twice": f"{OK}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "cl-list": f"{OK}Content-Length: 5, 5\r\n\r\nhello",
    "cl-minus": f"{OK}Content-Length: -5\r\n\r\nhello",
    "cl-plus": f"{OK}Content-Length: +5\r\n\r\nhello",
    "cl-empty": f"{OK}Content-Length:\r\n\r\nhello",
    "cl-huge": f"{OK}Content-Length: 99999999999999999999999\r\n\r\nhello",
    "te-gzip": f"{OK}Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "te-twice": f"{OK}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "te-identity": f"{OK}Transfer-Encoding: identity\r\n\r\nhello",
    "lf-lines": LENGTH_5.replace("\r\n", "\n") + "hello",
    "fold": f"{OK}A: 1\r\n 2\r\nContent-Length: 5\r\n\r\nhello",
    "nul-in-value": f"{OK}A: 1\x002\r\nContent-Length: 5\r\n\r\nhello",
    "cr-in-value": f"{OK}A: 1\rB: 2\r\nContent-Length: 5\r\n\r\nhello",
    "space-in-name": f"{OK}A B: 2\r\nContent-Length: 5\r\n\r\nhello",
    "cr-in-reason": "HTTP/1.1 200 O\rSet-Cookie: a=b\r\nContent-Length: 5\r\n\r\nhello",
    "head-too-long": f"{OK}A: {'x'}\r\nContent-Length: 5\r\n\r\nhello",
    "head-too-long-but-whole": "",
    "interim-without-end": "HTTP/1.1 103 Early Hints\r\n\r\n" * 20_000,
    "nothing": "",
    "half-a-line": "HTTP/1.1 20",
    "half-a-head": f"{OK}Content-Le",
    "interim-only": "HTTP/1.1 100 Continue\r\n\r\n",
}


def answers_nothing(rig: Rig) -> None:
    """Check that the next requests, on old and new connections, get their own answers."""
    with rig.client() as client:
        for index in range(3):
            answer = client.ask(request(body=b"%d" % index))
            assert (answer.status, answer.json["body"]) == (200, str(index))


def body_of(name: str, text: str) -> list[list[object]]:
    """Send a text; a path cannot carry a long one."""
    if name == "head-too-long":
        return [["send", f"{OK}A: "], ["repeat", "x" * 1000, 2000], ["send", "\r\n\r\n"]]
    if name == "head-too-long-but-whole":
        return [["send", f"{OK}A: "], ["repeat", "x" * 1000, 300], ["send", "\r\n\r\n"]]
    if name == "interim-without-end":
        return [["repeat", "HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n", 20_000]]
    return [["send", text]]


@pytest.mark.parametrize("end", ["close", "sleep"])
@pytest.mark.parametrize("name", NO_ANSWER)
def test_what_is_no_answer_becomes_502(rig: Rig, name: str, end: str) -> None:
    steps = body_of(name, NO_ANSWER[name])
    waits = name in ("nothing", "half-a-line", "half-a-head", "interim-only", "interim-without-end")
    after: list[list[object]] = [["close"]] if end == "close" or waits else [["forever"]]
    with rig.client() as client:
        for index in range(2):
            answer = client.ask(request("POST", play(*steps, *after), body=b"x"))
            assert (answer.status, answer.code) == (502, "engine_crashed")
            assert answer.is_whole
            assert client.ask(request(body=b"%d" % index)).json["body"] == str(index)
    assert rig.results() == {("engine_died", 502): 2, ("ok", 200): 2}
    until(rig.is_idle)


TRUNCATED = {
    "length": f"{LENGTH_5}hell",
    "length-nothing": LENGTH_5,
    "chunk": f"{CHUNKED}5\r\nhell",
    "chunk-size": f"{CHUNKED}5\r\nhello\r\n",
    "chunk-no-end": f"{CHUNKED}5\r\nhello\r\n0\r\n",
    "chunk-bad-size": f"{CHUNKED}5\r\nhello\r\nxyz\r\n",
    "chunk-bad-end": f"{CHUNKED}5\r\nhelloo\r\n0\r\n\r\n",
    "chunk-negative": f"{CHUNKED}5\r\nhello\r\n-5\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("text", TRUNCATED.values(), ids=TRUNCATED)
def test_an_answer_that_breaks_off_does_not_look_whole(rig: Rig, text: str, end: str) -> None:
    with rig.client() as client:
        answer = client.ask(request("POST", said(text, ["sleep", 0.01], [end]), body=b"x"))
        if answer.status == 502:  # nothing of it was out yet
            assert answer.code == "engine_crashed"
        else:
            assert (answer.status, answer.is_whole) == (200, False)
            assert answer.body in (b"", b"hell", b"hello")
            assert client.rest() == b""
    answers_nothing(rig)
    assert rig.totals("m").requests == 4
    assert {outcome for outcome, _ in rig.results()} == {"engine_died", "ok"}


EXTRA = {
    "garbage": "garbage",
    "one-byte": "H",
    "line": "\r\n",
    "half-an-answer": "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nevi",
    "answer": "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nevil!!",
    "head": "HTTP/1.1 200 OK\r\nX-Evil: 1\r\n\r\n",
    "error": "HTTP/1.1 500 Evil\r\nContent-Length: 0\r\n\r\n",
    "interim": "HTTP/1.1 100 Continue\r\n\r\n",
    "chunk": "5\r\nevil!\r\n0\r\n\r\n",
}
COMPLETE = {
    "length": (f"{LENGTH_5}hello", "GET", b"hello"),
    "chunks": (f"{CHUNKED}5\r\nhello\r\n0\r\n\r\n", "GET", b"hello"),
    "no-content": ("HTTP/1.1 204 No Content\r\n\r\n", "GET", b""),
    "not-modified": ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET", b""),
    "head": (LENGTH_5, "HEAD", b""),
    "empty": (f"{OK}Content-Length: 0\r\n\r\n", "GET", b""),
}


@pytest.mark.parametrize("moment", ["at-once", "later"])
@pytest.mark.parametrize("extra", EXTRA.values(), ids=EXTRA)
@pytest.mark.parametrize(("text", "method", "body"), COMPLETE.values(), ids=COMPLETE)
def test_bytes_behind_an_answer_reach_nobody(
    rig: Rig, text: str, method: str, body: bytes, extra: str, moment: str
) -> None:
    if moment == "at-once":
        path = said(text + extra)
    else:
        path = play(["send", text], ["sleep", 0.01], ["send", extra])
    with rig.client() as client:
        answer = client.ask(request(method, path), method=method)
        expected = int(text[9:12])
        assert (answer.status, answer.body, answer.get("X-Evil")) == (expected, body, None)
        if moment == "later":
            assert client.is_silent(0.03)
        for index in range(3):
            following = client.ask(request(body=b"%d" % index))
            assert (following.status, following.json["body"]) == (200, str(index))
    assert rig.results() in ({("ok", 200): 4}, {("ok", expected): 1, ("ok", 200): 3})


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_kept_connection_that_died_is_replaced_once(
    rig: Rig, engine: RawEngineProcess, method: str
) -> None:
    """The engine closes while the connection is free, or with the request: no byte of an answer."""
    with rig.client() as client:
        for steps in ([["close"]], [["reset"]], [["sleep", 0.02], ["close"]]):
            first = client.ask(request("GET")).json["connection"]
            engine.log()
            answer = client.ask(
                request(method, play(*steps), body=b"x" if method == "POST" else b"")
            )
            assert (answer.status, answer.code) == (502, "engine_crashed")
            requests = [e["connection"] for e in engine.log() if e["what"] == "request"]
            assert len(requests) == 2  # the second time on a fresh one, and not a third time
            assert requests[0] == first
            assert requests[1] != first


def test_a_fresh_connection_that_died_is_not_replaced(rig: Rig, engine: RawEngineProcess) -> None:
    engine.log()
    assert rig.ask(request("POST", play(["close"]), body=b"x")).status == 502
    assert len([e for e in engine.log() if e["what"] == "request"]) == 1


@pytest.mark.parametrize("text", ["H", OK, "HTTP/1.1 100 Continue\r\n\r\n", LENGTH_5])
def test_nothing_is_sent_again_after_a_byte_of_an_answer(
    rig: Rig, engine: RawEngineProcess, text: str
) -> None:
    with rig.client() as client:
        assert client.ask(request("GET")).status == 200
        engine.log()
        client.send(request("POST", said(text, ["sleep", 0.01], ["close"]), body=b"x"))
        answer = client.answer()
        assert answer.status == 502 or not answer.is_whole
        assert len([e for e in engine.log() if e["what"] == "request"]) == 1


def test_a_streamed_upload_is_not_sent_again(rig: Rig, engine: RawEngineProcess) -> None:
    with rig.client() as client:
        assert client.ask(request("GET")).status == 200
        engine.log()
        data = request("POST", play(["unread"], ["reset"]), chunks=[b"first"])[: -len(b"0\r\n\r\n")]
        client.send(data)
        assert client.answer().status == 502
        assert len([e for e in engine.log() if e["what"] == "head"]) == 1


def test_kept_connections_that_the_engine_closed_cost_no_request(
    rig: Rig, engine: RawEngineProcess
) -> None:
    text = f"{OK}Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    text += "5\r\nhello\r\n0\r\n\r\n"
    with rig.client() as client:
        for index in range(50):
            assert client.ask(request("GET", said(text, ["close"]))).body == b"hello"
            assert client.ask(request(body=b"%d" % index)).json["body"] == str(index)
    assert rig.results() == {("ok", 200): 100}


def test_an_early_refusal_of_an_upload_reaches_the_client(rig: Rig) -> None:
    text = "HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nmuch"
    path = play(["unread"], ["send", text], ["forever"])
    with rig.client() as client:
        client.send(request("POST", path, chunks=[b"x" * 100_000])[: -len(b"0\r\n\r\n")])
        answer = client.answer()
        assert (answer.status, answer.body) == (413, b"much")
        answers_nothing(rig)
