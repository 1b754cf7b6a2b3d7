"""Slow, large and many: limits that hold for one client and harm no other."""

from __future__ import annotations

import time
from dataclasses import replace
from unittest.mock import Mock

import psutil
import pytest
from conformance_rig import HEAD, RawEngineProcess, Rig, chunked, gateway, model, play, request
from conformance_wire import until

from common.gateway.http.engine_connection import EngineConnection
from common.gateway.http.serving import Timeouts

OK = "HTTP/1.1 200 OK\r\n"
SHORT = Timeouts(head=0.5, body=0.5, idle=0.5, send=0.5, linger=0.5)
"""Looked at once a second, so that all of it is over within two."""


@pytest.mark.parametrize("size", [64 * 1024 + 100, 200_000, 2_000_000])
def test_a_head_that_is_too_large_is_431(shared: Rig, size: int) -> None:
    for data in (
        request("GET", "/v1/seen", b"X-Big: " + b"x" * size),
        request("GET", "/v1/seen", *[b"X-F: " + b"x" * 1000] * 120, b"X-Big: " + b"x" * size),
        b"GET /m/v1/seen HTTP/1.1\r\n" + b"x" * size + b": 1\r\n" + HEAD + b"\r\n",
    ):
        with shared.client() as client:
            client.send_as_far_as_wanted(data)
            answer = client.answer()
            assert (answer.status, answer.code) == (431, "headers_too_large")
            assert client.rest() == b""


def test_too_many_fields_are_431(shared: Rig) -> None:
    fields = [b"X-%d: y" % index for index in range(129)]
    assert shared.ask(request("GET", "/v1/seen", *fields)).status == 431
    assert shared.ask(request("GET", "/v1/seen", *fields[:120])).status == 200


@pytest.mark.parametrize("size", [8192, 60_000, 300_000])
def test_a_target_that_is_too_long_is_refused(shared: Rig, size: int) -> None:
    with shared.client() as client:
        client.send_as_far_as_wanted(request("GET", "/v1/" + "x" * size))
        assert client.answer().status in (414, 431)


def test_a_head_of_almost_the_limit_passes(shared: Rig) -> None:
    value = b"x" * 63_000
    seen = shared.ask(request("GET", "/v1/seen", b"X-Big: " + value)).json
    assert ["X-Big", value.decode()] in seen["fields"]


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("path", ["/m/v1/seen", "/v1/seen"])
def test_a_body_that_is_too_large_is_413(engine: RawEngineProcess, framing: str, path: str) -> None:
    blob = b'{"a": "' + b"x" * 1_000_000
    with gateway([model(engine)], max_body_bytes=500_000) as rig, rig.client() as client:
        head = f"POST {path} HTTP/1.1\r\n".encode() + HEAD
        if framing == "length":
            data = head + b"Content-Length: %d\r\n\r\n" % len(blob) + blob
        else:
            pieces = [blob[i : i + 50_000] for i in range(0, len(blob), 50_000)]
            data = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(pieces)
        client.send_as_far_as_wanted(data)
        answer = client.answer()
        assert (answer.status, answer.code) == (413, "body_too_large")
        assert not [e for e in engine.log() if e["what"] == "request"]
        until(rig.is_idle)


