"""An engine that does as a request says, as fast as Python can on one core.

    python -m benchmarks.gateway.stub_engine --port 8000

Every answer says in ``X-Stub-Body`` what came as the request's body (its CRC-32 and length), so that
a proxy that changes one is noticed. ``POST /stub/release`` lets held streams go on, and
``GET /stub/stats`` tells how many streams are open. Any other GET is answered with the model list, for
proxies that ask whether the engine is well. It prints one line, ``listening``, when it can be asked.

A raw protocol instead of a framework: with `wrk` on the same core it must outrun nginx on another.
"""

from __future__ import annotations

import asyncio
import json
import signal
import zlib
from dataclasses import dataclass, field
from typing import cast

import click

from benchmarks.gateway import loop, wire

_BACKLOG = 4096
# Events are made once; a longer stream's are made when they are needed.
_READY_MADE = 4096
_HEADS_KEPT = 64
_CHUNKED = -1
_AT_ONCE = wire.Script()


@dataclass(eq=False)
class Engine:
    """What all connections share.

    Attributes:
        answer: The JSON answer's body.
        events: The first events, framed as HTTP chunks.
        open_streams: That have begun and not ended.
        held: Connections whose stream waits for its release.
        requests: Chat requests so far.
        at_once: By a request body's checksum: the whole answer, where it is no stream.
    """

    answer: bytes = field(default_factory=wire.answer)
    events: list[bytes] = field(
        default_factory=lambda: [as_chunk(wire.event(number)) for number in range(_READY_MADE)]
    )
    open_streams: int = 0
    held: set[Connection] = field(default_factory=set)
    requests: int = 0
    at_once: dict[int, bytes] = field(default_factory=dict)
    _lengths: dict[bytes, int] = field(default_factory=dict)

    def body_length(self, head: bytes) -> int:
        """Return how long a head says that its body is; most heads are like one seen before."""
        length = self._lengths.get(head)
        if length is None:
            if len(self._lengths) >= _HEADS_KEPT:
                self._lengths.clear()
            length = self._lengths[head] = _body_length(head)
        return length

    def event(self, number: int) -> bytes:
        """Return an event as an HTTP chunk."""
        return self.events[number] if number < _READY_MADE else as_chunk(wire.event(number))


