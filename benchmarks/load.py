"""The load: streamed chat requests of a fixed length, in a process of its own.

``python -m benchmarks.load`` reads one `Load` as JSON from standard input, carries it out and prints
a `LoadResult`. It shares nothing with what it measures but the processors, so it does as little as it
can: it looks at the bytes of an answer only at their end, where the engine's own count of tokens is.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import aiohttp
import click

_PROMPT = "Tell me what plants need to grow, and how a gardener provides it."
_COUNT = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')
# What a stream gets while its model is not ready yet.
_COMMENTS = re.compile(rb"(?::[^\n]*\n+)+")
# The closing event with the usage is below 1 KiB in llama.cpp.
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Target:
    """Where requests go.

    Attributes:
        base_url: Ends in ``/v1``.
        model: What the field "model" says.
        socket_path: Unix socket to connect to instead of the URL's host.
        key: Sent as a bearer token.
    """

    base_url: str
    model: str
    socket_path: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Load:
    """What to ask: `streams` clients at a time, each `requests` times for `tokens` tokens."""

    target: Target
    streams: int
    requests: int
    tokens: int


@dataclass(frozen=True)
class LoadResult:
    """What came of it.

    Attributes:
        wall_s: From before the first request to after the last answer.
        tokens: Generated, as the engine counts them.
        first_token_s: Of each request, from sending it to the first bytes of its answer's body,
            comments of a stream that waits left out.
        cpu_s: Processor time of the load generator meanwhile.
    """

    wall_s: float
    tokens: int
    first_token_s: tuple[float, ...]
    cpu_s: float

    @property
    def tokens_per_s(self) -> float:
        """All streams together."""
        return self.tokens / self.wall_s


class LoadError(click.ClickException):
    """A request was refused, broke off, or did not do the work it was to do."""


def run_load(load: Load, timeout_s: float) -> LoadResult:
    """Carry out a load in a process of its own.

    Raises:
        LoadError: It failed, or took longer than `timeout_s`.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.load"],
            input=json.dumps(asdict(load)),  # not as an argument: it holds a key
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise LoadError(f"the load was not done within {timeout_s:g} s") from None
    if done.returncode != 0:
        raise LoadError(f"the load generator failed: {done.stderr.strip()[-2000:]}")
    answer = json.loads(done.stdout)
    return LoadResult(**{**answer, "first_token_s": tuple(answer["first_token_s"])})


def time_to_first_token(target: Target) -> float:
    """Seconds until the first bytes of one short answer; the answer is read to its end."""
    return asyncio.run(_carry_out(Load(target, 1, 1, 8))).first_token_s[0]


async def _carry_out(load: Load) -> LoadResult:
    connector: aiohttp.BaseConnector
    if load.target.socket_path is not None:
        # llama.cpp closes a connection after each stream, so none is kept.
        connector = aiohttp.UnixConnector(load.target.socket_path, force_close=True, limit=0)
    else:
        connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        cpu, started = time.process_time(), time.perf_counter()
        streams = [_stream(session, load) for _ in range(load.streams)]
        answers = [answer for each in await asyncio.gather(*streams) for answer in each]
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    return LoadResult(
        wall_s, sum(count for count, _ in answers), tuple(first for _, first in answers), cpu_s
    )


async def _stream(session: aiohttp.ClientSession, load: Load) -> list[tuple[int, float]]:
    return [await _ask(session, load) for _ in range(load.requests)]


async def _ask(session: aiohttp.ClientSession, load: Load) -> tuple[int, float]:
    """One request; returns the tokens generated and the seconds to the first bytes."""
    body = {
        "model": load.target.model,
        "messages": [{"role": "user", "content": _PROMPT}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "max_tokens": load.tokens,
        # The same work whatever the model would like to say, or has in its cache.
        "ignore_eos": True,
        "cache_prompt": False,
    }
    headers = {"Authorization": f"Bearer {load.target.key}"} if load.target.key else {}
    url = f"{load.target.base_url}/chat/completions"
    started = time.perf_counter()
    first: float | None = None
    tail = b""
    async with session.post(url, json=body, headers=headers) as response:
        if response.status != 200:
            raise LoadError(f"{url} answered {response.status}: {await response.text()}")
        while data := await response.content.readany():
            if first is None and not _COMMENTS.fullmatch(data):
                first = time.perf_counter() - started
            tail = (tail + data)[-_TAIL_BYTES:]
    counts = _COUNT.findall(tail)
    if first is None or not counts or b"[DONE]" not in tail:
        raise LoadError(f"the answer broke off or has no usage: {tail[-500:]!r}")
    if int(counts[-1]) != load.tokens:
        raise LoadError(f"asked for {load.tokens} tokens, got {int(counts[-1])}")
    return int(counts[-1]), first


def main() -> None:
    """Carry out the load of standard input."""
    given = json.loads(sys.stdin.read())
    load = Load(**{**given, "target": Target(**given["target"])})
    try:
        result = asyncio.run(_carry_out(load))
    except (LoadError, aiohttp.ClientError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
