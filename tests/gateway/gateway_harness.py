"""The real gateway in front of stub engines that are real processes."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from common.engines.contract import EngineAddress
from common.gateway.app import Gateway
from common.gateway.auth import ApiKeyAuthenticator, Authenticator
from common.gateway.models import AdminOperations, GatewaySettings, MemoryView, ServedModel
from common.telemetry.recorder import Recorder

STUB = Path(__file__).parents[1] / "fakes" / "stub_engine.py"
KEY = "test-key-1"
AUTH = {"Authorization": f"Bearer {KEY}"}


class StubProcess:
    """One stub engine on a Unix socket."""

    def __init__(self, *flags: str, wait: bool = True) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gw")
        path = Path(self._folder.name) / "e.sock"
        self.address = EngineAddress(socket_path=path)
        self.process = subprocess.Popen(
            [sys.executable, str(STUB), "--socket", str(path), *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if wait:
            self._wait_for_socket(path)

    def _wait_for_socket(self, path: Path) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(path))
                    return
                except OSError:
                    time.sleep(0.02)
        self.stop()
        raise AssertionError("the stub engine did not start")

    async def stats(self) -> dict[str, Any]:
        connector = aiohttp.UnixConnector(str(self.address.socket_path))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://engine/stub/stats") as answer,
        ):
            return dict(await answer.json())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._folder.cleanup()


@dataclass
class ManualUpstream:
    """An upstream whose state the test sets; `ensure_ready` keeps the protocol's promises."""

    name: str
    address: EngineAddress
    status: Any = "ready"
    failure: str | None = None
    error: Exception | None = None
    waiters: int = 0
    cancelled: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    memory: MemoryView | None = None

    def become(self, status: str, error: Exception | None = None) -> None:
        self.status, self.error = status, error
        self.changed.set()

    async def ensure_ready(self, timeout_s: float | None) -> None:
        from common.errors import CapacityError

        if self.status == "ready":
            return
        self.waiters += 1
        try:
            if self.error is None:
                await asyncio.wait_for(self.changed.wait(), timeout_s)
        except asyncio.TimeoutError:
            raise CapacityError(f"{self.name!r} was not ready within {timeout_s} s.") from None
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiters -= 1
        if self.error is not None:
            raise self.error


def served(stub: StubProcess, name: str = "org/repo/M.gguf", **changes: Any) -> ServedModel:
    """A model served by a stub; `status` and limits can be set."""
    upstream = ManualUpstream(name, stub.address, changes.pop("status", "ready"))
    values: dict[str, Any] = {
        "max_concurrent_requests": None,
        "max_input_tokens": None,
        "max_total_tokens": None,
        "created": 1700000000,
    }
    return ServedModel(name, upstream, **(values | changes))


@dataclass
class Running:
    """A started gateway, a client that talks to it, and what it logged."""

    gateway: Gateway
    recorder: Recorder
    session: aiohttp.ClientSession
    lines: list[str]

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    def results(self, model: str = "org/repo/M.gguf") -> dict[tuple[str, int], int]:
        totals = self.recorder.snapshot().models.get(model)
        return dict(totals.results) if totals else {}


def settings(**changes: Any) -> GatewaySettings:
    values: dict[str, Any] = {
        "host": "127.0.0.1",
        "ports": (0,),
        "max_body_bytes": 4 * 2**20,
        "load_wait_s": 10.0,
        "public_url": None,
        "task_id": "0123abcd" * 4,
        "instance_name": "Test <instance>",
    }
    return GatewaySettings(**(values | changes))


@asynccontextmanager
async def running(
    models: Sequence[ServedModel],
    *,
    authenticator: Authenticator | None = None,
    admin: AdminOperations | None = None,
    headers: dict[str, str] | None = None,
    **changes: Any,
) -> AsyncIterator[Running]:
    """Run a gateway; the session sends the instance's key unless other headers are given."""
    recorder = Recorder([model.name for model in models])
    lines: list[str] = []
    gateway = Gateway(
        settings(**changes),
        models,
        authenticator or ApiKeyAuthenticator(KEY),
        recorder,
        admin,
        lines.append,
    )
    await gateway.start()
    try:
        async with aiohttp.ClientSession(
            headers=AUTH if headers is None else headers,
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0),
        ) as session:
            yield Running(gateway, recorder, session, lines)
    finally:
        await gateway.stop()


def assert_error(
    status: int, headers: Any, body: bytes, *, expect: int, code: str, words: Sequence[str] = ()
) -> dict[str, Any]:
    """Check that an answer is OpenAI's error envelope, and return its error object."""
    assert status == expect, body
    assert headers["Content-Type"].startswith("application/json")
    envelope = json.loads(body)
    assert set(envelope) == {"error"}
    error = dict(envelope["error"])
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code, error
    assert error["message"]
    assert error["type"]
    for word in words:
        assert word in error["message"], error["message"]
    return error


async def check_refused(
    answer: aiohttp.ClientResponse, *, expect: int, code: str, words: Sequence[str] = ()
) -> dict[str, Any]:
    """As `assert_error`, for a client's response."""
    body = await answer.read()
    return assert_error(answer.status, answer.headers, body, expect=expect, code=code, words=words)


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.005)


async def until_stats(stub: StubProcess, timeout_s: float = 5.0, **expected: int) -> None:
    """Poll a stub's statistics until they have the given values."""
    deadline = time.monotonic() + timeout_s
    while True:
        stats = await stub.stats()
        if all(stats[key] == value for key, value in expected.items()):
            return
        assert time.monotonic() < deadline, stats
        await asyncio.sleep(0.01)


async def raw_exchange(port: int, data: bytes, timeout_s: float = 5.0) -> bytes:
    """Send bytes on a socket and return all that comes until the gateway closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), timeout_s)
    finally:
        writer.close()
        await writer.wait_closed()
