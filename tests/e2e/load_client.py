"""A client that makes a fixed load of requests and counts what became of each."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import aiohttp

Kind = Literal[
    "chat", "usage_stream", "stream", "completion", "embedding", "aborted", "bad", "unknown", "key"
]
CLIENT_LEFT = 499
# Long enough for any answer of a busy machine.
_TIMEOUT = aiohttp.ClientTimeout(total=100)
_PATHS: dict[str, str] = {"completion": "completions", "embedding": "embeddings"}


@dataclass(frozen=True)
class Asked:
    """A request to make.

    Attributes:
        kind: What it is.
        model: For which model.
        tokens: The answer's tokens, at most.
        seconds: How long the stub takes for it; None leaves it to the engine.
    """

    kind: Kind
    model: str
    tokens: int = 20
    seconds: float | None = None

    @property
    def is_stream(self) -> bool:
        return self.kind in ("usage_stream", "stream", "aborted")

    def body(self, number: int) -> dict[str, Any]:
        """What is sent; each prompt is another one."""
        prompt = f"Number {number}: tell me about gravity and the moon."
        body: dict[str, Any] = {"model": "nobody" if self.kind == "unknown" else self.model}
        if self.kind == "embedding":
            body["input"] = prompt
        else:
            body |= {"max_tokens": self.tokens, "temperature": 0, "ignore_eos": True}
            asked = [{"role": "user", "content": prompt}]
            body |= {"prompt": prompt} if self.kind == "completion" else {"messages": asked}
        if self.kind == "bad":
            body |= {"messages": "none", "stub_status": 400}
        if self.is_stream:
            body["stream"] = True
        if self.kind == "usage_stream":
            body["stream_options"] = {"include_usage": True}
        if self.seconds is not None:
            body["stub_seconds"] = self.seconds
        return body


@dataclass(frozen=True)
class Seen:
    """What became of a request, as its client saw it.

    Attributes:
        asked: It.
        status: HTTP status; 499 where the client left.
        began: Unix time at which it was sent.
        seconds: From sending to the end of the answer.
        first_s: From sending to the first piece of a stream.
        prompt: Tokens of the prompt as the answer tells them, without those from a cache.
        completion: Generated tokens as the answer tells them.
        pieces: Pieces of text of a stream.
        has_usage: Whether the answer tells of tokens.
    """

    asked: Asked
    status: int
    began: float
    seconds: float
    first_s: float | None = None
    prompt: int = 0
    completion: int = 0
    pieces: int = 0
    has_usage: bool = False

    @property
    def model(self) -> str:
        """The model that it is counted for; none where it was refused before that was known."""
        return "" if self.status in (401, 404) else self.asked.model

    @property
    def outcome(self) -> str:
        """The outcome as the metrics call it."""
        if self.status == CLIENT_LEFT:
            return "client_closed"
        return "refused" if self.status in (401, 404, 429) else "ok"

    @property
    def ended(self) -> float:
        return self.began + self.seconds


@dataclass
class Load:
    """Requests to one instance, several at a time.

    Attributes:
        url: The instance.
        key: That it wants.
        seen: What became of those that have ended.
    """

    url: str
    key: str
    seen: list[Seen] = field(default_factory=list)
    _number: int = 0

    async def make(self, requests: Sequence[Asked], at_once: int) -> None:
        """Make them in order, `at_once` at the same time."""
        waiting = iter(requests)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:

            async def work() -> None:
                for asked in waiting:
                    self.seen.append(await self._one(session, asked))

            await asyncio.gather(*(work() for _ in range(at_once)))

    async def _one(self, session: aiohttp.ClientSession, asked: Asked) -> Seen:
        self._number += 1
        key = "wrong" if asked.kind == "key" else self.key
        body = json.dumps(asked.body(self._number)).encode()
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        route = _PATHS.get(asked.kind, "chat/completions")
        began, started = time.time(), time.perf_counter()
        first_s: float | None = None
        pieces: list[bytes] = []
        async with session.post(f"{self.url}/v1/{route}", data=body, headers=headers) as answer:
            status = answer.status
            while piece := await answer.content.readany():
                first_s = time.perf_counter() - started if first_s is None else first_s
                pieces.append(piece)
                # The first event may be one that sets the role.
                if asked.kind == "aborted" and b"".join(pieces).count(b"data: {") > 1:
                    status = CLIENT_LEFT
                    answer.close()  # the connection with it
                    break
        seen = Seen(asked, status, began, time.perf_counter() - started)
        whole = b"".join(pieces)
        if status not in (200, CLIENT_LEFT):
            return seen
        if asked.is_stream:
            return _of_stream(replace(seen, first_s=first_s), whole)
        return _with_usage(seen, json.loads(whole))


def _of_stream(seen: Seen, whole: bytes) -> Seen:
    events = [
        json.loads(event.removeprefix(b"data: "))
        for event in whole.split(b"\n\n")
        if event.startswith(b"data: {") and event.endswith(b"}")
    ]
    deltas = [c.get("delta", {}) for event in events for c in event.get("choices", ())]
    seen = replace(seen, pieces=sum(bool(delta.get("content")) for delta in deltas))
    telling = [event for event in events if event.get("usage") or event.get("timings")]
    return _with_usage(seen, telling[-1]) if telling else seen


def _with_usage(seen: Seen, answer: dict[str, Any]) -> Seen:
    if not answer.get("usage"):  # llama.cpp's streams
        timings = answer["timings"]
        prompt, completion = timings["prompt_n"], timings["predicted_n"]
        return replace(seen, prompt=prompt, completion=completion, has_usage=True)
    usage = answer["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return replace(
        seen,
        prompt=usage["prompt_tokens"] - cached,
        completion=usage.get("completion_tokens", 0),
        has_usage=True,
    )


def results(seen: Sequence[Seen]) -> Counter[tuple[str, str, int]]:
    """How many by (model, outcome, status)."""
    return Counter((one.model, one.outcome, one.status) for one in seen)


def answered(seen: Sequence[Seen], model: str) -> list[float]:
    """How long the answered requests of a model took, in seconds, sorted."""
    return sorted(one.seconds for one in seen if one.model == model and one.status == 200)


def nearest_rank(values: Sequence[float], q: float) -> float:
    """The smallest of sorted values that a share `q` does not exceed."""
    return values[max(0, -int(-q * len(values) // 1) - 1)]
