"""httpx, requests and aiohttp, as programs use them that know no model's library."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import httpx
import pytest
import requests
from gateway_harness import AUTH, StubProcess, running, served, until, until_stats
from real_clients import CHAT, PATH, WORDS, client_ports

COMPLETIONS = "/v1/chat/completions"
BLOCKS = [os.urandom(100_000) for _ in range(12)]
DIGEST = hashlib.sha256(b"".join(BLOCKS)).hexdigest()
FORM = {"model": CHAT["model"]}
SLOW = ("--tokens", "1000", "--token-delay", "0.02")


async def blocks() -> AsyncIterator[bytes]:
    for block in BLOCKS:
        yield block


def words(events: str) -> str:
    data = [line[6:] for line in events.splitlines() if line.startswith("data: {")]
    return "".join(json.loads(d)["choices"][0]["delta"].get("content", "") for d in data).strip()


def requests_session() -> requests.Session:
    session = requests.Session()
    session.headers.update(AUTH)
    return session


# httpx


async def test_httpx_reuses_its_pool_for_answers_streams_and_uploads(stub: StubProcess) -> None:
    async with (
        running([served(stub)]) as run,
        httpx.AsyncClient(base_url=run.base + PATH, headers=AUTH) as client,
    ):
        for _ in range(3):
            whole = await client.post(COMPLETIONS, json=CHAT)
            assert whole.http_version == "HTTP/1.1"
            assert whole.json()["choices"][0]["message"]["content"] == WORDS
            async with client.stream("POST", COMPLETIONS, json=CHAT | {"stream": True}) as answer:
                assert words("\n".join([line async for line in answer.aiter_lines()])) == WORDS
            upload = await client.post("/v1/inspect", content=blocks())
            assert upload.json()["sha256"] == DIGEST
            files = {"file": ("a.wav", BLOCKS[0])}
            heard = await client.post("/v1/audio/transcriptions", data=FORM, files=files)
            assert heard.json()["text"] == hashlib.sha256(BLOCKS[0]).hexdigest()
            assert len(client_ports(run.gateway.port)) == 1
        assert run.results() == {("ok", 200): 12}


async def test_httpx_serves_many_at_once_from_a_small_pool(stub: StubProcess) -> None:
    limits = httpx.Limits(max_connections=4, max_keepalive_connections=4)
    async with (
        running([served(stub)]) as run,
        httpx.AsyncClient(base_url=run.base, headers=AUTH, limits=limits) as client,
    ):
        answers = await asyncio.gather(*(client.post(COMPLETIONS, json=CHAT) for _ in range(60)))
        assert {answer.status_code for answer in answers} == {200}
        assert len(client_ports(run.gateway.port)) <= 4


async def test_httpx_reads_packed_answers_and_raises_for_refusals(stub: StubProcess) -> None:
    async with (
        running([served(stub)]) as run,
        httpx.AsyncClient(base_url=run.base, headers=AUTH) as client,
    ):
        packed = await client.get(f"{PATH}/v1/gzip")
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.content == b'{"compressed": true}' * 50
        for path, status in ((f"{PATH}/v1/fail/503", 503), ("/nothing/here", 404)):
            with pytest.raises(httpx.HTTPStatusError) as failed:
                (await client.post(path, json={})).raise_for_status()
            assert failed.value.response.status_code == status
            assert failed.value.response.json()["error"]["message"]
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            (await client.get("/v1/models", headers={"Authorization": "no"})).raise_for_status()


async def test_httpx_that_times_out_or_leaves_cancels(
    start_stub: Callable[..., StubProcess],
) -> None:
    stub = start_stub(*SLOW)
    async with (
        running([served(stub)]) as run,
        httpx.AsyncClient(base_url=run.base, headers=AUTH, timeout=0.3) as client,
    ):
        with pytest.raises(httpx.ReadTimeout):
            await client.post(COMPLETIONS, json=CHAT)
        async with client.stream("POST", COMPLETIONS, json=CHAT | {"stream": True}) as answer:
            async for line in answer.aiter_lines():
                assert "tok0" in line
                break
        await until_stats(stub, in_flight=0, cancelled=2)
        await until(lambda: run.results() == {("client_closed", 499): 2})


async def test_httpx_sees_that_an_answer_is_not_whole(stub: StubProcess) -> None:
    async with (
        running([served(stub)]) as run,
        httpx.AsyncClient(base_url=run.base, headers=AUTH) as client,
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{PATH}/v1/cut/100000")
        await until(lambda: run.results() == {("engine_died", 200): 1})


# requests


async def test_requests_reuses_its_session_for_answers_streams_and_uploads(
    stub: StubProcess,
) -> None:
    def ask(base: str) -> None:
        with requests_session() as session:
            for _ in range(3):
                whole = session.post(base + COMPLETIONS, json=CHAT, timeout=20)
                assert whole.json()["choices"][0]["message"]["content"] == WORDS
                body = CHAT | {"stream": True}
                with session.post(base + COMPLETIONS, json=body, stream=True, timeout=20) as answer:
                    lines = [line.decode() for line in answer.iter_lines()]
                assert words("\n".join(lines)) == WORDS
                upload = session.post(f"{base}{PATH}/v1/inspect", data=iter(BLOCKS), timeout=20)
                assert upload.json()["sha256"] == DIGEST
                heard = session.post(
                    f"{base}/v1/audio/transcriptions",
                    data=FORM,
                    files={"file": ("a.wav", BLOCKS[0])},
                    timeout=20,
                )
                assert heard.json()["text"] == hashlib.sha256(BLOCKS[0]).hexdigest()
                port = int(base.rpartition(":")[2])
                assert len(client_ports(port)) == 1

    async with running([served(stub)]) as run:
        await asyncio.to_thread(ask, run.base)
        assert run.results() == {("ok", 200): 12}


async def test_requests_serves_threads_from_one_session(stub: StubProcess) -> None:
    def ask(base: str) -> set[int]:
        with requests_session() as session, ThreadPoolExecutor(8) as threads:

            def one(_: int) -> int:
                return session.post(base + COMPLETIONS, json=CHAT, timeout=20).status_code

            return set(threads.map(one, range(100)))

    async with running([served(stub)]) as run:
        assert await asyncio.to_thread(ask, run.base) == {200}


async def test_requests_raises_for_refusals_cut_answers_and_time_outs(
    start_stub: Callable[..., StubProcess],
) -> None:
    stub = start_stub(*SLOW)

    def ask(base: str) -> None:
        with requests_session() as session:
            for path, status in ((f"{PATH}/v1/fail/503", 503), ("/nothing/here", 404)):
                answer = session.post(base + path, json={}, timeout=20)
                assert answer.status_code == status
                with pytest.raises(requests.HTTPError):
                    answer.raise_for_status()
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                session.get(f"{base}{PATH}/v1/cut/100000", timeout=20)
            with pytest.raises(requests.ReadTimeout):
                session.post(base + COMPLETIONS, json=CHAT, timeout=0.3)
            body = CHAT | {"stream": True}
            with session.post(base + COMPLETIONS, json=body, stream=True, timeout=20) as answer:
                assert b"tok0" in next(answer.iter_lines())

    async with running([served(stub)]) as run:
        await asyncio.to_thread(ask, run.base)
        await until_stats(stub, in_flight=0, cancelled=3)  # the cut one, for the stub, as well
        await until(lambda: run.gateway.in_flight == 0)
        expected = {("ok", 503): 1, ("engine_died", 200): 1, ("client_closed", 499): 2}
        assert run.results() == expected


# aiohttp


async def test_aiohttp_reuses_its_pool_for_answers_streams_and_uploads(stub: StubProcess) -> None:
    async with (
        running([served(stub)]) as run,
        aiohttp.ClientSession(run.base, headers=AUTH) as session,
    ):
        for _ in range(3):
            async with session.post(COMPLETIONS, json=CHAT) as whole:
                assert (await whole.json())["choices"][0]["message"]["content"] == WORDS
            async with session.post(COMPLETIONS, json=CHAT | {"stream": True}) as answer:
                lines = [line.decode() async for line in answer.content]
                assert words("".join(lines)) == WORDS
            async with session.post(f"{PATH}/v1/inspect", data=blocks()) as upload:
                assert (await upload.json())["sha256"] == DIGEST
            form = aiohttp.FormData(FORM)
            form.add_field("file", BLOCKS[0], filename="a.wav")
            async with session.post("/v1/audio/transcriptions", data=form) as heard:
                assert (await heard.json())["text"] == hashlib.sha256(BLOCKS[0]).hexdigest()
            async with session.get(f"{PATH}/v1/gzip") as packed:
                assert await packed.read() == b'{"compressed": true}' * 50
            assert len(client_ports(run.gateway.port)) == 1
        assert run.results() == {("ok", 200): 15}


async def test_aiohttp_uploads_after_the_gateway_agreed(stub: StubProcess) -> None:
    async with (
        running([served(stub)], max_body_bytes=1_000_000) as run,
        aiohttp.ClientSession(run.base, headers=AUTH) as session,
    ):
        url = f"{PATH}/v1/inspect"
        async with session.post(url, data=blocks(), expect100=True) as refused:
            assert refused.status == 413
        async with session.post(url, data=BLOCKS[0], expect100=True) as agreed:
            assert (await agreed.json())["size"] == len(BLOCKS[0])


async def test_aiohttp_raises_for_refusals_cut_answers_and_time_outs(
    start_stub: Callable[..., StubProcess],
) -> None:
    stub = start_stub(*SLOW)
    short = aiohttp.ClientTimeout(total=0.3)
    async with (
        running([served(stub)]) as run,
        aiohttp.ClientSession(run.base, headers=AUTH) as session,
    ):
        for path, status in ((f"{PATH}/v1/fail/503", 503), ("/nothing/here", 404)):
            with pytest.raises(aiohttp.ClientResponseError) as failed:
                await session.post(path, json={}, raise_for_status=True)
            assert failed.value.status == status
        with pytest.raises(aiohttp.ClientPayloadError):
            async with session.get(f"{PATH}/v1/cut/100000") as answer:
                await answer.read()
        with pytest.raises(asyncio.TimeoutError):
            await session.post(COMPLETIONS, json=CHAT, timeout=short)
        async with session.post(COMPLETIONS, json=CHAT | {"stream": True}) as answer:
            assert b"tok0" in await answer.content.readline()
        await until_stats(stub, in_flight=0, cancelled=3)
        expected = {("ok", 503): 1, ("engine_died", 200): 1, ("client_closed", 499): 2}
        await until(lambda: run.results() == expected)


# All of them


def _by_httpx(url: str, body: Any) -> tuple[int, str]:
    with httpx.Client(headers=AUTH) as client:
        answer = client.post(url, json=body)
        return answer.status_code, answer.headers["Retry-After"]


def _by_requests(url: str, body: Any) -> tuple[int, str]:
    answer = requests.post(url, json=body, headers=AUTH, timeout=20)
    return answer.status_code, answer.headers["Retry-After"]


@pytest.mark.parametrize("ask", [_by_httpx, _by_requests])
async def test_a_full_model_is_told_with_the_time_to_come_back(
    start_stub: Callable[..., StubProcess], ask: Callable[[str, Any], tuple[int, str]]
) -> None:
    stub = start_stub(*SLOW)
    async with running([served(stub, max_concurrent_requests=1)]) as run:
        async with run.session.post(run.base + COMPLETIONS, json=CHAT | {"stream": True}) as first:
            await first.content.readany()
            status, after = await asyncio.to_thread(ask, run.base + COMPLETIONS, CHAT)
        assert status == 429
        assert int(after) >= 1


async def test_requests_that_uploads_too_much_reads_why(stub: StubProcess) -> None:
    """With a length that is over the limit nothing is read; the refusal must survive the upload."""

    def ask(base: str) -> int:
        with requests_session() as session:
            url = f"{base}{PATH}/v1/inspect"
            answer = session.post(url, data=b"x" * 600_000, timeout=20)
            assert answer.json()["error"]["message"]
            return answer.status_code

    async with running([served(stub)], max_body_bytes=500_000) as run:
        for _ in range(10):
            assert await asyncio.to_thread(ask, run.base) == 413
