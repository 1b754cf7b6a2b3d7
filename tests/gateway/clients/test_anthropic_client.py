"""Anthropic's own client, synchronous and asynchronous, at an engine that speaks its messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anthropic
import pytest
from gateway_harness import ManualUpstream, StubProcess, running, served, until, until_stats
from real_clients import KEY, MESSAGES, NAME, WORDS, client_of, client_ports

from common.gateway.auth import ApiKeyAuthenticator
from common.gateway.keys import KeyLimits, make_entry

pytestmark = pytest.mark.parametrize("kind", ["sync", "async"])


def message(client: Any) -> Any:
    return client.messages.create(model=NAME, max_tokens=5, messages=MESSAGES)


def streamed_message(client: Any) -> Any:
    return client.messages.create(model=NAME, max_tokens=5, messages=MESSAGES, stream=True)


def text_of(events: list[Any]) -> str:
    return "".join(e.delta.text for e in events if e.type == "content_block_delta")


@pytest.mark.parametrize("credentials", ["api_key", "auth_token"])
async def test_a_message_whole_and_streamed(stub: StubProcess, kind: str, credentials: str) -> None:
    options: dict[str, Any] = {"api_key": None, "auth_token": None, credentials: KEY}
    async with (
        running([served(stub)]) as run,
        client_of("anthropic", kind, run, **options) as client,
    ):
        whole = await client.call(message)
        assert (whole.content[0].text, whole.usage.input_tokens) == (WORDS, 3)
        events = await client.items(streamed_message)
        assert text_of(events).split() == WORDS.split()
        assert events[-1].type == "message_stop"
        totals = run.recorder.snapshot().models[NAME]
        assert run.results() == {("ok", 200): 2}
        assert (totals.usage_prompt_tokens, totals.usage_completion_tokens) == (6, 10)


async def test_errors_are_its_own_exceptions(stub: StubProcess, kind: str) -> None:
    entry, key = make_entry("ci", limits=KeyLimits(requests_per_minute=1))
    guard = ApiKeyAuthenticator(KEY, None, (entry,))
    models = [served(stub), served(stub, "late", status="loading")]
    async with (
        running(models, authenticator=guard, load_wait_s=0.1) as run,
        client_of("anthropic", kind, run, api_key=key) as client,
        client_of("anthropic", kind, run, api_key="guess") as stranger,
    ):

        def named(name: str) -> Any:
            return lambda c: c.messages.create(model=name, max_tokens=5, messages=MESSAGES)

        with pytest.raises(anthropic.AuthenticationError):
            await stranger.call(message)
        with pytest.raises(anthropic.NotFoundError, match=NAME):
            await client.call(named("no"))
        await client.call(message)
        with pytest.raises(anthropic.RateLimitError) as limited:
            await client.call(message)
        assert int(limited.value.response.headers["Retry-After"]) > 50
        async with client_of("anthropic", kind, run) as owner:
            with pytest.raises(anthropic.APIStatusError, match="late") as failed:
                await owner.call(named("late"))
        assert failed.value.status_code == 503


async def test_retries_until_the_model_is_ready(stub: StubProcess, kind: str) -> None:
    model = served(stub, status="loading")
    upstream = model.upstream
    assert isinstance(upstream, ManualUpstream)
    async with (
        running([model], load_wait_s=0.1) as run,
        client_of("anthropic", kind, run, max_retries=2) as client,
    ):
        request = asyncio.ensure_future(client.call(message))
        await until(lambda: ("timeout", 503) in run.results())
        upstream.become("ready")
        assert (await asyncio.wait_for(request, 30)).content[0].text == WORDS


async def test_an_engine_that_dies_in_a_stream_is_an_error_not_an_end(
    start_stub: Callable[..., StubProcess], kind: str
) -> None:
    stub = start_stub("--cut-mid-stream")
    async with running([served(stub)]) as run, client_of("anthropic", kind, run) as client:
        with pytest.raises(anthropic.APIError, match="engine"):
            await client.items(streamed_message)
        await until(lambda: run.results() == {("engine_died", 200): 1})


async def test_a_stream_that_is_left_or_times_out_cancels_its_generation(
    start_stub: Callable[..., StubProcess], kind: str
) -> None:
    stub = start_stub("--token-delay", "30")
    async with (
        running([served(stub)]) as run,
        client_of("anthropic", kind, run, timeout=0.3) as client,
    ):
        assert (await client.first_item(streamed_message)).type == "message_start"
        await until_stats(stub, in_flight=0, cancelled=1)
        with pytest.raises(anthropic.APITimeoutError):
            await client.call(message)
        await until_stats(stub, in_flight=0, cancelled=2)
        await until(lambda: run.results() == {("client_closed", 499): 2})


async def test_one_connection_serves_one_request_after_another(
    stub: StubProcess, kind: str
) -> None:
    async with running([served(stub)]) as run, client_of("anthropic", kind, run) as client:
        seen = []
        for _ in range(3):
            await client.call(message)
            await client.items(streamed_message)
            seen.append(client_ports(run.gateway.port))
        assert len(seen[0]) == 1
        assert seen[0] == seen[1] == seen[2]
