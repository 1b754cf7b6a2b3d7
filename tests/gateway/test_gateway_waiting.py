"""Models that are not ready, heartbeats, limits, drain and idle accounting."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from gateway_harness import (
    ManualUpstream,
    Running,
    StubProcess,
    check_refused,
    running,
    served,
    until,
    until_stats,
)

from common.errors import EngineConfigurationError

NAME = "org/repo/M.gguf"
CHAT = {"messages": [{"role": "user", "content": "one two three"}]}
STREAM = CHAT | {"stream": True}
BEATS = {"heartbeat_after_s": 0.1, "heartbeat_every_s": 0.05}


def upstream_of(model: Any) -> ManualUpstream:
    assert isinstance(model.upstream, ManualUpstream)
    return model.upstream


def ask(run: Running, body: dict[str, Any]) -> Any:
    return run.session.post(f"{run.base}/{NAME}/v1/chat/completions", json=body)


async def test_request_waits_while_the_model_wakes(stub: StubProcess) -> None:
    model = served(stub, status="sleeping")
    async with running([model], **BEATS) as run:
        request = asyncio.ensure_future(ask(run, CHAT))
        await until(lambda: upstream_of(model).waiters == 1)
        totals = run.recorder.snapshot().models[NAME]
        assert (totals.waiting, totals.in_flight) == (1, 0)
        assert run.recorder.open_requests == 1
        await asyncio.sleep(0.15)  # no heartbeat without a stream
        assert not request.done()
        upstream_of(model).become("ready")
        async with await request as answer:
            assert answer.status == 200
            assert (await answer.json())["choices"][0]["message"]["content"]
        totals = run.recorder.snapshot().models[NAME]
        assert (totals.waiting, totals.in_flight, totals.wake.count) == (0, 0, 1)


async def test_waiting_stream_gets_heartbeats_and_then_its_answer(stub: StubProcess) -> None:
    model = served(stub, status="loading")
    async with running([model], **BEATS) as run:
        for base in (f"{run.base}/v1", f"{run.base}/{NAME}/v1"):
            upstream_of(model).status = "loading"
            upstream_of(model).changed.clear()
            body = STREAM | {"model": NAME}
            async with run.session.post(f"{base}/chat/completions", json=body) as answer:
                assert answer.status == 200
                assert answer.headers["Content-Type"] == "text/event-stream"
                first = await answer.content.readany()
                assert first.startswith(b": ")
                await answer.content.readany()
                upstream_of(model).become("ready")
                rest = (await answer.read()).decode()
            events = [e for e in rest.split("\n\n") if e and not e.startswith(":")]
            assert events[-1] == "data: [DONE]"
            assert len(events) == 7
        assert run.results() == {("ok", 200): 2}


async def test_engine_error_after_heartbeats_is_one_event(stub: StubProcess) -> None:
    model = served(stub, status="loading")
    async with running([model], **BEATS) as run:
        url = f"{run.base}/{NAME}/v1/fail/400"
        async with run.session.post(url, json=STREAM) as answer:
            await answer.content.readany()
            upstream_of(model).become("ready")
            rest = (await answer.read()).decode()
        event = [e for e in rest.split("\n\n") if e and not e.startswith(":")]
        assert len(event) == 1
        lines = event[0].splitlines()
        assert lines[0] == "event: error"
        assert json.loads(lines[1].removeprefix("data: "))["error"] == {
            "message": "the engine's own words",
            "type": "stub_error",
            "param": None,
            "code": "400",
        }


async def test_model_that_is_not_ready_in_time_is_503(stub: StubProcess) -> None:
    model = served(stub, status="loading")
    async with running([model], load_wait_s=0.1, heartbeat_after_s=5) as run:
        for body in (CHAT, STREAM):
            async with ask(run, body) as answer:
                await check_refused(answer, expect=503, code="capacity", words=[NAME])
                assert int(answer.headers["Retry-After"]) >= 1
        assert run.results() == {("timeout", 503): 2}


async def test_model_that_failed_is_502_with_the_reason(stub: StubProcess) -> None:
    model = served(stub, status="failed")
    upstream_of(model).error = EngineConfigurationError("unknown architecture 'x'")
    async with running([model]) as run:
        for body in (CHAT, STREAM):
            async with ask(run, body) as answer:
                await check_refused(
                    answer, expect=502, code="engine_configuration", words=["architecture"]
                )


async def test_client_that_leaves_while_waiting_gives_up_its_place(stub: StubProcess) -> None:
    model = served(stub, status="loading", max_concurrent_requests=1)
    async with running([model], **BEATS) as run:
        for body in (CHAT, STREAM):
            request = asyncio.ensure_future(ask(run, body))
            await until(lambda: upstream_of(model).waiters == 1)
            await asyncio.sleep(0.12)
            if request.done():
                request.result().close()
            request.cancel()
            await until(lambda: upstream_of(model).waiters == 0)
            await until(lambda: run.gateway.in_flight == 0)
        assert upstream_of(model).cancelled == 2
        assert run.results() == {("client_closed", 499): 2}
        assert run.recorder.snapshot().models[NAME].waiting == 0


@pytest.mark.parametrize("noticed_after", [2, 8])
async def test_engine_that_restarts_is_waited_for(
    start_stub: Callable[..., StubProcess], noticed_after: int
) -> None:
    """A connection refused before any byte was sent is tried again until the restart.

    An engine of several processes counts as ready for a while after it has closed its socket.
    """
    dead, alive = start_stub(), start_stub()
    dead.kill()

    class Restarting(ManualUpstream):
        async def ensure_ready(self, timeout_s: float | None) -> None:
            calls.append(self.address)
            if len(calls) == noticed_after:
                self.address = alive.address

    calls: list[Any] = []
    model = served(dead)
    object.__setattr__(model, "upstream", Restarting(NAME, dead.address))
    async with running([model]) as run, ask(run, CHAT) as answer:
        assert answer.status == 200
        assert len(calls) == noticed_after


async def test_concurrency_limit_denies_with_retry_after(
    start_stub: Callable[..., StubProcess], stub: StubProcess
) -> None:
    slow = start_stub("--tokens", "3", "--token-delay", "0.1")
    models = [served(slow, max_concurrent_requests=2), served(stub, "free")]
    async with running(models) as run:
        held = [asyncio.ensure_future(ask(run, STREAM)) for _ in range(2)]
        await until_stats(slow, in_flight=2)
        async with ask(run, CHAT) as answer:
            error = await check_refused(
                answer, expect=429, code="too_many_requests", words=["2", NAME]
            )
            assert error["type"] == "rate_limit_error"
            assert 1 <= int(answer.headers["Retry-After"]) <= 30
        async with run.session.post(f"{run.base}/free/v1/chat/completions", json=CHAT) as answer:
            assert answer.status == 200
        for request in held:
            async with await request as answer:
                assert b"[DONE]" in await answer.read()
        await until(lambda: run.gateway.in_flight == 0)
        async with ask(run, CHAT) as answer:
            assert answer.status == 200
        assert (await slow.stats())["max_in_flight"] == 2
        assert run.results() == {("ok", 200): 3, ("refused", 429): 1}


async def test_drain_refuses_new_requests_and_finishes_running_ones(
    start_stub: Callable[..., StubProcess],
) -> None:
    stub = start_stub("--tokens", "4", "--token-delay", "0.1")
    async with running([served(stub)]) as run:
        async with ask(run, STREAM) as answer:
            await answer.content.readany()
            drained = asyncio.ensure_future(run.gateway.drain(5.0))
            await until(lambda: run.gateway.is_draining)
            async with ask(run, CHAT) as refused:
                await check_refused(refused, expect=503, code="draining")
                assert int(refused.headers["Retry-After"]) >= 1
            async with run.session.get(f"{run.base}/ready") as ready:
                assert ready.status == 503
            async with run.session.get(f"{run.base}/health") as health:
                assert health.status == 200
            assert not drained.done()
            assert b"[DONE]" in await answer.read()
        assert await drained is True


async def test_drain_has_an_end_and_stop_cuts_what_is_left(
    start_stub: Callable[..., StubProcess],
) -> None:
    stub = start_stub("--tokens", "1000", "--token-delay", "0.05")
    async with running([served(stub)]) as run:
        answer = await ask(run, STREAM)
        await answer.content.readany()
        assert await run.gateway.drain(0.1) is False
        began = time.monotonic()
        await run.gateway.stop()
        assert time.monotonic() - began < 1.0
        with pytest.raises(aiohttp.ClientError):
            await answer.read()
        await until_stats(stub, in_flight=0, cancelled=1)
        assert run.results() == {("stopped", 503): 1}
        assert await run.gateway.drain(0.0) is True
        await run.gateway.stop()


async def test_the_end_of_an_answer_is_the_last_activity(
    start_stub: Callable[..., StubProcess],
) -> None:
    stub = start_stub("--tokens", "3", "--token-delay", "0.1")
    async with running([served(stub)]) as run:
        assert run.recorder.last_activity is None
        async with ask(run, STREAM) as answer:
            await answer.content.readany()
            assert run.gateway.in_flight == run.recorder.open_requests == 1
            began = run.recorder.now()
            await answer.read()
        await until(lambda: run.recorder.open_requests == 0)
        assert run.recorder.last_activity is not None
        assert run.recorder.last_activity > began


@pytest.mark.parametrize(
    ("limits", "path", "body", "words"),
    [
        # The stub counts a word as a token and adds one for each message.
        ({"max_input_tokens": 3}, "/v1/chat/completions", CHAT, ["at most 3", "4 tokens"]),
        ({"max_input_tokens": 2}, "/v1/completions", {"prompt": "a b c"}, ["at most 2", "3 tok"]),
        ({"max_input_tokens": 2}, "/v1/completions", {"prompt": [5, 6, 7]}, ["3 tokens"]),
        ({"max_input_tokens": 2}, "/completion", {"prompt": ["a", "a b c d"]}, ["4 tokens"]),
        ({"max_input_tokens": 2}, "/v1/embeddings", {"input": "a b c"}, ["3 tokens"]),
        ({"max_total_tokens": 4}, "/v1/chat/completions", CHAT, ["no room", "4 tokens"]),
        (
            {"max_total_tokens": 10},
            "/v1/chat/completions",
            CHAT | {"max_tokens": 7},
            ["10 tokens", "11 tokens", "4 in the messages", "7 in the completion"],
        ),
        (
            {"max_total_tokens": 10},
            "/v1/completions",
            {"prompt": "a b", "max_completion_tokens": 9},
            ["11 tokens", "2 in the prompt"],
        ),
        ({"max_total_tokens": 10}, "/completion", {"prompt": "a b", "n_predict": 9}, ["11"]),
        (
            {"max_total_tokens": 10},
            "/v1/responses",
            {"input": "a b", "max_output_tokens": 9},
            ["12 tokens", "9 in the completion"],
        ),
    ],
)
async def test_token_limits_refuse_with_the_numbers(
    stub: StubProcess, limits: dict[str, int], path: str, body: dict[str, Any], words: list[str]
) -> None:
    before = (await stub.stats())["paths"]
    async with (
        running([served(stub, **limits)]) as run,
        run.session.post(f"{run.base}/{NAME}{path}", json=body) as answer,
    ):
        error = await check_refused(answer, expect=400, code="context_length_exceeded", words=words)
        assert error["type"] == "invalid_request_error"
        assert error["param"] in ("messages", "prompt")
    after = (await stub.stats())["paths"]
    assert path not in after[len(before) :]


async def test_token_limits_let_fitting_requests_pass_unchanged(stub: StubProcess) -> None:
    model = served(stub, max_input_tokens=4, max_total_tokens=10)
    async with running([model]) as run:
        for extra in ({}, {"max_tokens": 6}, {"n_predict": -1}):
            async with ask(run, CHAT | extra) as answer:
                assert answer.status == 200, await answer.read()
        async with run.session.post(f"{run.base}/v1/completions", json={"prompt": "a b"}) as answer:
            assert answer.status == 200
        url = f"{run.base}/{NAME}/v1/chat/completions"
        async with run.session.post(url, data=b"x", headers={"Content-Encoding": "br"}) as answer:
            await check_refused(answer, expect=415, code="unsupported_encoding")


async def test_token_limit_after_heartbeats_is_an_event(stub: StubProcess) -> None:
    model = served(stub, status="loading", max_input_tokens=1)
    async with running([model], **BEATS) as run, ask(run, STREAM) as answer:
        await answer.content.readany()
        upstream_of(model).become("ready")
        assert b"context_length_exceeded" in await answer.read()
