"""Random users of an instance whose models take turns, each with the real `openai` client."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import openai
from openai import AsyncOpenAI

from tests.soak.accounts import Seen
from tests.soak.memory_faults import FaultLog
from tests.soak.turning_engine import text_of

ID_FIELD = "X-Request-Id"
DONE = b"data: [DONE]\n\n"
_SHOWN = 200
BROKEN_OFF = ("engine_crashed", "")
"""Codes of an answer that an engine began, or was to begin, when it died; "": no answer came."""


@dataclass
class Tap:
    """What came over the wire for one request.

    Attributes:
        status: Of the answer's head; 0: none came.
        echo: The request that the engine says it answered.
        tail: The last bytes of the answer.
        comments: Heartbeats.
    """

    status: int = 0
    echo: str = ""
    tail: bytes = b""
    comments: int = 0


class _Tapped(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, tap: Tap) -> None:
        self._stream = stream
        self._tap = tap

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._tap.tail = (self._tap.tail + piece)[-_SHOWN:]
            self._tap.comments += piece.count(b": the model is not ready")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class TappedTransport(httpx2.AsyncHTTPTransport):
    """The usual transport; keeps what came, by the requests' IDs.

    Args:
        taps: Gets it.
    """

    def __init__(self, taps: dict[str, Tap]) -> None:
        super().__init__(limits=httpx2.Limits(max_connections=500, max_keepalive_connections=50))
        self._taps = taps

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        tap = self._taps.setdefault(request.headers.get(ID_FIELD, ""), Tap())
        tap.status = response.status_code
        tap.echo = response.headers.get("X-Soak-Echo", "")
        response.stream = _Tapped(response.stream, tap)
        return response


@dataclass
class Weather:
    """Which models everybody wants at the moment.

    Attributes:
        names: The models.
        weights: How often each is asked for.
        pause_s: Mean pause of each user between two requests.
    """

    names: Sequence[str]
    weights: Sequence[float] = ()
    pause_s: float = 0.05

    async def run(self, seed: str, stop: asyncio.Event) -> None:
        """Change now and then."""
        pick = random.Random(seed)
        while not stop.is_set():
            kind = pick.choice(("uniform", "one", "two", "rare", "calm"))
            hot = pick.sample(range(len(self.names)), 2)
            self.pause_s = 0.5 if kind == "calm" else pick.choice((0.01, 0.05, 0.2))
            cold = {"one": 0.0, "two": 0.03, "rare": 0.005}.get(kind, 1.0)
            self.weights = [cold] * len(self.names)
            for index in hot[: 1 if kind == "one" else 2] if cold < 1 else ():
                self.weights[index] = 1.0  # type: ignore[index]
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), pick.uniform(0.5, 4.0))


@dataclass
class Waits:
    """How long requests waited for their answers to begin.

    Attributes:
        longest: By model, in seconds.
        comments: Heartbeats that came meanwhile.
    """

    longest: dict[str, float] = field(default_factory=lambda: collections.defaultdict(float))
    comments: int = 0

    def waited(self, model: str, seconds: float) -> None:
        """Note one."""
        self.longest[model] = max(self.longest[model], seconds)


class User:
    """Asks one thing after the other.

    Args:
        name: Of the user; begins the requests' IDs.
        seed: Decides what is asked.
        url: Of the gateway.
        key: Of the gateway.
        weather: Which models are asked for.
        faults: Explain errors.
        waits: Gets the waits.
        saw: Gets the ends.
    """

    def __init__(
        self,
        name: str,
        seed: str,
        url: str,
        key: str,
        weather: Weather,
        faults: FaultLog,
        waits: Waits,
        saw: Callable[[Seen], None],
    ) -> None:
        self._name = name
        self._random = random.Random(seed)
        self._url = url
        self._key = key
        self._weather = weather
        self._faults = faults
        self._waits = waits
        self._saw = saw
        self._count = 0
        self._taps: dict[str, Tap] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until told to stop."""
        pick = self._random
        http = httpx2.AsyncClient(transport=TappedTransport(self._taps), trust_env=False)
        async with AsyncOpenAI(
            api_key=self._key, base_url=f"{self._url}/v1", max_retries=0, http_client=http
        ) as client:
            while not stop.is_set():
                await self._ask(client)
                if pick.random() < 0.1:  # several at once
                    count = pick.randint(2, 6)
                    await asyncio.gather(*(self._ask(client) for _ in range(count)))
                with contextlib.suppress(asyncio.TimeoutError):
                    pause_s = pick.expovariate(1 / self._weather.pause_s)
                    await asyncio.wait_for(stop.wait(), pause_s)

    async def _ask(self, client: AsyncOpenAI) -> None:
        pick, weather = self._random, self._weather
        self._count += 1
        name = f"turns-{self._name}-{self._count}"
        model = pick.choices(weather.names, weights=weather.weights)[0]
        tokens = pick.choice((1, 3, 3, 10, 10, 60))
        is_stream = pick.random() < 0.6
        request = _Request(client, name, model, tokens, self._taps.setdefault(name, Tap()))
        leaves_s = pick.choice((0.02, 0.2, 1.0)) * pick.random() if pick.random() < 0.12 else None
        timeout_s = pick.uniform(0.1, 2.0) if pick.random() < 0.05 else None
        asked = asyncio.ensure_future(
            request.stream(timeout_s) if is_stream else request.whole(timeout_s)
        )
        await asyncio.wait({asked}, timeout=leaves_s)
        if not asked.done():
            asked.cancel()
            await asyncio.wait({asked})
            seen = request.seen("left", "left")
        else:
            seen = asked.result()
        del self._taps[name]
        self._waits.comments += request.tap.comments
        self._saw(self._judge(request, seen))

    def _judge(self, request: _Request, seen: Seen) -> Seen:
        """Add to what was seen whether it may be."""
        if seen.end == "left":
            return seen
        if seen.end == "answer" and seen.is_engines:  # whole; its fault is of its content
            if request.first_at is not None:
                self._waits.waited(request.model, request.first_at - request.began)
            return seen
        now = time.monotonic()
        if not seen.fault and self._faults.explains(
            request.model, request.began, now, is_refused=request.code not in BROKEN_OFF
        ):
            return seen
        fault = (
            f"{seen.fault or 'it failed'} after {now - request.began:.2f} s, and no fault of "
            f"{request.model} explains it: {request.error[:300]} {request.text[:60]!r}"
        )
        return replace(seen, fault=fault)


