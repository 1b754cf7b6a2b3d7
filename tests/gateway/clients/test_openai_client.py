"""OpenAI's own client, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from typing import Any

import openai
import pytest
from gateway_harness import ManualUpstream, StubProcess, running, served, until, until_stats
from real_clients import CHAT, KEY, MESSAGES, NAME, PATH, WORDS, client_of, client_ports

from common.errors import EngineConfigurationError
from common.gateway.auth import ApiKeyAuthenticator
from common.gateway.keys import KeyLimits, make_entry
from common.gateway.models import MemoryView

pytestmark = pytest.mark.parametrize("kind", ["sync", "async"])


def chat(client: Any) -> Any:
    return client.chat.completions.create(**CHAT)


def streamed_chat(client: Any) -> Any:
    return client.chat.completions.create(**CHAT, stream=True)


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@pytest.mark.parametrize("path", ["", PATH])
async def test_chats_streams_embeds_and_lists(stub: StubProcess, kind: str, path: str) -> None:
    async with (
        running([served(stub)]) as run,
        client_of("openai", kind, run, base_url=f"{run.base}{path}/v1") as client,
    ):
        assert (await client.call(chat)).choices[0].message.content == WORDS
        assert text_of(await client.items(streamed_chat)).split() == WORDS.split()
        completion = await client.call(lambda c: c.completions.create(model=NAME, prompt="a b"))
        assert (completion.choices[0].text, completion.usage.prompt_tokens) == (WORDS, 2)
        vectors = await client.call(
            lambda c: c.embeddings.create(model=NAME, input=["a", "b"], encoding_format="float")
        )
        assert [vector.embedding for vector in vectors.data] == [[0.5, 0.0], [0.5, 1.0]]
        listed = (await client.call(lambda c: c.models.list())).data
        assert [(model.id, model.status) for model in listed] == [(NAME, "ready")]
        assert run.results() == {("ok", 200): 4}


async def test_lists_models_that_are_moved(stub: StubProcess, kind: str) -> None:
    model = served(stub, status="loading")
    assert isinstance(model.upstream, ManualUpstream)
    model.upstream.memory = MemoryView("cpu", "gpu", waiting=1, reason="for itself")
    async with running([model]) as run, client_of("openai", kind, run) as client:
        (listed,) = (await client.call(lambda c: c.models.list())).data
        assert (listed.id, listed.tier, listed.moving_to) == (NAME, "cpu", "gpu")
        found = await client.call(lambda c: c.models.retrieve(NAME))
        assert (found.object, found.tier) == ("model", "cpu")


async def test_uploads_a_file_larger_than_what_is_kept_in_memory(
    stub: StubProcess, kind: str
) -> None:
    sound = os.urandom(3_000_000)
    async with running([served(stub)]) as run, client_of("openai", kind, run) as client:
        heard = await client.call(
            lambda c: c.audio.transcriptions.create(model=NAME, file=("a.wav", sound))
        )
        assert heard.text == hashlib.sha256(sound).hexdigest()


async def test_errors_are_its_own_exceptions(stub: StubProcess, kind: str) -> None:
    async with (
        running([served(stub, max_input_tokens=1)]) as run,
        client_of("openai", kind, run) as client,
        client_of("openai", kind, run, api_key="guess") as stranger,
    ):
        with pytest.raises(openai.AuthenticationError) as refused:
            await stranger.call(chat)
        assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.NotFoundError, match=NAME):
            await client.call(lambda c: c.chat.completions.create(model="no", messages=MESSAGES))
        with pytest.raises(openai.NotFoundError, match=NAME):
            await client.call(lambda c: c.models.retrieve("nothing"))
        for request in (chat, streamed_chat):
            with pytest.raises(openai.BadRequestError, match="Max Input Tokens"):
                await client.call(request)
        with pytest.raises(openai.UnprocessableEntityError, match="the engine's own words"):
            await client.call(
                lambda c: c.post(f"/fail/422?m={NAME}", body={"model": NAME}, cast_to=object)
            )


async def test_a_body_over_the_limit_is_a_413(stub: StubProcess, kind: str) -> None:
    async with running([served(stub)], max_body_bytes=100_000) as run:
        async with client_of("openai", kind, run) as client:
            with pytest.raises(openai.APIStatusError, match="100000|98 KiB|0.1 MiB|larger") as big:
                await client.call(lambda c: c.embeddings.create(model=NAME, input="x" * 200_000))
            assert big.value.status_code == 413
            assert (await client.call(chat)).choices[0].message.content == WORDS


async def test_a_limit_is_a_rate_limit_error_that_says_when_to_come_back(
    stub: StubProcess, kind: str
) -> None:
    entry, key = make_entry("ci", limits=KeyLimits(requests_per_minute=1))
    guard = ApiKeyAuthenticator(KEY, None, (entry,))
    async with (
        running([served(stub)], authenticator=guard) as run,
        client_of("openai", kind, run, api_key=key) as client,
    ):
        await client.call(chat)
        with pytest.raises(openai.RateLimitError) as limited:
            await client.call(chat)
        assert int(limited.value.response.headers["Retry-After"]) > 50


async def test_retries_when_the_model_is_full_and_gets_its_answer(
    start_stub: Callable[..., StubProcess], kind: str
) -> None:
    stub = start_stub("--first-delay", "0.3")
    async with (
        running([served(stub, max_concurrent_requests=1)]) as run,
        client_of("openai", kind, run, max_retries=3) as client,
    ):
        answers = await asyncio.gather(client.call(chat), client.call(chat))
        assert [answer.choices[0].message.content for answer in answers] == [WORDS, WORDS]
        results = run.results()
        assert results[("ok", 200)] == 2
        assert results[("refused", 429)] >= 1


async def test_a_model_that_is_not_ready_in_time_is_an_error_to_retry(
    stub: StubProcess, kind: str
) -> None:
    model = served(stub, status="loading")
    upstream = model.upstream
    assert isinstance(upstream, ManualUpstream)
    async with running([model], load_wait_s=0.2) as run:
        async with client_of("openai", kind, run) as client:
            with pytest.raises(openai.InternalServerError) as failed:
                await client.call(chat)
            assert failed.value.status_code == 503
            assert int(failed.value.response.headers["Retry-After"]) >= 1
        before = run.results()[("timeout", 503)]
        async with client_of("openai", kind, run, max_retries=2) as patient:
            request = asyncio.ensure_future(patient.call(chat))
            await until(lambda: run.results()[("timeout", 503)] > before)
            upstream.become("ready")
            assert (await asyncio.wait_for(request, 30)).choices[0].message.content == WORDS


async def test_reads_through_heartbeats_and_sees_the_error(stub: StubProcess, kind: str) -> None:
    model = served(stub, status="loading")
    upstream = model.upstream
    assert isinstance(upstream, ManualUpstream)
    beats = {"heartbeat_after_s": 0.05, "heartbeat_every_s": 0.05}
    async with running([model], **beats) as run, client_of("openai", kind, run) as client:
        request = asyncio.ensure_future(client.items(streamed_chat))
        await until(lambda: upstream.waiters == 1)
        await asyncio.sleep(0.2)
        upstream.become("ready")
        assert text_of(await request).split() == WORDS.split()

        upstream.status = "loading"
        upstream.changed.clear()
        request = asyncio.ensure_future(client.items(streamed_chat))
        await until(lambda: upstream.waiters == 1)
        await asyncio.sleep(0.2)
        upstream.become("failed", EngineConfigurationError("unknown architecture 'x'"))
        with pytest.raises(openai.APIError, match="unknown architecture"):
            await request
        assert run.results() == {("ok", 200): 1, ("engine_died", 200): 1}


@pytest.mark.parametrize("flag", ["--die-mid-stream", "--cut-mid-stream"])
async def test_an_engine_that_dies_in_a_stream_is_an_error_not_an_end(
    start_stub: Callable[..., StubProcess], kind: str, flag: str
) -> None:
    stub = start_stub("--tokens", "4", flag)
    async with running([served(stub)]) as run, client_of("openai", kind, run) as client:
        with pytest.raises(openai.APIError, match="engine"):
            await client.items(streamed_chat)
        await until(lambda: run.results() == {("engine_died", 200): 1})


async def test_a_stream_that_is_left_cancels_its_generation(
    start_stub: Callable[..., StubProcess], kind: str
) -> None:
    stub = start_stub("--tokens", "1000", "--token-delay", "0.02")
    async with running([served(stub)]) as run, client_of("openai", kind, run) as client:
        first = await client.first_item(streamed_chat)
        assert text_of([first]) == "tok0 "
        await until_stats(stub, in_flight=0, cancelled=1)
        await until(lambda: run.results() == {("client_closed", 499): 1})


async def test_a_time_out_of_the_client_cancels_its_generation(
    start_stub: Callable[..., StubProcess], kind: str
) -> None:
    stub = start_stub("--first-delay", "30")
    async with (
        running([served(stub)]) as run,
        client_of("openai", kind, run, timeout=0.3) as client,
    ):
        for request in (chat, streamed_chat):
            with pytest.raises(openai.APITimeoutError):
                await client.items(request)
        await until_stats(stub, in_flight=0, cancelled=2)
        await until(lambda: run.results() == {("client_closed", 499): 2})


async def test_a_client_that_closes_at_the_last_event_has_its_answer(
    start_stub: Callable[..., StubProcess], kind: str
) -> None:
    stub = start_stub("--end-delay", "0.3")
    async with running([served(stub)]) as run, client_of("openai", kind, run) as client:
        assert text_of(await client.items(streamed_chat)).split() == WORDS.split()
        await until(lambda: run.gateway.in_flight == 0)
        assert run.results() == {("ok", 200): 1}


async def test_one_connection_serves_one_request_after_another(
    stub: StubProcess, kind: str
) -> None:
    async with running([served(stub)]) as run, client_of("openai", kind, run) as client:
        seen = []
        for _ in range(3):
            await client.call(chat)
            if kind == "async":  # the other one closes its connection at the end of a stream
                await client.items(streamed_chat)
            with pytest.raises(openai.NotFoundError):
                await client.call(lambda c: c.models.retrieve("nothing"))
            seen.append(client_ports(run.gateway.port))
        assert len(seen[0]) == 1
        assert seen[0] == seen[1] == seen[2]
