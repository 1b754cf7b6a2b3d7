"""What holds of all requests and answers, of proper ones and of spoiled ones."""

from __future__ import annotations

from typing import Any

import h11
from conformance_rig import RawEngineProcess, Rig, chunked, play, request
from conformance_strategies import CUTS, Sent, pieces, requests, spoiled
from conformance_wire import Client
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from hypothesis import given, settings
from hypothesis import strategies as st

OK = "HTTP/1.1 200 OK\r\n"
PLENTY = settings(max_examples=200, deadline=None)


def essence(seen: dict[str, Any], sent: Sent) -> Any:
    """What must be the same with and without the gateway."""
    own = [field for field in seen["fields"] if field[0].lower().startswith("x-t")]
    return seen["method"], seen["target"], seen["body"], own


@PLENTY
@given(sent=requests(), cuts=CUTS)
def test_a_proper_request_is_the_same_as_without_the_gateway(
    shared: Rig, engine: RawEngineProcess, sent: Sent, cuts: list[float]
) -> None:
    with Client(engine.port) as direct, shared.client() as client:
        expected = direct.ask(sent.data("")).json
        answer = client.ask(*pieces(sent.data(), cuts))
        assert answer.status == 200, answer
        assert essence(answer.json, sent) == essence(expected, sent)
        assert answer.json["body"].encode("latin-1") == sent.body


@PLENTY
@given(many=st.lists(requests(), min_size=2, max_size=4), cuts=CUTS)
def test_a_pipeline_is_the_same_as_its_requests(
    shared: Rig, many: list[Sent], cuts: list[float]
) -> None:
    with shared.client() as client:
        client.send(*pieces(b"".join(sent.data() for sent in many), cuts))
        for sent in many:
            seen = client.answer().json
            assert (seen["method"], seen["target"]) == (sent.method, sent.target)
            assert seen["body"].encode("latin-1") == sent.body


class Strict:
    """What llhttp, told to be strict, reads in some bytes."""

    def __init__(self, data: bytes) -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        self.has_error = False
        self._parser = HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self.has_error = True

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self.requests.append((self._parser.get_method(), self._body))


def second_opinion(data: bytes) -> bytes | None:
    """Return the body of the first request as h11 reads it; None: h11 refuses it."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    body = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return body
            elif event in (h11.NEED_DATA, h11.PAUSED):
                return None
    except h11.RemoteProtocolError:
        return None


@settings(max_examples=400, deadline=None)
@given(data=requests(is_large=False).map(lambda sent: sent.data()).flatmap(spoiled), cuts=CUTS)
def test_a_spoiled_request_is_refused_or_means_one_thing(
    shared: Rig, engine: RawEngineProcess, data: bytes, cuts: list[float]
) -> None:
    engine.log()
    strict = Strict(data)
    with shared.client() as client:
        for piece in pieces(data, cuts):
            client.send_as_far_as_wanted(piece)
        if strict.requests or strict.has_error:
            method = strict.requests[0][0].decode() if strict.requests else "GET"
            answer = client.answer(method)
            assert 200 <= answer.status < 600
            assert answer.status not in (500, 502, 503, 504), answer
        client.close()
    seen = [e for e in engine.log() if e["what"] in ("request", "broken")]
    assert [e for e in seen if e["what"] == "broken"] == []
    got = [(e["method"].encode(), e["body"].encode("latin-1")) for e in seen]
    read = iter(strict.requests)
    assert all(any(one == other for other in read) for one in got), (got, strict.requests)
    if got and got[0] == strict.requests[0]:
        opinion = second_opinion(data)
        assert opinion is None or opinion == got[0][1]


ANSWERS = [
    f"{OK}Content-Length: 5\r\nX-A: b\r\n\r\nhello".encode(),
    f"{OK}Transfer-Encoding: chunked\r\n\r\n".encode() + chunked([b"hel", b"lo"]),
    f"{OK}Content-Type: text/event-stream\r\n\r\ndata: x\n\n".encode(),
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 204 No Content\r\n\r\n",
]


@PLENTY
@given(data=st.sampled_from(ANSWERS).flatmap(spoiled), cuts=CUTS, closes=st.booleans())
def test_a_spoiled_answer_harms_nobody_else(
    shared: Rig, data: bytes, cuts: list[float], closes: bool
) -> None:
    steps: list[list[Any]] = []
    for piece in pieces(data, cuts):
        steps += [["send", piece.decode("latin-1")], ["sleep", 0]]
    end = ["close"] if closes else ["reset"]
    with shared.client() as client, shared.client() as other:
        answer = client.ask(request(path=play(*steps, end), body=b"x"))
        assert answer.status >= 200
        for index in range(3):
            assert other.ask(request(body=b"%d" % index)).json["body"] == str(index)
