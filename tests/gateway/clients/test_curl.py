"""curl, with the switches that people use and with those that old programs behave like."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from gateway_harness import KEY, Running, StubProcess, running, served, until, until_stats
from real_clients import CHAT, NAME, PATH, WORDS

COMPLETIONS = "/v1/chat/completions"
BODY = json.dumps(CHAT)
STREAM = json.dumps(CHAT | {"stream": True})
JSON = ("-H", "Content-Type: application/json")
SLOW = ("--tokens", "1000", "--token-delay", "0.02")

# Exit codes of curl.
PARTIAL_FILE, HTTP_ERROR, TIMED_OUT = 18, 22, 28


@dataclass
class Ended:
    code: int
    output: bytes
    told: str


async def curl(*argv: str, stdin: bytes = b"", key: str = KEY) -> Ended:
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-m", "20", "-H", f"Authorization: Bearer {key}"),
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, told = await asyncio.wait_for(process.communicate(stdin), 30)
    return Ended(process.returncode or 0, output, told.decode())


async def ask(run: Running, *argv: str, path: str = COMPLETIONS, body: str = BODY) -> Ended:
    return await curl(*argv, *JSON, "-d", body, run.base + path)


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
async def test_every_version_gets_its_answer_and_its_stream(
    stub: StubProcess, version: str
) -> None:
    """HTTP/2 is asked for by an upgrade, which is not made."""
    async with running([served(stub)]) as run:
        whole = await ask(run, version)
        assert json.loads(whole.output)["choices"][0]["message"]["content"] == WORDS
        stream = await ask(run, version, "-N", body=STREAM)
        assert (whole.code, stream.code) == (0, 0)
        assert stream.output.count(b"data: ") == 7
        assert stream.output.endswith(b"data: [DONE]\n\n")
        await until(lambda: run.results() == {("ok", 200): 2})


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
async def test_one_connection_serves_several_requests(stub: StubProcess, version: str) -> None:
    async with running([served(stub)]) as run:
        kept = ("-H", "Connection: keep-alive", "-w", "%{stderr}%{num_connects} ")
        url = run.base + COMPLETIONS
        ended = await curl(version, *kept, *JSON, "-d", BODY, url, url, url)
        assert ended.code == 0
        assert ended.told.split() == ["1", "0", "0"]


@pytest.mark.parametrize("expect", [(), ("-H", "Expect:"), ("-H", "Expect: 100-continue")])
async def test_uploads_from_a_pipe_and_from_a_file(
    stub: StubProcess, tmp_path: Path, expect: tuple[str, ...]
) -> None:
    data = os.urandom(2_500_000)
    file = tmp_path / "data"
    file.write_bytes(data)
    async with running([served(stub)]) as run:
        url = f"{run.base}{PATH}/v1/inspect"
        for source, framing in (("-", "transfer-encoding"), (str(file), "content-length")):
            ended = await curl(*expect, "-T", source, url, stdin=data)
            seen = json.loads(ended.output)
            assert (ended.code, seen["method"], seen["size"]) == (0, "PUT", len(data))
            assert seen["sha256"] == hashlib.sha256(data).hexdigest()
            assert framing in {name.lower() for name, _ in seen["headers"]}
        form = ("-F", f"model={NAME}", "-F", f"file=@{file}")
        heard = await curl(*expect, *form, f"{run.base}/v1/audio/transcriptions")
        assert json.loads(heard.output)["text"] == hashlib.sha256(data).hexdigest()


async def test_an_upload_that_is_too_large_ends_with_the_reason(stub: StubProcess) -> None:
    data = os.urandom(2_000_000)
    async with running([served(stub)], max_body_bytes=100_000) as run:
        url = f"{run.base}{PATH}/v1/inspect"
        for expect in ("Expect:", "Expect: 100-continue"):
            ended = await curl("-H", expect, "-T", "-", "-w", " %{http_code}", url, stdin=data)
            text, _, status = ended.output.decode().rpartition(" ")
            assert status == "413"
            assert json.loads(text)["error"]["message"]


async def test_packed_answers_are_unpacked(stub: StubProcess) -> None:
    async with running([served(stub)]) as run:
        url = f"{run.base}{PATH}/v1/gzip"
        plain = b'{"compressed": true}' * 50
        assert (await curl("--compressed", url)).output == plain
        assert gzip.decompress((await curl(url)).output) == plain


async def test_a_head_request_has_the_fields_and_no_body(stub: StubProcess) -> None:
    async with running([served(stub)]) as run:
        url = f"{run.base}{PATH}/v1/inspect"
        ended = await curl("-I", "-w", "%{stderr}%{num_connects} ", url, url)
        assert ended.code == 0
        assert ended.told.split() == ["1", "0"]
        heads = ended.output.decode().lower().strip().split("\r\n\r\n")
        assert len(heads) == 2
        for head in heads:
            assert head.startswith("http/1.1 200")
            assert "content-length: " in head


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
async def test_failures_are_exit_codes(
    start_stub: Callable[..., StubProcess], version: str
) -> None:
    stub = start_stub(*SLOW)
    async with running([served(stub)]) as run:
        for path, key in ((f"{PATH}/v1/fail/503", KEY), ("/nothing", KEY), (COMPLETIONS, "no")):
            ended = await curl(version, "-f", *JSON, "-d", BODY, run.base + path, key=key)
            assert ended.code == HTTP_ERROR
        cut = await curl(version, f"{run.base}{PATH}/v1/cut/100000")
        assert cut.code in (PARTIAL_FILE, 56)  # 56: it was reset
        assert (await ask(run, version, "-m", "0.5")).code == TIMED_OUT
        left = await ask(run, version, "-N", "-m", "0.5", body=STREAM)
        assert left.code == TIMED_OUT
        assert b"tok0" in left.output
        await until_stats(stub, in_flight=0)
        expected = {("ok", 503): 1, ("engine_died", 200): 1, ("client_closed", 499): 2}
        await until(lambda: run.results() == expected)


async def test_a_full_model_is_retried_after_the_time_it_said(
    start_stub: Callable[..., StubProcess],
) -> None:
    stub = start_stub("--first-delay", "0.5")
    async with running([served(stub, max_concurrent_requests=1)]) as run:
        answers = await asyncio.gather(*(ask(run, "--retry", "3", "-f") for _ in range(2)))
        assert [ended.code for ended in answers] == [0, 0]
        results = run.results()
        assert results[("ok", 200)] == 2
        assert results[("refused", 429)] >= 1
