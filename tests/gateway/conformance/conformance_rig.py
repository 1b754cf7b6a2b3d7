"""The real gateway on its own thread and event loop, in front of engines that play scripts."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from conformance_wire import Answer, Client, until
from gateway_harness import KEY, ManualUpstream, settings

from common.engines.contract import EngineAddress
from common.gateway.app import Gateway
from common.gateway.auth import ApiKeyAuthenticator, Authenticator
from common.gateway.models import ServedModel
from common.telemetry.recorder import ModelSnapshot, Recorder

T = TypeVar("T")

MODEL = "m"
HEAD = f"Host: x\r\nX-Api-Key: {KEY}\r\n".encode()
"""What every request needs."""


def request(
    method: str = "POST",
    path: str = "/v1/seen",
    *fields: bytes,
    body: bytes = b"",
    chunks: Sequence[bytes] | None = None,
    version: bytes = b"HTTP/1.1",
    model: str = MODEL,
) -> bytes:
    """Return a proper request for a model, with a length unless `chunks` are given."""
    line = f"{method} /{model}{path} ".encode() + version + b"\r\n"
    head = line + HEAD + b"".join(field + b"\r\n" for field in fields)
    if chunks is not None:
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(chunks)
    if body or method in ("POST", "PUT", "PATCH"):
        head += b"Content-Length: %d\r\n" % len(body)
    return head + b"\r\n" + body


def chunked(chunks: Sequence[bytes]) -> bytes:
    """Return a body in these chunks, with its end."""
    return b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"


def play(*steps: list[Any], path: str = "/v1/play") -> str:
    """Return the path of a request that the raw engine answers with these steps."""
    return f"{path}?script={base64.urlsafe_b64encode(json.dumps(steps).encode()).decode()}"


def said(text: str, *after: list[Any]) -> str:
    """Return the path of a request that the raw engine answers with this text."""
    return play(["send", text], *after)


class RawEngineProcess:
    """A raw engine, and what it saw."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("raw_engine.py")
        self._process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.address = EngineAddress(host="127.0.0.1", port=self.port)
        self._client = Client(self.port)
        self._events: list[dict[str, Any]] = []

    def log(self) -> list[dict[str, Any]]:
        """Return what happened since the last time, but what `until` found."""
        events, self._events = [*self._events, *self._fetched()], []
        return events

    def _fetched(self) -> list[dict[str, Any]]:
        return list(self._client.ask(b"GET /control/log HTTP/1.1\r\nHost: x\r\n\r\n").json)

    def go(self, name: str) -> None:
        """Let the scripts go on that wait for this."""
        self._client.ask(f"POST /control/go/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def until(self, what: str, timeout_s: float = 20.0) -> dict[str, Any]:
        """Return the next event of this kind; the others stay for `log`."""

        def is_there() -> bool:
            self._events += self._fetched()
            return any(event["what"] == what for event in self._events)

        until(is_there, timeout_s)
        found = next(event for event in self._events if event["what"] == what)
        self._events.remove(found)
        return found

    def stop(self) -> None:
        self._client.close()
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Rig:
    """A started gateway on its own thread."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        authenticator: Authenticator | None = None,
        **changes: Any,
    ) -> None:
        self.models = {model.name: model for model in models}
        self.recorder = Recorder(list(self.models))
        self.lines: list[str] = []
        self.mistakes: list[str] = []
        self._clients: list[Client] = []
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(self._on_mistake)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

        async def start() -> Gateway:
            gateway = Gateway(
                settings(**changes),
                models,
                authenticator or ApiKeyAuthenticator(KEY),
                self.recorder,
                None,
                self.lines.append,
            )
            await gateway.start()
            return gateway

        self.gateway = self._run(start())
        self.port = self.gateway.port

    def call(self, what: Callable[[], T]) -> T:
        """Return what a function gives on the gateway's own thread."""

        async def called() -> T:
            return what()

        return self._run(called())

    def client(self, **options: Any) -> Client:
        """Return a new connection; it is closed with the rig at the latest."""
        self._clients.append(Client(self.port, **options))
        return self._clients[-1]

    def ask(self, data: bytes, method: str = "POST") -> Answer:
        """Return the answer to one request on a connection of its own."""
        with self.client() as client:
            return client.ask(data, method=method)

    def totals(self, model: str = MODEL) -> ModelSnapshot:
        """Return what was recorded; an answer may be out a moment before its record is closed."""
        return self.call(lambda: self.recorder.snapshot().models[model])

    def results(self, model: str = MODEL) -> dict[tuple[str, int], int]:
        return dict(self.totals(model).results)

    def in_flight(self) -> int:
        return self.call(lambda: self.gateway.in_flight)

    def tasks(self) -> list[str]:
        """Return the tasks that there are on its loop."""

        def others() -> list[str]:
            mine = asyncio.current_task()
            return [str(t.get_coro()) for t in asyncio.all_tasks() if t is not mine]

        return self.call(others)

    def become(self, model: str, status: str) -> None:
        upstream = self.models[model].upstream
        assert isinstance(upstream, ManualUpstream)
        self.call(lambda: upstream.become(status))

    def is_idle(self) -> bool:
        """Whether nothing is left of any request."""
        return self.in_flight() == 0 and not self.tasks()

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        self._run(self.gateway.stop())
        until(lambda: not self.tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        assert not self.mistakes, repr(self.mistakes)

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _on_mistake(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.mistakes.append(f"{context.get('message')}: {context.get('exception')!r}")


def model(engine: RawEngineProcess, name: str = MODEL, **changes: Any) -> ServedModel:
    """Return a model that a raw engine serves."""
    upstream = ManualUpstream(name, engine.address, changes.pop("status", "ready"))
    values: dict[str, Any] = {
        "max_concurrent_requests": None,
        "max_input_tokens": None,
        "max_total_tokens": None,
        "created": 1700000000,
    }
    return ServedModel(name, upstream, **(values | changes))


@contextmanager
def gateway(models: Sequence[ServedModel], **changes: Any) -> Iterator[Rig]:
    """Run a gateway."""
    rig = Rig(models, **changes)
    try:
        yield rig
    finally:
        rig.stop()


def later(moment_s: float) -> Callable[[], bool]:
    """Return whether so much time has passed since now."""
    end = time.monotonic() + moment_s
    return lambda: time.monotonic() >= end
