"""An engine that starts in a fraction of a second, so that models can take turns hundreds of times.

    python tests/soak/turning_engine.py --socket PATH --name a --folder FOLDER

It shows that it runs by a file ``alive/NAME.PID`` in its folder (``asleep/`` while it sleeps), which
nobody else writes: what runs is counted by these, not by what its supervisor believes. A request that
reaches it asleep leaves the file ``asked-asleep``. What its next start does is said by a file there:
``NAME.crash`` (ends with an error), ``NAME.bad`` (as with a wrong option), ``NAME.slow`` (takes so many
seconds). Told to end it does so at once, in the middle of an answer: a request that was moved away from
is cut, and seen.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import mmap
import os
import signal
import sys
from pathlib import Path
from typing import Any

LOAD_S = 0.05
TOKEN_S = 0.01
CRASHED = 1
BAD_OPTION = 2


def text_of(name: str, tokens: int) -> str:
    """What a model says: its name and numbers, so that another one's answer is known by its look."""
    return " ".join([name, *(str(number) for number in range(1, tokens))])


def take_order(folder: Path, name: str, what: str) -> str | None:
    """Take what the next start is to do; None: nothing was said."""
    path = folder / f"{name}.{what}"
    try:
        said = path.read_text(encoding="ascii")
        path.unlink()
    except OSError:
        return None
    return said


class Registration:
    """Shows that the engine runs, and whether it sleeps.

    Args:
        folder: Of the files.
        name: The model.
        memory_mib: Memory that it takes, and gives back while it sleeps: that is measured.
    """

    def __init__(self, folder: Path, name: str, memory_mib: int) -> None:
        self._size = memory_mib * 2**20
        self._memory = self._take()
        self.folder = folder
        self.name = name
        self._files = [folder / state / f"{name}.{os.getpid()}" for state in ("alive", "asleep")]
        self.is_asleep = False
        self._files[0].touch()

    def show(self, *, is_asleep: bool) -> None:
        """Tell that it goes to sleep, or is awake."""
        if is_asleep is not self.is_asleep:
            self.is_asleep = is_asleep
            if is_asleep and self._memory is not None:
                self._memory.close()
            self._files[not is_asleep].rename(self._files[is_asleep])
            if not is_asleep:
                self._memory = self._take()

    def _take(self) -> mmap.mmap | None:
        if not self._size:
            return None
        memory = mmap.mmap(-1, self._size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for start in range(0, self._size, mmap.PAGESIZE):
            memory[start] = 1
        return memory


class Engine:
    """Speaks just enough HTTP and OpenAI for the gateway."""

    def __init__(self, registration: Registration, load_s: float) -> None:
        self._name = registration.name
        self._registration = registration
        self._ready_at = asyncio.get_running_loop().time() + load_s

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
                body = await reader.readexactly(int(fields.get("content-length", "0")))
                path = head[0].split(" ")[1]
                if path.startswith("/v1/"):
                    await self._answer(writer, json.loads(body), fields.get("x-request-id", ""))
                elif path == "/metrics":
                    self._send(writer, 200, b"")
                elif path in ("/sleep", "/wake"):
                    self._registration.show(is_asleep=path == "/sleep")
                    self._send(writer, 200, b"{}")
                else:
                    is_ready = asyncio.get_running_loop().time() >= self._ready_at
                    self._send(writer, 200 if is_ready else 503, b"{}")
                await writer.drain()
        writer.close()

    def _send(self, writer: asyncio.StreamWriter, status: int, body: bytes, more: str = "") -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{more}"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)

    async def _answer(self, writer: asyncio.StreamWriter, asked: dict[str, Any], echo: str) -> None:
        if self._registration.is_asleep:
            (self._registration.folder / "asked-asleep").touch()
        count = int(asked["max_tokens"])
        text = text_of(self._name, count)
        envelope = {"id": "x", "created": 1, "model": self._name}
        echoed = f"X-Soak-Echo: {echo}\r\n"
        if not asked.get("stream"):
            await asyncio.sleep(count * TOKEN_S)
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = {**envelope, "object": "chat.completion", "choices": [choice]}
            self._send(writer, 200, json.dumps(answer).encode(), echoed)
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            + f"Transfer-Encoding: chunked\r\n{echoed}\r\n".encode()
        )
        words = text.split(" ")
        for number, word in enumerate(words):
            delta = {"content": word if number == 0 else f" {word}"}
            end = "stop" if number == len(words) - 1 else None
            choice = {"index": 0, "delta": delta, "finish_reason": end}
            event = {**envelope, "object": "chat.completion.chunk", "choices": [choice]}
            self._chunk(writer, b"data: " + json.dumps(event).encode() + b"\n\n")
            await writer.drain()
            await asyncio.sleep(TOKEN_S)
        self._chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    def _chunk(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def run(args: argparse.Namespace, registration: Registration) -> None:
    """Serve until told to end."""
    folder: Path = args.folder
    slow_s = take_order(folder, args.name, "slow")
    load_s = LOAD_S if slow_s is None else float(slow_s)
    if take_order(folder, args.name, "crash") is not None:
        await asyncio.sleep(load_s / 2)
        os._exit(CRASHED)
    engine = Engine(registration, load_s)
    if args.socket is not None:
        await asyncio.start_unix_server(engine.serve, args.socket)
    else:
        await asyncio.start_server(engine.serve, "127.0.0.1", args.port)
    await asyncio.Event().wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket")
    parser.add_argument("--port", type=int)
    parser.add_argument("--name", required=True)
    parser.add_argument("--memory-mib", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    registration = Registration(args.folder, args.name, args.memory_mib)
    if take_order(args.folder, args.name, "bad") is not None:
        sys.stdout.write("bad option --x\n")
        sys.stdout.flush()
        return BAD_OPTION
    asyncio.run(run(args, registration))
    return 0


if __name__ == "__main__":
    sys.exit(main())
