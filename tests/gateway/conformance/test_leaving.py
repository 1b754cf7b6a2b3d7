"""A client that leaves, at any moment: its place is free, the engine is told, nothing is left."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from conformance_rig import HEAD, RawEngineProcess, Rig, gateway, model, play, request, said
from conformance_wire import Client, until
from gateway_harness import KEY

from common.gateway.auth import ApiKeyAuthenticator, Identity

EVENTS = (
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    'e\r\ndata: {"a":1}\n\r\n'
)
EMPTY = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
NEXT_CHUNK_S = 15.0
"""What the engine waits for: whoever is told of a departure before it was told at once."""

BIG = 60_000_000


class SlowAuthenticator(ApiKeyAuthenticator):
    """Has to ask somebody who never answers."""

    def known(self, secret: str | None) -> Identity | None:
        return None

    async def identify(self, secret: str | None) -> Identity | None:
        await asyncio.Event().wait()
        return None


@pytest.fixture
def rig(engine: RawEngineProcess) -> Iterator[Rig]:
    models = [
        model(engine),
        model(engine, "asleep", status="sleeping"),
        model(engine, "narrow", max_concurrent_requests=1, max_waiting_requests=4),
    ]
    with gateway(models, max_body_bytes=BIG) as own:
        yield own


def leave(client: Client, how: str) -> float:
    moment = time.monotonic()
    if how == "reset":
        client.reset()
    else:
        client.close()
    return moment


def gone(rig: Rig, results: dict[tuple[str, int], int], name: str = "m") -> None:
    """Check that nothing is left and that it was recorded."""
    until(rig.is_idle)
    assert rig.results(name) == results
    assert rig.call(lambda: rig.gateway.in_flight_of(name)) == 0
    assert rig.totals(name).in_flight == 0


LEFT = {("client_closed", 499): 1}
hows = pytest.mark.parametrize("how", ["close", "reset"])


@hows
@pytest.mark.parametrize(
    "data", [b"", b"GE", request()[:20], request()[:-2], request()[:-1]], ids=range(5)
)
def test_before_there_is_a_request(rig: Rig, data: bytes, how: str) -> None:
    descriptors = psutil.Process().num_fds()
    client = rig.client()
    client.send(data)
    time.sleep(0.01)
    leave(client, how)
    until(lambda: psutil.Process().num_fds() <= descriptors)
    gone(rig, {})


@hows
def test_while_its_key_is_looked_up(engine: RawEngineProcess, how: str) -> None:
    with gateway([model(engine)], authenticator=SlowAuthenticator(KEY)) as rig:
        client = rig.client()
        client.send(request(body=b"x"))
        until(lambda: bool(rig.tasks()))
        leave(client, how)
        until(rig.is_idle)


@hows
@pytest.mark.parametrize("stream", [b'{"stream": true}', b"{}"])
def test_while_its_model_wakes(rig: Rig, how: str, stream: bytes) -> None:
    upstream = rig.models["asleep"].upstream
    client = rig.client()
    client.send(request(body=stream, model="asleep"))
    until(lambda: upstream.waiters == 1)  # type: ignore[attr-defined]
    leave(client, how)
    until(lambda: upstream.waiters == 0)  # type: ignore[attr-defined]
    gone(rig, LEFT, "asleep")


@hows
def test_in_the_waiting_room(rig: Rig, engine: RawEngineProcess, how: str) -> None:
    with rig.client() as first, rig.client() as third:
        path = play(["go", f"room-{how}"], ["send", EMPTY])
        first.send(request("GET", path, model="narrow"))
        engine.until("request")
        client = rig.client()
        client.send(request(model="narrow"))
        until(lambda: rig.in_flight() == 2)
        third.send(request(body=b"third", model="narrow"))
        until(lambda: rig.in_flight() == 3)
        leave(client, how)
        until(lambda: rig.in_flight() == 2)
        engine.go(f"room-{how}")
        assert first.answer().status == 200
        assert third.answer().json["body"] == "third"
    gone(rig, LEFT | {("ok", 200): 2}, "narrow")


@hows
@pytest.mark.parametrize(
    "steps", [[], [["send", "HTTP/1.1 200 OK\r\n"]], [["send", EVENTS]]], ids=range(3)
)
def test_while_the_engine_works(
    rig: Rig, engine: RawEngineProcess, steps: list[list[object]], how: str
) -> None:
    path = play(*steps, ["sleep", NEXT_CHUNK_S], ["send", "end"], ["close"])
    client = rig.client()
    engine.log()
    client.send(request(path=path, body=b"x", model="narrow"))
    engine.until("request")
    if steps and steps[0][1] == EVENTS:
        client.until(b"data")
    moment = leave(client, how)
    assert engine.until("left", NEXT_CHUNK_S - 5)["at"] - moment < NEXT_CHUNK_S - 5
    gone(rig, LEFT, "narrow")
    assert rig.ask(request(body=b"x", model="narrow")).status == 200


@hows
def test_the_engine_is_told_at_once(rig: Rig, engine: RawEngineProcess, how: str) -> None:
    """The best of several: a busy machine delays one of them, a gateway that waits all."""
    times = []
    for _ in range(5):
        client = rig.client()
        client.send(request(path=play(["send", EVENTS], ["forever"]), body=b"x"))
        client.until(b"data")
        engine.log()
        moment = leave(client, how)
        times.append(engine.until("left")["at"] - moment)
    assert min(times) < 0.05


@hows
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 50000000", b"Content-Length: 1000", b"Transfer-Encoding: chunked"]
)
def test_during_its_upload(rig: Rig, engine: RawEngineProcess, framing: bytes, how: str) -> None:
    client = rig.client()
    client.send(
        b"POST /narrow/v1/seen HTTP/1.1\r\n" + HEAD + framing + b"\r\n\r\n1f4\r\n" + b"x" * 500
    )
    until(lambda: rig.in_flight() == 1)
    leave(client, how)
    gone(rig, LEFT, "narrow")
    assert rig.ask(request(body=b"x", model="narrow")).status == 200


def test_during_its_upload_to_an_engine_that_does_not_read(rig: Rig) -> None:
    """By a reset: an orderly close waits behind the bytes that nobody takes, and is seen by nobody."""
    client = rig.client()
    head = f"POST /narrow{play(['unread'], ['forever'])} HTTP/1.1\r\nContent-Length: {BIG}\r\n"
    client.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.send(head.encode() + HEAD + b"\r\n" + b"x" * BIG)
    client.reset()
    gone(rig, LEFT, "narrow")


@hows
def test_in_the_waiting_room_with_an_upload(rig: Rig, engine: RawEngineProcess, how: str) -> None:
    """Nothing more is read from a client that has sent so much: it is noticed nevertheless."""
    with rig.client() as first:
        first.send(request("GET", play(["go", f"upload-{how}"], ["send", EMPTY]), model="narrow"))
        engine.until("request")
        client = rig.client()
        client.send(request(body=b"x" * 1_000_000, model="narrow")[:-400_000])
        until(lambda: rig.in_flight() == 2)
        leave(client, how)
        until(lambda: rig.in_flight() == 1)
        engine.go(f"upload-{how}")
        assert first.answer().status == 200
    gone(rig, LEFT | {("ok", 200): 1}, "narrow")


@hows
def test_with_requests_waiting_behind_its_first(
    rig: Rig, engine: RawEngineProcess, how: str
) -> None:
    engine.log()
    client = rig.client()
    path = play(["sleep", NEXT_CHUNK_S], ["close"])
    client.send(request(path=path, body=b"x", model="narrow") + request("GET", "/v1/never") * 20)
    engine.until("request")
    leave(client, how)
    engine.until("left", NEXT_CHUNK_S - 5)
    gone(rig, LEFT, "narrow")
    assert not [e for e in engine.log() if e.get("target") == "/v1/never"]


@hows
def test_without_having_read_its_stream(rig: Rig, engine: RawEngineProcess, how: str) -> None:
    head = "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"
    client = rig.client(receive_buffer=4096)
    engine.log()
    path = play(["send", head], ["repeat", "x" * 1000, 100_000])
    client.send(request(path=path, body=b"x", model="narrow"))
    client.until(b"\r\n\r\n")
    time.sleep(0.3)
    leave(client, how)
    engine.until("left")
    gone(rig, LEFT, "narrow")


def test_a_model_that_wants_to_finish_does(engine: RawEngineProcess) -> None:
    with gateway([model(engine, cancel_on_disconnect=False)]) as rig:
        for text in (EVENTS, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"):
            client = rig.client()
            last = "0\r\n\r\n" if text == EVENTS else "llo"
            client.send(
                request(path=play(["send", text], ["go", last[:1]], ["send", last]), body=b"x")
            )
            client.until(b"\r\n\r\n")
            client.close()
            time.sleep(0.05)
            assert rig.in_flight() == 1
            engine.log()
            engine.go(last[:1])
            until(rig.is_idle)
            assert not [e for e in engine.log() if e["what"] == "left"]
        assert rig.results() == {("client_closed", 499): 2}


def test_own_routes_survive_it(rig: Rig) -> None:
    for path in ("/", "/health", "/metrics", "/v1/models", "/nowhere"):
        client = rig.client()
        client.send(f"GET {path} HTTP/1.1\r\n".encode() + HEAD + b"\r\n")
        client.close()
    until(rig.is_idle)


def test_a_client_that_closes_one_direction_is_gone(rig: Rig, engine: RawEngineProcess) -> None:
    with rig.client() as client:
        engine.log()
        client.send(request(path=play(["forever"]), body=b"x"))
        engine.until("request")
        client.socket.shutdown(socket.SHUT_WR)
        engine.until("left")
        assert client.rest() == b""
    gone(rig, LEFT)


def test_a_hundred_at_once(rig: Rig, engine: RawEngineProcess) -> None:
    descriptors = psutil.Process().num_fds()
    moments: list[Callable[[], str]] = [
        lambda: play(["forever"]),
        lambda: play(["send", EVENTS], ["forever"]),
        lambda: said("HTTP/1.1 200 OK\r\n", ["forever"]),
    ]
    clients = [rig.client() for _ in range(100)]
    for index, client in enumerate(clients):
        client.send(request(path=moments[index % 3](), body=b"x"))
    until(lambda: rig.in_flight() == 100)
    for client in clients:
        client.close()
    gone(rig, {("client_closed", 499): 100})
    until(lambda: psutil.Process().num_fds() <= descriptors + 2)
