"""Requests over a model's limit, through the gateway: they wait, in turn, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from gateway_harness import (
    KEY,
    Running,
    StubProcess,
    check_refused,
    running,
    served,
    until,
    until_stats,
)

from common.gateway.auth import ApiKeyAuthenticator
from common.gateway.keys import KeyEntry, Role, hash_key

NAME = "org/repo/M.gguf"
CHAT = {"messages": [{"role": "user", "content": "one two"}], "stream": True}


@pytest.fixture
def endless(start_stub: Callable[..., StubProcess]) -> StubProcess:
    """An engine whose streams end when their client leaves; embeddings are there at once."""
    return start_stub("--tokens", "100000", "--token-delay", "0.05")


def ask(run: Running, path: str = "/v1/embeddings", key: str = KEY) -> asyncio.Future[Any]:
    """A request that is answered as soon as the engine gets it."""
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{run.base}/{NAME}{path}"
    return asyncio.ensure_future(
        run.session.post(url, json={"input": "x", "content": "x"}, headers=headers)
    )


async def hold(run: Running, stub: StubProcess) -> Any:
    """The answer to a request that keeps its place at the model until it is closed."""
    answer = await run.session.post(f"{run.base}/{NAME}/v1/chat/completions", json=CHAT)
    await until_stats(stub, in_flight=1)
    return answer


async def until_waiting(run: Running, count: int) -> None:
    await until(lambda: run.recorder.snapshot().models[NAME].waiting == count)


async def status_of(request: asyncio.Future[Any]) -> int:
    async with await request as answer:
        await answer.read()
        return int(answer.status)


async def test_request_over_the_limit_waits_for_its_place(endless: StubProcess) -> None:
    model = served(endless, max_concurrent_requests=1, max_waiting_requests=2, max_queue_s=60.0)
    async with running([model]) as run:
        held = await hold(run, endless)
        waiting = [ask(run), ask(run)]
        await until_waiting(run, 2)
        async with await ask(run) as answer:
            await check_refused(
                answer, expect=429, code="too_many_requests", words=["Max Waiting Requests", NAME]
            )
            assert 1 <= int(answer.headers["Retry-After"]) <= 30
        assert not any(request.done() for request in waiting)
        held.close()
        assert [await status_of(request) for request in waiting] == [200, 200]
        await until(lambda: run.gateway.in_flight == 0)
        totals = run.recorder.snapshot().models[NAME]
        assert (totals.waiting, totals.queue.count) == (0, 2)


async def test_request_that_waits_too_long_is_503(endless: StubProcess) -> None:
    model = served(endless, max_concurrent_requests=1, max_waiting_requests=2, max_queue_s=0.2)
    async with running([model]) as run:
        held = await hold(run, endless)
        async with await ask(run) as answer:
            await check_refused(answer, expect=503, code="queue_timeout", words=["0.2 s", NAME])
            assert int(answer.headers["Retry-After"]) >= 1
        held.close()
        await until(lambda: run.gateway.in_flight == 0)
        assert run.results() == {("refused", 503): 1, ("client_closed", 499): 1}


async def test_client_that_leaves_frees_its_place_in_the_room(endless: StubProcess) -> None:
    model = served(endless, max_concurrent_requests=1, max_waiting_requests=1)
    async with running([model]) as run:
        held = await hold(run, endless)
        leaving = ask(run)
        await until_waiting(run, 1)
        leaving.cancel()
        await until_waiting(run, 0)
        next_one = ask(run)
        await until_waiting(run, 1)
        held.close()
        assert await status_of(next_one) == 200
        await until(lambda: run.gateway.in_flight == 0)
        assert run.results() == {("client_closed", 499): 2, ("ok", 200): 1}


async def test_higher_priority_gets_the_place_first(endless: StubProcess) -> None:
    model = served(endless, max_concurrent_requests=1, max_waiting_requests=4)
    entries = [
        KeyEntry(name, name, Role.USE, hash_key(f"key-of-{name}"), 0, priority=priority)
        for name, priority in (("low", 0), ("high", 5))
    ]
    authenticator = ApiKeyAuthenticator(KEY, None, entries)
    async with running([model], authenticator=authenticator) as run:
        held = await hold(run, endless)
        low = ask(run, "/tokenize", "key-of-low")
        await until_waiting(run, 1)
        high = ask(run, "/v1/embeddings", "key-of-high")
        await until_waiting(run, 2)
        held.close()
        assert [await status_of(request) for request in (low, high)] == [200, 200]
        paths = (await endless.stats())["paths"]
        assert paths.index("/v1/embeddings") < paths.index("/tokenize")


async def test_those_who_wait_are_served_in_a_drain(endless: StubProcess) -> None:
    model = served(endless, max_concurrent_requests=1, max_waiting_requests=2)
    async with running([model]) as run:
        held = await hold(run, endless)
        waiting = ask(run)
        await until_waiting(run, 1)
        drained = asyncio.ensure_future(run.gateway.drain(20.0))
        await until(lambda: run.gateway.is_draining)
        held.close()
        assert await status_of(waiting) == 200
        assert await drained
