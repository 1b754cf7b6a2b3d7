"""Connections to engines: kept, used again, given up; and clients that leave a model that goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from gateway_harness import Running, StubProcess, running, served, until, until_stats

from common.gateway.model_field import leading_model

NAME = "org/repo/M.gguf"
CHAT = {"messages": [{"role": "user", "content": "one two three"}]}
STREAM = CHAT | {"stream": True}


async def ask(run: Running, body: dict[str, Any]) -> bytes:
    async with run.session.post(f"{run.base}/{NAME}/v1/chat/completions", json=body) as answer:
        assert answer.status == 200
        return await answer.read()


async def connections(stub: StubProcess) -> int:
    """So many connections the stub has seen, the one that asks included."""
    return int((await stub.stats())["connections"])


async def test_one_connection_carries_requests_and_streams_one_after_the_other(
    start_stub: Callable[..., StubProcess],
) -> None:
    stub = start_stub()
    async with running([served(stub)]) as run:
        for body in (CHAT, STREAM, CHAT, STREAM, CHAT):
            await ask(run, body)
        assert await connections(stub) == 1 + 1


async def test_after_a_stream_whose_engine_closed_no_connection_is_kept_behind_streams(
    start_stub: Callable[..., StubProcess],
) -> None:
    stub = start_stub("--close-after-stream")
    async with running([served(stub)]) as run:
        pool = run.gateway._proxy.engines[0].pool()
        await ask(run, CHAT)
        assert not pool.closes_after_streams
        await ask(run, STREAM)
        await until(lambda: pool.closes_after_streams)
        for _ in range(3):
            await ask(run, STREAM)
        await ask(run, CHAT)
        await ask(run, CHAT)  # behind a plain answer it is
        assert run.results() == {("ok", 200): 7}
        # One up to the first stream, one for each of three, one for the last two answers.
        assert await connections(stub) == 1 + 3 + 1 + 1


async def test_an_engine_that_restarted_behind_a_kept_connection_loses_no_request(
    start_stub: Callable[..., StubProcess],
) -> None:
    first, second = start_stub(), start_stub()
    model = served(first)
    async with running([model]) as run:
        await ask(run, CHAT)
        first.kill()
        model.upstream.address = second.address  # type: ignore[misc]
        await ask(run, CHAT)
        assert run.results() == {("ok", 200): 2}


@pytest.mark.parametrize("body", [STREAM, CHAT])
async def test_a_model_may_go_on_without_its_client(
    start_stub: Callable[..., StubProcess], body: dict[str, Any]
) -> None:
    stub = start_stub("--tokens", "5", "--token-delay", "0.1")
    async with running([served(stub, cancel_on_disconnect=False)]) as run:
        request = asyncio.ensure_future(ask(run, body))
        await until_stats(stub, in_flight=1)
        request.cancel()
        await asyncio.sleep(0.1)
        assert run.gateway.in_flight_of(NAME) == 1  # it keeps its place for so long
        await until_stats(stub, in_flight=0, completed=1, cancelled=0)
        await until(lambda: run.gateway.in_flight == 0)
        assert run.results() == {("client_closed", 499): 1}


async def test_a_stop_ends_what_goes_on_without_its_client(
    start_stub: Callable[..., StubProcess],
) -> None:
    stub = start_stub("--tokens", "1000", "--token-delay", "0.05")
    async with running([served(stub, cancel_on_disconnect=False)]) as run:
        request = asyncio.ensure_future(ask(run, STREAM))
        await until_stats(stub, in_flight=1)
        request.cancel()
        await asyncio.sleep(0.1)
        assert run.gateway.in_flight == 1
        await run.gateway.stop()
        await until_stats(stub, in_flight=0, cancelled=1)
        assert run.results() == {("stopped", 503): 1}


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"model": "a/b", "messages": []}', "a/b"),
        (b' {"model":"a"}', "a"),
        ('{"model": "ä", "x": 1}'.encode(), "ä"),
        (b'{"model": ""}', ""),
        (b'{"messages": [], "model": "a"}', None),
        (b'{"model": "a\\u0062"}', None),
        (b'{"model": 5}', None),
        (b'{"model": null}', None),
        (b'{"model": "a" "b"}', None),
        (b'[{"model": "a"}]', None),
        (b'{"model": "\xff"}', None),
        (b"", None),
    ],
)
def test_a_name_at_the_beginning_is_found_without_reading_the_rest(
    body: bytes, name: str | None
) -> None:
    assert leading_model(body) == name