class _Request:
    """One request, and what came of it."""

    def __init__(self, client: AsyncOpenAI, name: str, model: str, tokens: int, tap: Tap) -> None:
        self._client = client
        self._name = name
        self.model = model
        self._tokens = tokens
        self.tap = tap
        self.began = time.monotonic()
        self.first_at: float | None = None
        self.text = ""
        self.error = ""
        self.code = ""

    async def whole(self, timeout_s: float | None) -> Seen:
        """Ask for an answer in one piece."""
        try:
            answer = await self._client.chat.completions.create(**self._arguments(timeout_s))
        except openai.APIError as error:
            return self._failed(error)
        self.text = answer.choices[0].message.content or ""
        self.first_at = time.monotonic()
        return self._whole("chat", answer.model)

    async def stream(self, timeout_s: float | None) -> Seen:
        """Ask for a stream."""
        model = ""
        try:
            stream = await self._client.chat.completions.create(
                **self._arguments(timeout_s), stream=True
            )
            async for chunk in stream:
                model = chunk.model
                if self.first_at is None:
                    self.first_at = time.monotonic()
                self.text += chunk.choices[0].delta.content or ""
        except (openai.APIError, httpx2.HTTPError) as error:
            return self._failed(error)
        if not self.tap.tail.endswith(DONE):
            self.error = f"the stream ended without [DONE]: {self.tap.tail!r}"
            return self.seen("stream", "broken")
        return self._whole("stream", model)

    def _arguments(self, timeout_s: float | None) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": self._name}],
            "max_tokens": self._tokens,
            "extra_headers": {ID_FIELD: self._name},
            "timeout": 120.0 if timeout_s is None else timeout_s,
        }

    def seen(self, what: str, end: str) -> Seen:
        """What is told of it."""
        return Seen(self._name, what, end, self.tap.status, is_sent=end != "left")

    def _whole(self, what: str, model: str) -> Seen:
        fault = ""
        if (model, self.text) != (self.model, text_of(self.model, self._tokens)):
            fault = f"{model} answered instead of {self.model}, or not whole: {self.text!r}"
        # With heartbeats the head is the gateway's, and the engine's fields are lost with its own.
        if self.tap.echo != self._name and not self.tap.comments:
            fault = f"the answer is to {self.tap.echo}"
        return Seen(self._name, what, "answer", 200, is_engines=True, fault=fault)

    def _failed(self, error: Exception) -> Seen:
        self.error = f"{type(error).__name__}: {error}"
        self.code = str(getattr(error, "code", None) or "")
        if isinstance(error, (openai.APITimeoutError, httpx2.TimeoutException)):
            return self.seen("deadline", "left")
        if isinstance(error, openai.APIStatusError):
            self.error = f"{error.status_code} {self.error}"
            return self.seen("error", "answer")
        if isinstance(error, (openai.APIConnectionError, httpx2.HTTPError)):
            return self.seen("error", "broken" if self.tap.status else "nothing")
        return self.seen("error", "event")  # an event of the stream that tells an error