@pytest.mark.parametrize(
    "endless",
    [b"X-Trailer: 1\r\n", b"x", b"X-A: " + b"x" * 1000],
    ids=["many-trailers", "one-name", "one-value"],
)
def test_trailers_without_end_are_refused(shared: Rig, endless: bytes) -> None:
    with shared.client() as client:
        client.send(request(chunks=[b"hello"])[:-2])
        for _ in range(4_000_000 // len(endless) // 100):
            client.send_as_far_as_wanted(endless * 100)
            if not client.is_silent(0.0001):
                break
        assert client.answer().status == 431


def test_a_chunk_extension_without_end_is_refused(shared: Rig) -> None:
    with shared.client() as client:
        client.send(request(chunks=[b"hello"])[: -len(b"0\r\n\r\n")] + b"5;a=")
        for _ in range(400):
            client.send_as_far_as_wanted(b"x" * 10_000)
            if not client.is_silent(0.0001):
                break
        assert client.answer().status == 431


SLOW = {
    "nothing": b"",
    "line": b"GET /m/v1",
    "head": request()[:-2],
    "body": request(body=b"x" * 100)[:-50],
    "large-body": request(body=b"x" * 100_000)[:-50],
    "chunks": request(chunks=[b"x" * 10, b"y"])[:-8],
}


def test_slow_clients_are_cut_off_and_others_are_not(engine: RawEngineProcess) -> None:
    timeouts = replace(SHORT, idle=60)
    with gateway([model(engine)], timeouts=timeouts) as rig, rig.client() as other:
        clients = {name: rig.client() for name in SLOW}
        for name, data in SLOW.items():
            clients[name].send(data)
        ended: list[str] = []
        until(lambda: other.ask(request(body=b"x")).status == 200 and rig.in_flight() == 0, 10)
        for name, client in clients.items():
            if name == "nothing":
                assert client.rest() == b""
                continue
            answer = client.answer()
            ended.append(name)
            assert (answer.status, answer.code) == (408, "request_timeout"), name
            assert client.rest() == b""
            client.close()
        assert other.ask(request(body=b"x")).status == 200
        assert rig.results()[("refused", 408)] == 3


def test_a_client_that_sends_slowly_holds_no_place(engine: RawEngineProcess) -> None:
    with gateway([model(engine, max_concurrent_requests=1)]) as rig, rig.client() as slow:
        slow.send(request(body=b"slow")[:-2])
        until(lambda: rig.in_flight() == 1)
        assert rig.ask(request(body=b"other")).json["body"] == "other"
        slow.send(b"ow")
        assert slow.answer().json["body"] == "slow"


def test_a_head_in_drops_has_no_more_time_than_another(engine: RawEngineProcess) -> None:
    """Each byte comes in time; all of them together do not."""
    with gateway([model(engine)], timeouts=SHORT) as rig, rig.client() as client:
        data = request("GET", "/v1/seen", b"X-Long: " + b"x" * 10_000)
        began = time.monotonic()
        for byte in data:
            client.send_as_far_as_wanted(bytes([byte]))
            if not client.is_silent(0.05):
                break
        assert client.answer().status == 408
        assert time.monotonic() - began < 50


def test_an_idle_connection_is_closed_and_a_busy_one_is_not(engine: RawEngineProcess) -> None:
    with (
        gateway([model(engine)], timeouts=SHORT) as rig,
        rig.client() as idle,
        rig.client() as busy,
    ):
        assert idle.ask(request()).status == 200
        busy.send(request(path=play(["go", "busy"], ["send", f"{OK}Content-Length: 2\r\n\r\nok"])))
        engine.until("request")
        assert idle.rest() == b""
        time.sleep(0.6)
        engine.go("busy")
        assert busy.answer().body == b"ok"


def test_a_client_that_reads_nothing_is_cut_off_in_the_end(engine: RawEngineProcess) -> None:
    with gateway([model(engine)], timeouts=SHORT) as rig, rig.client(receive_buffer=4096) as client:
        head = f"{OK}Content-Length: 100000000\r\n\r\n"
        client.send(request(path=play(["send", head], ["repeat", "x" * 1000, 100_000]), body=b"x"))
        until(rig.is_idle)
        assert rig.results() == {("client_closed", 499): 1}


def test_memory_is_bounded_while_nobody_reads(rig: Rig, engine: RawEngineProcess) -> None:
    process = psutil.Process()
    head = f"{OK}Transfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
    chunk = f"3e8\r\n{'x' * 1000}\r\n"
    path = play(["send", head], ["repeat", chunk, 10_486], ["send", "0\r\n\r\n"])
    clients = [rig.client(receive_buffer=16_384) for _ in range(64)]
    before = process.memory_info().rss
    for client in clients:
        client.send(request(path=path, body=b"x"))
    until(lambda: rig.in_flight() == 64)
    largest = before
    for _ in range(20):
        time.sleep(0.05)
        largest = max(largest, process.memory_info().rss)
    assert rig.in_flight() == 64
    assert largest - before < 64 * 2**20  # of 640 MiB; a megabyte each at the very most
    whole = clients[0].answer()
    assert (len(whole.body), whole.is_whole) == (10_486_000, True)
    for client in clients:
        client.close()
    until(rig.is_idle)


def test_an_engine_connection_that_was_held_back_reads_again_for_the_next_request() -> None:
    """Its answer may be complete while the client still reads slowly, and so may another's begin."""
    transport = Mock()
    connection = EngineConnection(Mock())
    connection.connection_made(transport)
    connection.pause()
    connection.release()
    transport.resume_reading.assert_called_once_with()


def test_ten_thousand_connections_opened_and_dropped(rig: Rig) -> None:
    descriptors = psutil.Process().num_fds()
    began = time.monotonic()
    beginnings = [
        b"",
        b"G",
        b"GET /m/v1/seen HTTP/1.1\r\nHost",
        request(body=b"x")[:-1],
        b"\x16\x03",
    ]
    for start in range(0, 10_000, 200):
        clients = [rig.client() for _ in range(200)]
        for index, client in enumerate(clients, start):
            client.send(beginnings[index % 5])
            if index % 3:
                client.reset()
            else:
                client.close()
    assert rig.ask(request(body=b"x")).status == 200
    until(rig.is_idle)
    until(lambda: psutil.Process().num_fds() <= descriptors + 2)
    assert time.monotonic() - began < 60


def test_guessed_keys_open_nothing_and_slow_nobody_down(rig: Rig) -> None:
    before = psutil.Process().memory_info().rss
    with rig.client() as guessing, rig.client() as other:
        for index in range(2000):
            data = request(body=b"x").replace(b"test-key-1", b"guess%05d" % index)
            answer = guessing.ask(data)
            assert (answer.status, answer.get("WWW-Authenticate")) == (401, "Bearer")
            if index % 200 == 0:
                assert other.ask(request(body=b"x")).status == 200
    assert rig.results() == {("ok", 200): 10}
    assert psutil.Process().memory_info().rss - before < 16 * 2**20


def test_a_full_model_refuses_with_a_time_to_come_again(engine: RawEngineProcess) -> None:
    models = [model(engine, max_concurrent_requests=2)]
    with gateway(models) as rig:
        busy = [rig.client() for _ in range(2)]
        for client in busy:
            client.send(
                request(path=play(["go", "full"], ["send", f"{OK}Content-Length: 0\r\n\r\n"]))
            )
        until(lambda: rig.in_flight() == 2)
        for _ in range(100):
            answer = rig.ask(request(body=b"x"))
            assert answer.status == 429
            assert int(answer.get("Retry-After") or 0) >= 1
        engine.go("full")
        for client in busy:
            assert client.answer().status == 200
            client.close()
        assert rig.ask(request(body=b"x")).status == 200


@pytest.mark.parametrize("jump_s", [-86_400 * 365, 86_400 * 365])
def test_a_wall_clock_that_jumps_changes_nothing(
    engine: RawEngineProcess, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    real = time.time
    with gateway([model(engine)]) as rig, rig.client() as client, rig.client() as idle:
        assert idle.ask(request()).status == 200
        path = play(["send", f"{OK}Content-Length: 2\r\n\r\no"], ["go", "clock"], ["send", "k"])
        client.send(request(path=path))
        engine.until("request")
        monkeypatch.setattr(time, "time", lambda: real() + jump_s)
        time.sleep(1.1)  # the gateway looks at its time-outs
        engine.go("clock")
        assert client.answer().body == b"ok"
        assert idle.ask(request(body=b"x")).status == 200
        totals = rig.totals("m")
        assert 0 <= totals.latency.sum < 60
