"""The pure parts of the gateway's benchmark: wire, responses, processors, figures."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks.gateway import wire
from benchmarks.gateway.__main__ import choose, main
from benchmarks.gateway.cores import choose_cores
from benchmarks.gateway.load import Result
from benchmarks.gateway.peers.aiohttp_proxy import spoiled
from benchmarks.gateway.response import ResponseError, ResponseParser
from benchmarks.gateway.rounds import CLOSED_STREAMS, Measured, Round, rotated
from benchmarks.gateway.starting import Running
from benchmarks.gateway.stub_engine import as_chunk, unchunked
from benchmarks.gateway.summary import goals_of, header_changes, percentile, summarize, table
from benchmarks.gateway.targets import all_targets

STREAM = wire.Script(5, 20_000)


@pytest.mark.parametrize(
    "script", [wire.Script(), STREAM, wire.Script(2, closes=True), wire.Script(9, holds=True)]
)
def test_orders_are_read_as_they_were_written(script: wire.Script) -> None:
    body = wire.request_body(script)
    assert wire.script_in(body) == script
    assert len(body) == wire.BODY_BYTES


def test_a_request_without_orders_has_none() -> None:
    assert wire.script_in(b'{"messages": []}') is None


def test_answers_have_the_sizes_of_the_method() -> None:
    assert len(wire.answer()) == 1024
    assert {len(wire.event(number)) for number in (0, 7, 123_456)} == {200}


@pytest.mark.parametrize("is_exact", [True, False])
def test_what_came_as_it_was_sent_has_no_fault(is_exact: bool) -> None:
    for script in (wire.Script(), STREAM):
        sent = wire.payload(script)
        assert wire.fault_in(sent, script, sent if is_exact else None) is None


@pytest.mark.parametrize("fault", ["drop", "change", "swap"])
def test_spoiled_streams_are_told(fault: str) -> None:
    sent = wire.payload(STREAM)
    assert wire.fault_in(spoiled(sent, fault), STREAM, sent)


@pytest.mark.parametrize("fault", ["drop", "swap"])
def test_lost_and_swapped_events_are_told_of_a_proxy_that_writes_anew(fault: str) -> None:
    assert wire.fault_in(spoiled(wire.payload(STREAM), fault), STREAM, None)


def test_a_stream_that_breaks_off_is_told_of_a_proxy_that_writes_anew() -> None:
    cut = wire.payload(STREAM).replace(b"[DONE]", b"")
    assert wire.fault_in(cut, STREAM, None) == "a stream without its end"


RESPONSES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-A: b\r\n\r\nhello world",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
    b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: 1\r\n\r\n",
    "after-100": b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 11\r\n\r\nhello world",
}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_is_the_same_in_whatever_pieces_it_comes(name: str) -> None:
    data = RESPONSES[name]
    for size in range(1, len(data) + 1):
        parser = ResponseParser()
        response = parser.begin()
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        finished = [parser.feed(piece) for piece in pieces]
        assert finished == [False] * (len(pieces) - 1) + [True]
        assert bytes(response.body) == b"hello world"
        assert ("x-a", "b") in response.headers
        assert response.keeps_alive


def test_a_response_without_length_ends_with_the_connection() -> None:
    parser = ResponseParser()
    response = parser.begin()
    assert not parser.feed(b"HTTP/1.0 200 OK\r\n\r\nhello")
    assert parser.feed_end()
    assert bytes(response.body) == b"hello"
    assert not response.keeps_alive


def test_a_response_that_breaks_off_is_not_complete() -> None:
    parser = ResponseParser()
    parser.begin()
    parser.feed(RESPONSES["chunked"][:-4])
    assert not parser.feed_end()


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-x\r\n\r\n", RESPONSES["length"] + b"!", RESPONSES["chunked"] + b"!"]
)
def test_what_is_no_response_is_refused(data: bytes) -> None:
    parser = ResponseParser()
    parser.begin()
    with pytest.raises(ResponseError):
        parser.feed(data)


def test_a_chunked_body_is_put_together() -> None:
    assert unchunked(as_chunk(b"hello ") + as_chunk(b"world") + b"0\r\n\r\n") == b"hello world"


def test_load_and_proxy_get_processors_of_different_cores() -> None:
    siblings = {0: frozenset({0, 2}), 1: frozenset({1, 3})}
    siblings |= {2: siblings[0], 3: siblings[1]}
    cores = choose_cores([0, 1, 2, 3], siblings)
    assert cores.proxy not in siblings[cores.load]
    assert cores.are_apart


def test_threads_of_one_core_are_told() -> None:
    both = frozenset({4, 5})
    cores = choose_cores([4, 5], {4: both, 5: both})
    assert (cores.load, cores.proxy) == (4, 5)
    assert "threads of one core" in cores.note


def test_a_single_processor_is_told() -> None:
    cores = choose_cores([3], {3: frozenset({3})})
    assert not cores.are_apart
    assert "no figure counts" in cores.note


def test_every_target_is_first_once() -> None:
    assert [rotated("abc", number) for number in range(3)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
    ]


def measured(name: str, *, factor: float = 1.0, faults: dict[str, int] | None = None) -> Measured:
    """A target whose every time is `factor` times that of others."""
    answers = Result(done=10_000, wall_s=factor, cpu_s=0.2 * factor, faults=faults or {})
    paced = Result(done=1000, cpu_s=0.02 * factor)
    burst = Result(done=1000, cpu_s=0.005 * factor)
    latency = Result(latencies_s=[0.001 * factor] * 98 + [0.002 * factor] * 2)
    compared = Result(headers={"answer": {"content-type": "json"}}, reused=CLOSED_STREAMS)
    return Measured(
        Running(all_targets()[name], "", 1, (), "key"),
        [Round(latency, answers, paced, burst)] * 3,
        compared,
        Result(held=100, held_bytes=1_500_000),
    )


def test_figures_are_per_request_chunk_and_stream() -> None:
    rows = summarize([measured("direct"), measured("nginx"), measured("gateway", factor=2.0)])
    row = rows["gateway"]
    assert row.request_us == pytest.approx(40.0)
    assert row.paced_us == pytest.approx(40.0)
    assert row.burst_us == pytest.approx(10.0)
    assert row.added_p50_ms == pytest.approx(1.0)
    assert row.added_p99_ms == pytest.approx(2.0)
    assert row.over_nginx == pytest.approx(0.5)
    assert row.held_kb == pytest.approx(15.0)
    assert row.bytes_kept == "same"
    assert rows["direct"].request_us is None
    assert len(table(rows).rows) == 3


def test_faults_are_shown_instead_of_the_verdict_on_bytes() -> None:
    rows = summarize([measured("direct"), measured("gateway", faults={"lost": 1})])
    assert rows["gateway"].bytes_kept == "FAULTS"
    assert not all(goal.is_met for goal in goals_of(rows["gateway"], 100))


def test_requests_lost_behind_a_closed_socket_are_a_fault() -> None:
    gateway = measured("gateway")
    gateway.compared.reused = CLOSED_STREAMS - 1
    assert summarize([measured("direct"), gateway])["gateway"].bytes_kept == "FAULTS"


def test_a_header_more_is_told_and_a_header_less_is_a_fault() -> None:
    before = {"content-type": "json", "x-a": "1", "date": "now"}
    assert header_changes(before, before | {"date": "then", "x-id": "5"}) == ["+x-id"]
    assert header_changes(before, {"content-type": "text"}) == ["-x-a", "content-type=text"]


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 0.5) == 51.0
    assert percentile(values, 0.99) == 100.0
    assert percentile([7.0], 0.99) == 7.0


def test_what_is_not_installed_is_skipped_by_name() -> None:
    chosen, left_out = choose(["litellm", "gateway"], {"litellm": "/no/such/python"})
    assert [target.name for target, _ in chosen] == ["direct", "gateway"]
    assert "/no/such/python" in left_out["litellm"]
    assert "--peer litellm=" in left_out["litellm"]


@pytest.mark.parametrize("word", ["litellm", "nobody=/usr/bin/python3", "litellm="])
def test_a_peer_that_is_none_is_refused(word: str) -> None:
    result = CliRunner().invoke(main, ["--peer", word])
    assert result.exit_code == 2
    assert "NAME=PYTHON" in result.output
