"""Random clients: each picks a kind of request, makes it, and says what it saw."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tests.soak.accounts import Seen
from tests.soak.faulty_engine import BREAKING, ECHO_FIELD, FAULT_FIELD, HARMLESS, RAW_FAULTS
from tests.soak.wire import BrokenOffError, Head, Wire

MODELS = ("plain", "org/narrow", "keeps")
PATIENCE_S = 15.0
"""Longer than the gateway waits for anything but a hung engine."""

FAULTS = sorted(RAW_FAULTS)


@dataclass
class Ask:
    """One request as it goes out.

    Attributes:
        what: Its kind, for people.
        body: None: it has none.
        fault: How the engine is to answer.
        leaves_after: The client leaves after so many pieces of the answer; 0: before the first.
        pause_s: Between two pieces that are read.
        pieces: The body goes in chunks, so many; 0: with its length.
        expected: The answer's body if an engine makes it; None: not known before.
        keeps: The connection may be used again.
    """

    what: str
    path: str
    body: bytes | None = None
    method: str = "POST"
    key: str = ""
    kind: str = "application/json"
    fault: str = ""
    extra: str = ""
    leaves_after: int | None = None
    pause_s: float = 0.0
    pieces: int = 0
    expected: bytes | None = None
    keeps: bool = True


class Client:
    """One client, on one connection at a time."""

    def __init__(
        self,
        name: str,
        seed: str,
        port: int,
        keys: Mapping[str, str],
        saw: Callable[[Seen], None],
    ) -> None:
        self._name = name
        self._random = random.Random(seed)
        self._port = port
        self._keys = keys
        self._saw = saw
        self._count = 0
        self._wire: Wire | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Make requests until told to stop."""
        pick = self._random
        while not stop.is_set():
            roll = pick.random()
            if roll < 0.03:
                await self._pipeline()
            elif roll < 0.06:
                await self._drop_a_connection()
            elif roll < 0.09:
                await self._leave_an_upload()
            else:
                await self._make(self._ask())
            if pick.random() < 0.5:
                await asyncio.sleep(pick.random() * 0.1)
        await self._hang_up()

    # What is asked.

    def _id(self) -> str:
        self._count += 1
        return f"soak-{self._name}-{self._count}"

    def _ask(self) -> Ask:
        pick = self._random
        make = pick.choices(
            (self._chat, self._upload, self._download, self._bad, self._own),
            weights=(60, 12, 8, 10, 10),
        )[0]
        ask = make()
        if not ask.key:
            names = ("free", "urgent", "often", "two", "tokens", "one model")
            ask.key = self._keys[pick.choices(names, weights=(10, 4, 4, 2, 1, 1))[0]]
        ask.keeps = pick.random() < 0.8
        return ask

    def _chat(self) -> Ask:
        pick = self._random
        model = pick.choice(MODELS)
        is_stream = pick.random() < 0.5
        tokens = pick.choice((1, 5, 5, 20, 60))
        message = {"role": "user", "content": "word " * pick.choice((1, 10, 300))}
        content = {"messages": [message], "stream": is_stream, "max_tokens": tokens}
        by_path = pick.random() < 0.5
        body = json.dumps(content if by_path else content | {"model": model}).encode()
        path = f"/{model}/v1/chat/completions" if by_path else "/v1/chat/completions"
        ask = Ask("stream" if is_stream else "chat", path, body)
        roll = pick.random()
        if roll < 0.15:
            ask.fault = pick.choice(FAULTS) if pick.random() < 0.97 else "dies"
        elif roll < 0.3:
            ask.fault = pick.choice(HARMLESS)
        if pick.random() < 0.15:
            ask.what += ", left"
            ask.leaves_after = pick.choice((0, 0, 1, 2, 10))
            ask.pause_s = pick.choice((0.0, 0.0, 0.05))
        return ask

    def _upload(self) -> Ask:
        pick = self._random
        model = pick.choice(MODELS)
        data = pick.randbytes(pick.choice((0, 10, 5_000, 200_000, 1_500_000)))
        ask = Ask("upload", f"/{model}/v1/echo", data, kind="application/octet-stream")
        ask.expected = data
        if pick.random() < 0.3:
            part = 'Content-Disposition: form-data; name="{}"\r\n\r\n'
            ask.body = (
                b"--B\r\n" + part.format("file").encode() + data.replace(b"--B", b"")
            ) + f"\r\n--B\r\n{part.format('model')}{model}\r\n--B--\r\n".encode()
            ask.expected = ask.body
            ask.kind = "multipart/form-data; boundary=B"
            ask.path = "/v1/echo"
            ask.what = "form"
        if pick.random() < 0.4:
            ask.pieces = pick.choice((1, 3, 20))
            ask.what += " in chunks"
        if pick.random() < 0.2:
            ask.extra += "Expect: 100-continue\r\n"
        if pick.random() < 0.2:
            ask.fault = pick.choice((*FAULTS, "answers early", "answers early"))
        return ask

    def _download(self) -> Ask:
        pick = self._random
        count = pick.choice((100, 300_000, 3_000_000))
        ask = Ask("slow reader", f"/{pick.choice(MODELS)}/v1/bytes/{count}", method="GET")
        ask.expected = (bytes(range(251)) * (count // 251 + 1))[:count]
        ask.pause_s = 0.02
        ask.keeps = False
        if pick.random() < 0.3:
            ask.leaves_after = 3
            ask.what += ", left"
        return ask

    def _bad(self) -> Ask:
        pick = self._random
        path = f"/{pick.choice(MODELS)}/v1/chat/completions"
        kind = pick.randrange(9)
        if kind == 0:
            return Ask("wrong key", path, b"{}", key="guess")
        if kind == 1:
            return Ask(
                "key of no use", path, b"{}", key=self._keys[pick.choice(("reader", "over"))]
            )
        if kind == 2:
            return Ask("unknown model", "/v1/chat/completions", b'{"model": "no"}')
        if kind == 3:
            return Ask("no JSON", "/v1/chat/completions", b"{oh")
        if kind == 4:
            return Ask("no such path", "/nothing/here", b"{}")
        if kind == 5:
            return Ask("too large", path, b"x" * 5_000_000)
        if kind == 6:
            return Ask("too large in chunks", path, b"x" * 5_000_000, pieces=50)
        if kind == 7:
            return Ask("operator's route", f"/{pick.choice(MODELS)}/slots", method="GET")
        return Ask("bad length", path, b"", extra="Content-Length: 1x\r\n")

    def _own(self) -> Ask:
        path = self._random.choice(("/v1/models", "/health", "/metrics", "/ready", "/"))
        return Ask(f"own {path}", path, method="GET")

    # How it goes.

    def _head(self, ask: Ask, name: str) -> bytes:
        lines = [f"{ask.method} {ask.path} HTTP/1.1", "Host: soak", f"X-Request-Id: {name}"]
        lines += [f"Authorization: Bearer {ask.key}", f"{FAULT_FIELD}: {ask.fault}"]
        if ask.body is not None:
            lines.append(f"Content-Type: {ask.kind}")
            if ask.pieces:
                lines.append("Transfer-Encoding: chunked")
            elif "Content-Length" not in ask.extra:
                lines.append(f"Content-Length: {len(ask.body)}")
        if not ask.keeps:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n" + ask.extra + "\r\n").encode()

    async def _make(self, ask: Ask) -> None:
        name = self._id()
        wire = self._wire
        if wire is None or ask.pause_s:
            await self._hang_up()
            wire = self._wire = await Wire.open(self._port, 8192 if ask.pause_s else 0)
        wire.uses += 1
        sending = asyncio.ensure_future(self._send(wire, ask, name))
        try:
            seen = await asyncio.wait_for(self._answer(wire, ask, name), PATIENCE_S)
        except asyncio.TimeoutError:
            await self._hang_up()
            seen = Seen(name, f"{ask.what}, out of patience", "left")
        except BrokenOffError as error:
            await self._hang_up()
            seen = Seen(name, ask.what, "nothing", fault=str(error))
        if not sending.done():
            sending.cancel()
            await self._hang_up()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        if seen.end == "nothing":
            fault = f"no answer ({ask.fault}) on use {wire.uses} of a connection. {seen.fault}"
            seen = replace(seen, fault=fault)
        if ask.what == "bad length":  # its head is no head: the gateway does not know its ID
            seen = replace(seen, is_sent=False, fault="" if seen.status == 400 else "no 400")
        self._saw(seen)

    async def _send(self, wire: Wire, ask: Ask, name: str) -> None:
        body = ask.body or b""
        if not ask.pieces:
            await wire.send(self._head(ask, name) + body)
            return
        await wire.send(self._head(ask, name))
        size = max(1, len(body) // ask.pieces)
        for at in range(0, len(body), size):
            piece = body[at : at + size]
            await wire.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            if self._random.random() < 0.1:
                await asyncio.sleep(0.02)
        await wire.send(b"0\r\n\r\n")

    async def _answer(self, wire: Wire, ask: Ask, name: str) -> Seen:
        if ask.leaves_after == 0:
            await asyncio.sleep(ask.pause_s)
            await asyncio.sleep(0)  # the request is written by now
            await self._hang_up()
            return Seen(name, ask.what, "left")
        head = await wire.head()
        echo = head.fields.get(ECHO_FIELD.lower())
        seen = Seen(name, ask.what, "answer", head.status, echo is not None)
        parts: list[bytes] = []
        try:
            async for piece in wire.body(head):
                parts.append(piece)
                if ask.leaves_after is not None and len(parts) >= ask.leaves_after:
                    await self._hang_up()
                    return replace(seen, end="left")
                if ask.pause_s:
                    await asyncio.sleep(ask.pause_s)
        except BrokenOffError:
            await self._hang_up()
            return replace(seen, end="broken")
        if not (head.keeps_alive and ask.keeps):
            await self._hang_up()
        return self._judge(seen, ask, head, b"".join(parts))

    def _judge(self, seen: Seen, ask: Ask, head: Head, body: bytes) -> Seen:
        """Say whether a whole answer is the one that was asked for."""
        fault = ""
        echo = head.fields.get(ECHO_FIELD.lower())
        if head.fields.get("x-request-id") != seen.id and ask.what != "bad length":
            fault = f"the answer is to {head.fields.get('x-request-id')!r}"
        elif echo not in (None, seen.id):
            fault = f"the answer is the engine's to {echo!r}"
        is_stream = head.fields.get("content-type", "").startswith("text/event-stream")
        if is_stream:
            if b"\n\nevent: error\n" in b"\n\n" + body:
                return replace(seen, end="event", fault=fault)
            # Behind heartbeats the head is the gateway's.
            seen = replace(seen, is_engines=True)
            if not body.endswith(b"data: [DONE]\n\n"):
                fault = fault or f"a stream without an end: {body[-100:]!r}"
        elif echo is None and head.status < 400 and not ask.what.startswith("own "):
            fault = fault or f"{head.status}, but no engine's answer"
        elif head.status >= 400 and "json" not in head.fields.get("content-type", ""):
            fault = fault or f"an error that is no JSON: {body[:100]!r}"
        if seen.is_engines and ask.fault in BREAKING:
            fault = fault or f"a whole answer of an engine that did this: {ask.fault}"
        if echo and head.status == 200 and ask.expected not in (None, body):
            fault = fault or f"another body than was sent: {body[:50]!r}, {len(body)} bytes"
        return replace(seen, fault=fault)

    async def _pipeline(self) -> None:
        """Several requests at once, their answers in order; perhaps the client leaves in between."""
        await self._hang_up()
        asks = []
        for _ in range(self._random.randint(2, 6)):
            ask = self._chat() if self._random.random() < 0.7 else self._own()
            ask.key, ask.leaves_after, ask.pause_s, ask.what = (
                self._keys["free"],
                None,
                0,
                "in line",
            )
            if ask.fault in BREAKING:
                ask.fault = ""
            asks.append((ask, self._id()))
        leaves_after = self._random.choice((len(asks), len(asks), 0, 1))
        wire = self._wire = await Wire.open(self._port)
        await wire.send(b"".join(self._head(ask, name) + (ask.body or b"") for ask, name in asks))
        is_over = False
        for index, (ask, name) in enumerate(asks):
            if (
                ask.path.startswith(("/v1/models", "/health", "/metrics", "/ready"))
                or ask.path == "/"
            ):
                ask = replace(ask, what="own in line")
            if not is_over and index < leaves_after:
                try:
                    seen = await asyncio.wait_for(self._answer(wire, ask, name), PATIENCE_S)
                except (BrokenOffError, asyncio.TimeoutError):
                    seen = Seen(name, ask.what, "left")
                is_over = self._wire is None or seen.end in ("broken", "left")
            else:
                seen = Seen(name, ask.what, "left")
                if not is_over:
                    await asyncio.sleep(0.05)
                    await self._hang_up()
                    is_over = True
            self._saw(seen)
        await self._hang_up()

    async def _drop_a_connection(self) -> None:
        """Connect and go, with nothing or half a head."""
        wire = await Wire.open(self._port)
        half = b"POST /v1/chat/completions HTTP/1.1\r\nHost: so"
        await wire.send(self._random.choice((b"", half)))
        await asyncio.sleep(self._random.choice((0, 0.01)))
        await wire.close()

    async def _leave_an_upload(self) -> None:
        """Leave, or fall silent, in the middle of an upload."""
        await self._hang_up()
        name = self._id()
        ask = replace(
            self._upload(), key=self._keys["free"], fault="", extra="", what="half upload"
        )
        head = self._head(replace(ask, body=b"x" * 100_000, pieces=0), name)
        wire = self._wire = await Wire.open(self._port)
        await wire.send(head + b"x" * 50_000)
        if self._random.random() < 0.7:
            await asyncio.sleep(self._random.random() * 0.1)
            await self._hang_up()
            self._saw(Seen(name, ask.what, "left"))
            return
        try:  # 408, or an earlier refusal
            seen = await asyncio.wait_for(self._answer(wire, ask, name), PATIENCE_S)
        except (BrokenOffError, asyncio.TimeoutError):
            seen = Seen(name, ask.what, "nothing", fault="a half upload was not answered")
        self._saw(replace(seen, what="silent upload"))
        await self._hang_up()

    async def _hang_up(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()
