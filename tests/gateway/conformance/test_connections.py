"""Connections of clients: kept, closed, pipelined, and those of HTTP/1.0."""

from __future__ import annotations

import pytest
from conformance_rig import HEAD, RawEngineProcess, Rig, chunked, play, request, said
from conformance_wire import until

OK = "HTTP/1.1 200 OK\r\n"


def test_a_connection_carries_many_requests_of_all_kinds(shared: Rig) -> None:
    with shared.client() as client:
        for _ in range(20):
            assert client.ask(request(body=b"a")).json["body"] == "a"
            assert client.ask(request(chunks=[b"b", b"c"])).json["body"] == "bc"
            assert client.ask(request("GET")).status == 200
            assert client.ask(request("HEAD"), method="HEAD").status == 200
            assert client.ask(request("GET", "/nowhere")).status == 404
            path = said(f"{OK}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
            assert client.ask(request("GET", path)).body == b"x"
            answer = client.ask(request("POST", "/v1/seen", body=b"x").replace(b"test-key", b"no"))
            assert answer.status == 401


def test_connections_to_the_engine_are_used_again(shared: Rig) -> None:
    with shared.client() as client:
        assert len({client.ask(request(body=b"a")).json["connection"] for _ in range(20)}) == 1


@pytest.mark.parametrize(
    "path", ["/v1/seen", "/nowhere", said(f"{OK}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")]
)
def test_connection_close_is_kept_to(shared: Rig, path: str) -> None:
    with shared.client() as client:
        answer = client.ask(request("GET", path, b"Connection: close"))
        assert answer.get("Connection") == "close"
        assert client.rest() == b""


def test_what_follows_a_last_request_is_not_read(shared: Rig, engine: RawEngineProcess) -> None:
    with shared.client() as client:
        engine.log()
        client.send(request("GET", "/v1/seen", b"Connection: close") + request("GET", "/v1/second"))
        assert client.answer().status == 200
        assert client.rest() == b""
        assert [e["target"] for e in engine.log() if e["what"] == "request"] == ["/v1/seen"]


@pytest.mark.parametrize("keep", [b"keep-alive", b"Keep-Alive", b"close", None])
@pytest.mark.parametrize("has_length", [True, False])
def test_http_1_0(shared: Rig, keep: bytes | None, has_length: bool) -> None:
    fields = [] if keep is None else [b"Connection: " + keep]
    framing = "Content-Length: 2\r\n\r\nok" if has_length else "\r\n2\r\nok\r\n0\r\n\r\n"
    coding = "" if has_length else "Transfer-Encoding: chunked\r\n"
    with shared.client() as client:
        data = request(
            "GET", said(f"{OK}{coding}{framing.lstrip() if not has_length else framing}"), *fields
        )
        data = data.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: x\r\n", b"")
        if not has_length:
            data = request(
                "GET", said(f"{OK}{coding}\r\n2\r\nok\r\n0\r\n\r\n"), *fields, version=b"HTTP/1.0"
            )
        answer = client.ask(data)
        assert (answer.body, answer.get("Transfer-Encoding")) == (b"ok", None)
        if has_length and keep is not None and keep.lower() == b"keep-alive":
            assert (answer.get("Connection") or "").lower() == "keep-alive"
            assert client.is_open()
        else:
            assert answer.get("Connection") == "close"
            assert client.rest() == b""


def test_http_1_0_has_no_100_and_no_chunks(shared: Rig) -> None:
    version = b"HTTP/1.0"
    data = request("POST", "/v1/seen", b"Expect: 100-continue", body=b"hello", version=version)
    answer = shared.ask(data)
    assert (answer.json["body"], answer.interim) == ("hello", [])
    assert shared.ask(request(chunks=[b"x"], version=version)).status == 400


@pytest.mark.parametrize("version", [b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/3", b"http/1.1"])
def test_other_versions_are_refused(shared: Rig, version: bytes) -> None:
    answer = shared.ask(request("GET", version=version))
    assert answer.status in (400, 505)
    assert answer.get("Connection") == "close"


def test_answers_to_pipelined_requests_come_in_order(shared: Rig) -> None:
    with shared.client() as client:
        slow = play(["sleep", 0.2], ["send", f"{OK}Content-Length: 4\r\n\r\nslow"])
        requests = [
            request("GET", slow),
            request(body=b"one"),
            request("GET", "/nowhere"),
            request(chunks=[b"t", b"wo"]),
            request("HEAD"),
            request(body=b"three" * 50_000),
            request("GET", said(f"{OK}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")),
        ]
        client.send(b"".join(requests))
        assert client.answer().body == b"slow"
        assert client.answer().json["body"] == "one"
        assert client.answer().status == 404
        assert client.answer().json["body"] == "two"
        assert client.answer("HEAD").status == 200
        assert client.answer().json["body"] == "three" * 50_000
        assert client.answer().body == b"x"
        assert client.is_open()


def test_a_pipelined_request_is_not_begun_before_its_turn(
    shared: Rig, engine: RawEngineProcess
) -> None:
    with shared.client() as client:
        engine.log()
        path = play(["go", "first-turn"], ["send", f"{OK}Content-Length: 0\r\n\r\n"])
        client.send(request("GET", path) + request("GET", "/v1/second"))
        engine.until("request")
        assert client.is_silent()
        assert not [e for e in engine.log() if e["target"] == "/v1/second"]
        engine.go("first-turn")
        assert client.answer().status == 200
        assert client.answer().json["target"] == "/v1/second"


def test_pipelined_requests_of_a_client_that_left_are_counted(rig: Rig) -> None:
    with rig.client() as client:
        client.send(request("GET", play(["forever"])) + request("GET") * 3)
        until(lambda: not rig.is_idle())
    until(rig.is_idle)
    # The later ones were for no model yet.
    results = rig.recorder.snapshot().models
    assert results["m"].results == {("client_closed", 499): 1}
    assert results[""].results == {("client_closed", 499): 3}


def test_pipelined_requests_cut_anywhere(shared: Rig) -> None:
    one = request("POST", "/v1/a", body=b"1") + request("POST", "/v1/b", chunks=[b"22", b"3"])
    with shared.client() as client:
        for cut in range(1, len(one), 3):
            client.send(one[:cut])
            if cut % 2:
                client.is_silent(0.001)
            client.send(one[cut:])
            first, second = client.answer().json, client.answer().json
            assert (first["target"], first["body"]) == ("/v1/a", "1")
            assert (second["target"], second["body"]) == ("/v1/b", "223")


@pytest.mark.parametrize("size", [65_000, 65_500, 66_000, 131_000, 200_000])
def test_a_head_behind_a_large_body_is_not_taken_for_a_large_head(shared: Rig, size: int) -> None:
    first, second = request(body=b"x" * size), request(body=b"second")
    with shared.client() as client:
        client.send(first + second[:-20])
        assert client.answer().json["body"] == "x" * size
        client.send(second[-20:])
        assert client.answer().json["body"] == "second"
        client.send(first + second[:-6])
        assert client.answer().json["body"] == "x" * size
        client.send(second[-6:])
        assert client.answer().json["body"] == "second"


def test_many_pipelined_requests_are_answered_or_refused_in_order(shared: Rig) -> None:
    with shared.client() as client:
        client.send_as_far_as_wanted(b"".join(request("GET", f"/v1/n{i}") for i in range(2000)))
        for index in range(2000):
            answer = client.answer()
            if answer.status == 400:  # so many at once are no use
                assert index >= 60
                assert client.rest() == b""
                break
            assert answer.json["target"] == f"/v1/n{index}"


def test_an_error_in_a_pipeline_comes_after_the_answers_before_it(shared: Rig) -> None:
    with shared.client() as client:
        slow = play(["sleep", 0.1], ["send", f"{OK}Content-Length: 4\r\n\r\nslow"])
        client.send(request("GET", slow) + request(body=b"one") + b"NO HTTP\r\n\r\n")
        assert client.answer().body == b"slow"
        assert client.answer().json["body"] == "one"
        answer = client.answer()
        assert (answer.status, answer.get("Connection")) == (400, "close")
        assert client.rest() == b""


@pytest.mark.parametrize("size", [5, 100_000, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_refusal_during_an_upload_is_readable(shared: Rig, size: int, framing: str) -> None:
    blob = b"x" * size
    data = request("POST", body=blob) if framing == "length" else request(chunks=[blob])
    with shared.client() as client:
        client.send_as_far_as_wanted(data.replace(b"test-key", b"no"))
        answer = client.answer()
        assert (answer.status, answer.is_whole) == (401, True)
        if answer.get("Connection") != "close":
            assert client.is_open()
        else:
            assert client.rest() == b""


def test_empty_lines_before_a_request_are_skipped(shared: Rig) -> None:
    with shared.client() as client:
        assert client.ask(b"\r\n\r\n" + request("GET")).status == 200
        assert client.ask(b"\r\n" + request(body=b"x")).json["body"] == "x"


def test_the_body_of_an_answered_request_is_not_a_request(
    shared: Rig, engine: RawEngineProcess
) -> None:
    """The engine answers before it has read: the rest of the upload is still no request."""
    hidden = request("GET", "/v1/hidden")
    path = play(["unread"], ["send", f"{OK}Content-Length: 2\r\n\r\nok"], ["forever"])
    for framing in ("length", "chunks"):
        with shared.client() as client:
            engine.log()
            blob = hidden * 3000
            line = f"POST /m{path} HTTP/1.1\r\n".encode() + HEAD
            if framing == "length":
                client.send(line + b"Content-Length: %d\r\n\r\n" % len(blob))
                rest = blob
            else:
                client.send(line + b"Transfer-Encoding: chunked\r\n\r\n")
                rest = chunked([hidden] * 3000)
            client.send(rest[:70_000])
            answer = client.answer()
            assert answer.body == b"ok"
            client.send_as_far_as_wanted(rest[70_000:])
            if answer.get("Connection") != "close":
                assert client.is_open()
            else:
                assert client.rest() == b""
            assert not [e for e in engine.log() if e.get("target") == "/v1/hidden"]


def test_a_refused_upload_does_not_stop_its_connection(shared: Rig) -> None:
    with shared.client() as client:
        for size in (100_000, 265_000, 300_000, 400_000, 600_000):
            for _ in range(3):
                refused = request("POST", "/nowhere", body=b"x" * size)
                client.send(refused)
                assert client.answer().status == 404
                assert client.ask(request(body=b"next")).json["body"] == "next"
