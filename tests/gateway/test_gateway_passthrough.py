"""Bodies and streams through the gateway, compared with the engine's own."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import psutil
import pytest
from gateway_harness import (
    KEY,
    StubProcess,
    check_refused,
    raw_exchange,
    running,
    served,
    until,
    until_stats,
)

CHAT = {"messages": [{"role": "user", "content": "one two three"}]}
PATH = "/org/repo/M.gguf"


async def direct(stub: StubProcess, path: str, body: Any) -> bytes:
    connector = aiohttp.UnixConnector(str(stub.address.socket_path))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"http://engine{path}", json=body) as answer,
    ):
        return await answer.read()


@pytest.mark.parametrize("streamed", [False, True])
async def test_answers_are_byte_identical(stub: StubProcess, streamed: bool) -> None:
    body = CHAT | {"stream": streamed}
    async with running([served(stub)]) as run:
        async with run.session.post(f"{run.base}{PATH}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            through = await answer.read()
        assert through == await direct(stub, "/v1/chat/completions", body)
        assert run.results() == {("ok", 200): 1}


async def test_binary_and_gzip_bodies_pass_untouched(stub: StubProcess) -> None:
    blob = bytes(range(256)) * 1000
    packed = gzip.compress(b'{"model": "x"}')
    async with running([served(stub)]) as run:
        url = f"{run.base}{PATH}/v1/echo"
        for data, headers in (
            (blob, {"Content-Type": "application/octet-stream"}),
            (packed, {"Content-Encoding": "gzip"}),
            (b"", {}),
        ):
            async with run.session.post(url, data=data, headers=headers) as answer:
                expected = gzip.decompress(data) if headers.get("Content-Encoding") else data
                assert await answer.read() == expected
        async with run.session.get(f"{run.base}{PATH}/v1/gzip") as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(await answer.read()) == b'{"compressed": true}' * 50


async def test_chunked_upload_arrives_whole(stub: StubProcess) -> None:
    blocks = [os.urandom(100_000) for _ in range(12)]

    async def upload() -> AsyncIterator[bytes]:
        for block in blocks:
            yield block

    async with running([served(stub)]) as run:
        url = f"{run.base}{PATH}/v1/inspect"
        async with run.session.post(url, data=upload()) as answer:
            seen = await answer.json()
    assert seen["size"] == 1_200_000
    assert seen["sha256"] == hashlib.sha256(b"".join(blocks)).hexdigest()


async def test_query_and_encoded_path_reach_the_engine_as_they_came(stub: StubProcess) -> None:
    async with running([served(stub)]) as run:
        raw = await raw_exchange(
            run.gateway.port,
            f"GET /service/abc123{PATH}/v1/inspect?a=%2Fb&c=+d HTTP/1.1\r\nHost: x\r\n"
            f"X-Api-Key: {KEY}\r\nConnection: close, X-Drop\r\nX-Drop: 1\r\nX-Keep: 2\r\n"
            "Cookie: a=b\r\nX-Conversation-Id: 1\r\n\r\n".encode(),
        )
    seen = json.loads(raw.split(b"\r\n\r\n", 1)[1])
    assert seen["path"] == "/v1/inspect?a=%2Fb&c=+d"
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert headers["x-keep"] == "2"
    dropped = {"x-drop", "x-api-key", "authorization", "cookie", "x-conversation-id"}
    assert not headers.keys() & dropped


async def test_engine_errors_keep_status_body_and_headers(stub: StubProcess) -> None:
    async with running([served(stub)]) as run:
        async with run.session.post(f"{run.base}{PATH}/v1/fail/422", json={}) as answer:
            assert answer.status == 422
            assert answer.headers["X-Stub"] == "failed"
            assert (await answer.json())["error"]["message"] == "the engine's own words"
        assert run.results() == {("ok", 422): 1}


async def test_head_and_large_answers(stub: StubProcess) -> None:
    async with running([served(stub)]) as run:
        async with run.session.head(f"{run.base}{PATH}/v1/inspect") as answer:
            assert answer.status == 200
            assert await answer.read() == b""
        async with run.session.get(f"{run.base}{PATH}/v1/bytes/3000000") as answer:
            assert await answer.read() == bytes(i % 251 for i in range(3_000_000))


async def test_first_chunk_is_not_held_back(start_stub: Callable[..., StubProcess]) -> None:
    stub = start_stub("--tokens", "3", "--token-delay", "0.2")
    async with running([served(stub)]) as run:
        began = time.monotonic()
        url = f"{run.base}{PATH}/v1/chat/completions"
        async with run.session.post(url, json=CHAT | {"stream": True}) as answer:
            first = await answer.content.readany()
            assert b"tok0" in first
            assert b"tok1" not in first
            assert time.monotonic() - began < 0.2
            assert b"[DONE]" in await answer.content.read()
        totals = run.recorder.snapshot().models["org/repo/M.gguf"]
        assert totals.first_token.count == 1
        assert totals.first_token.sum < 0.2 < totals.latency.sum


async def test_disconnect_cancels_the_generation(start_stub: Callable[..., StubProcess]) -> None:
    stub = start_stub("--tokens", "1000", "--token-delay", "0.02")
    async with running([served(stub)]) as run:
        url = f"{run.base}{PATH}/v1/chat/completions"
        for body in (CHAT | {"stream": True}, CHAT):
            before = (await stub.stats())["cancelled"]
            request = asyncio.ensure_future(run.session.post(url, json=body))
            await until_stats(stub, in_flight=1)
            if body.get("stream"):
                (await request).close()
            else:
                request.cancel()
            await until_stats(stub, timeout_s=1.0, in_flight=0, cancelled=before + 1)
        await until(lambda: run.gateway.in_flight == 0)
        assert run.results() == {("client_closed", 499): 2}


async def test_disconnect_during_upload_is_recorded(stub: StubProcess) -> None:
    async with running([served(stub)]) as run:
        _, writer = await asyncio.open_connection("127.0.0.1", run.gateway.port)
        head = f"POST {PATH}/v1/echo HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n"
        writer.write(head.encode() + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1000)
        await writer.drain()
        await until(lambda: run.gateway.in_flight == 1)
        writer.close()
        await writer.wait_closed()
        await until(lambda: run.gateway.in_flight == 0)
        assert run.results() == {("client_closed", 499): 1}


async def test_engine_that_closes_after_streams_loses_no_request(
    start_stub: Callable[..., StubProcess],
) -> None:
    stub = start_stub("--tokens", "2", "--close-after-stream")
    async with running([served(stub)]) as run:
        url = f"{run.base}{PATH}/v1/chat/completions"

        async def ask(index: int) -> bytes:
            async with run.session.post(url, json=CHAT | {"stream": index % 3 > 0}) as answer:
                assert answer.status == 200
                return await answer.read()

        for index in range(100):
            assert b"tok1" in await ask(index)
        answers = await asyncio.gather(*(ask(index) for index in range(100)))
        assert all(b"tok1" in answer for answer in answers)
        assert run.results() == {("ok", 200): 200}


async def test_dead_engine_is_502_before_the_answer(
    start_stub: Callable[..., StubProcess],
) -> None:
    stub = start_stub("--crash-after", "0")
    async with running([served(stub)]) as run:
        url = f"{run.base}{PATH}/v1/chat/completions"
        for body in (CHAT, CHAT | {"stream": True}):  # it crashes; then it is gone
            async with run.session.post(url, json=body) as answer:
                await check_refused(answer, expect=502, code="engine_crashed", words=["engine"])
        assert run.results() == {("engine_died", 502): 2}
        assert any("org/repo/M.gguf" in line for line in run.lines)


@pytest.mark.parametrize("flag", ["--die-mid-stream", "--cut-mid-stream"])
async def test_engine_that_dies_mid_stream_ends_it_with_an_error(
    start_stub: Callable[..., StubProcess], flag: str
) -> None:
    stub = start_stub("--tokens", "4", "--token-delay", "0.05", flag)
    async with running([served(stub)]) as run:
        url = f"{run.base}{PATH}/v1/chat/completions"
        async with run.session.post(url, json=CHAT | {"stream": True}) as answer:
            assert answer.status == 200
            text = (await answer.read()).decode()
        assert "tok1" in text
        assert "[DONE]" not in text
        event = text.strip().split("\n\n")[-1].splitlines()
        assert event[0] == "event: error"
        assert json.loads(event[1].removeprefix("data: "))["error"]["code"] == "engine_crashed"
        await until(lambda: run.gateway.in_flight == 0)
        assert run.results() == {("engine_died", 200): 1}


async def test_two_models_answer_side_by_side(
    stub: StubProcess, start_stub: Callable[..., StubProcess]
) -> None:
    other = start_stub("--name", "second")
    models = [served(stub, "org/repo/M.gguf"), served(other, "org/repo")]
    async with running(models) as run:

        async def name_of(path: str, body: Any) -> str:
            async with run.session.post(f"{run.base}{path}", json=body) as answer:
                assert answer.status == 200, await answer.read()
                return str((await answer.json())["model"])

        chat = "/v1/chat/completions"
        answers = await asyncio.gather(
            name_of(f"/org/repo/M.gguf{chat}", CHAT),
            name_of(f"/org/repo{chat}", CHAT | {"model": "org/repo/M.gguf"}),  # the path wins
            name_of(f"/org%2Frepo{chat}", CHAT),
            name_of(chat, CHAT | {"model": "org/repo/M.gguf"}),
            name_of(chat, CHAT | {"model": "org/repo"}),
            name_of(f"/service/{'a' * 32}{chat}", CHAT | {"model": "org/repo"}),
        )
        assert answers == ["plain", "second", "second", "plain", "second", "second"]

        for model, expected in (("org/repo", "org/repo"), ("org/repo/M.gguf", "org/repo/M.gguf")):
            blob = os.urandom(2_000_000)  # beyond what is kept in memory
            form = aiohttp.FormData()
            form.add_field("file", io.BytesIO(blob), filename="a.wav", content_type="audio/wav")
            form.add_field("model", model)
            url = f"{run.base}/v1/audio/transcriptions"
            async with run.session.post(url, data=form) as answer:
                seen = await answer.json()
            assert seen["model"] == expected
            assert seen["text"] == hashlib.sha256(blob).hexdigest()

        big = CHAT | {"image": "A" * 2_000_000, "nested": {"model": "wrong"}, "model": "org/repo"}
        raw = io.BytesIO(json.dumps(big).encode())
        async with run.session.post(f"{run.base}{chat}", data=raw) as answer:
            assert (await answer.json())["model"] == "second"


async def test_expect_continue_is_granted_after_the_key_was_checked(stub: StubProcess) -> None:
    async with running([served(stub)]) as run:
        body = b"hello"
        for key, first in ((KEY, b"HTTP/1.1 100 Continue"), ("wrong", b"HTTP/1.1 401")):
            reader, writer = await asyncio.open_connection("127.0.0.1", run.gateway.port)
            writer.write(
                f"POST {PATH}/v1/echo HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n"
                f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            )
            line = await asyncio.wait_for(reader.readline(), 5)
            assert line.startswith(first)
            if key == KEY:
                await reader.readline()
                writer.write(body)
                assert b"200 OK" in await asyncio.wait_for(reader.readline(), 5)
                assert (await reader.readuntil(b"hello")).endswith(b"hello")
            writer.close()
            await writer.wait_closed()


async def test_slow_reader_holds_the_engine_back(start_stub: Callable[..., StubProcess]) -> None:
    stub = start_stub()
    async with running([served(stub)]) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.gateway.port, limit=1024)
        writer.write(
            f"GET {PATH}/v1/bytes/60000000 HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n\r\n".encode()
        )
        await reader.readline()
        before = psutil.Process().memory_info().rss
        await asyncio.sleep(0.3)
        grown = psutil.Process().memory_info().rss - before
        assert run.gateway.in_flight == 1
        assert grown < 20 * 2**20  # the rest waits in the engine, not here
        writer.close()
        await writer.wait_closed()
        await until(lambda: run.gateway.in_flight == 0)