class Connection(asyncio.Protocol):
    """One client: requests one after the other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._received = b""
        self._script: wire.Script | None = None  # of the stream that runs
        self._sent = 0
        self._due = 0.0
        self._timer: asyncio.Handle | None = None
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # A cast: uvloop's transports are of no common class.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the stream up."""
        if self._script is not None:
            self._end_stream()

    def pause_writing(self) -> None:
        """Generate nothing for a client that does not read."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._is_paused = False
        if self._script is not None and self._timer is None and self not in self._engine.held:
            self._timer = self._loop.call_soon(self._step)

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._received = data = self._received + data if self._received else data
        while data and self._script is None:
            head_end = data.find(b"\r\n\r\n")
            if head_end < 0:
                return
            start = head_end + 4
            length = end = self._engine.body_length(data[:head_end])
            if length == _CHUNKED:
                # Good enough here: no body of the benchmark has these bytes in its data.
                last = data.find(b"0\r\n\r\n", start)
                if last < 0:
                    return
                end = last + 5 - start
            whole = start + end
            if len(data) < whole:
                return
            self._received = data[whole:]
            if data.startswith(b"POST /v1/"):
                body = data[start:whole]
                self._generate(unchunked(body) if length == _CHUNKED else body)
            else:
                self._transport.write(_simple(self._about(data)))
            data = self._received

    def _generate(self, body: bytes) -> None:
        engine = self._engine
        engine.requests += 1
        checksum = zlib.crc32(body)
        at_once = engine.at_once.get(checksum)
        if at_once is not None:
            self._transport.write(at_once)
            return
        script = wire.script_in(body) or _AT_ONCE
        seen = b"X-Stub-Body: %08x-%d\r\n" % (checksum, len(body))
        if not script.events:
            engine.at_once[checksum] = _simple(engine.answer, seen)
            self._transport.write(engine.at_once[checksum])
            return
        self._script, self._sent = script, 0
        self._engine.open_streams += 1
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
            + seen
            + b"Transfer-Encoding: chunked\r\n\r\n"
        )
        self._due = self._loop.time()
        self._timer = self._loop.call_soon(self._step)

    def _step(self) -> None:
        """Send the next event; to be called again for the one after it."""
        script = self._script
        self._timer = None
        if script is None or self._is_paused:
            return
        if self._sent == script.events:
            self._transport.write(as_chunk(wire.closing(script.events)) + b"0\r\n\r\n")
            self._end_stream()
            if script.closes:
                self._transport.close()
            elif self._received:
                self.data_received(b"")
            return
        self._transport.write(self._engine.event(self._sent))
        self._sent += 1
        if script.holds and self._sent == 1:
            self._engine.held.add(self)
        else:
            self._schedule(script.gap_us)

    def _schedule(self, gap_us: int) -> None:
        if gap_us:
            # By the clock of the stream, so that a late event does not delay those after it.
            self._due += gap_us / 1e6
            self._timer = self._loop.call_at(self._due, self._step)
        else:
            self._timer = self._loop.call_soon(self._step)

    def _release(self) -> int:
        held, self._engine.held = self._engine.held, set()
        for connection in held:
            connection._due = connection._loop.time()
            connection._timer = connection._loop.call_soon(connection._step)
        return len(held)

    def _end_stream(self) -> None:
        self._script = None
        self._engine.open_streams -= 1
        self._engine.held.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _about(self, request: bytes) -> bytes:
        if request.startswith(b"POST /stub/release"):
            return json.dumps({"released": self._release()}).encode()
        if request.startswith(b"GET /stub/stats"):
            stats = {"open_streams": self._engine.open_streams, "requests": self._engine.requests}
            return json.dumps(stats).encode()
        model = {"id": wire.MODEL, "object": "model", "created": 0, "owned_by": "stub"}
        return json.dumps({"object": "list", "data": [model], "model_path": wire.MODEL}).encode()


def as_chunk(data: bytes) -> bytes:
    """Frame data as one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def unchunked(body: bytes) -> bytes:
    """Return the data of a complete chunked body."""
    parts: list[bytes] = []
    at = 0
    while True:
        line_end = body.index(b"\r\n", at)
        size = int(body[at:line_end], 16)
        if size == 0:
            return b"".join(parts)
        at = line_end + 2
        parts.append(body[at : at + size])
        at += size + 2


def _body_length(head: bytes) -> int:
    """The length that a head announces; `_CHUNKED` for a chunked body."""
    lowered = head.lower()
    start = lowered.find(b"\r\ncontent-length:")
    if start >= 0:
        end = lowered.find(b"\r\n", start + 17)
        return int(lowered[start + 17 : end if end >= 0 else None])
    return _CHUNKED if b"\r\ntransfer-encoding: chunked" in lowered else 0


def _simple(body: bytes, more: bytes = b"") -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
        % (more, len(body))
        + body
    )


async def serve(port: int, socket_path: str | None) -> None:
    """Listen on loopback, and on a Unix socket where one is given, until SIGTERM."""
    engine = Engine()
    running = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, ended.set)
    # Kept until the end: uvloop closes a server that nobody refers to.
    servers = [
        await running.create_server(lambda: Connection(engine), "127.0.0.1", port, backlog=_BACKLOG)
    ]
    if socket_path:
        servers.append(
            await running.create_unix_server(
                lambda: Connection(engine), socket_path, backlog=_BACKLOG
            )
        )
    click.echo("listening")
    await ended.wait()
    for server in servers:
        server.close()


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--socket", "socket_path", help="Also listen on this Unix socket.")
def main(port: int, socket_path: str | None) -> None:
    """Run the stub engine."""
    loop.run(serve(port, socket_path))


if __name__ == "__main__":
    main()
