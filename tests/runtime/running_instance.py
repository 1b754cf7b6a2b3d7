"""An instance over real engine processes, started for a test and closed with it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil

from common.runtime.checking import check_parameters
from common.runtime.console import Console
from common.runtime.instance import Instance
from common.runtime.limits import InstanceLimits
from common.runtime.stopping import StopRequest
from tests.runtime.stub_app import StubApp

KEY = "key-of-the-tests-0123456789"
BAD = ("--print", "bad option --x", "--exit-code", "2")
HEADERS = {"Authorization": f"Bearer {KEY}"}


class Running:
    """An instance that was started, with its console and stop request."""

    def __init__(
        self, instance: Instance, stop: StopRequest, console: Console, out: io.StringIO
    ) -> None:
        self.instance = instance
        self.stop = stop
        self._console = console
        self._out = out
        # Other tests' servers, and what is left of their processes until somebody asks for it.
        self._others = frozenset(child.pid for child in psutil.Process().children(recursive=True))

    @property
    def said(self) -> str:
        """All that is on the console by now; a thread of its own writes there."""
        assert self._console.flush(5.0)
        return self._out.getvalue()

    def processes(self) -> list[psutil.Process]:
        """The engines and their guards, also those that ended and were not asked for their end."""
        children = psutil.Process().children(recursive=True)
        return [child for child in children if child.pid not in self._others]

    @property
    def url(self) -> str:
        assert self.instance.gateway is not None
        return self.instance.gateway.base_url

    async def ready(self, *names: str) -> None:
        await until(lambda: all(self.status(name) == "ready" for name in names))

    def status(self, name: str) -> str:
        return next(m.status for m in self.instance.models if m.name == name)

    def pid(self, name: str) -> int:
        supervisor = next(m.supervisor for m in self.instance.models if m.name == name)
        assert supervisor is not None
        pid = supervisor.pid
        assert pid is not None
        return pid

    async def chat(self, name: str, *, stream: bool = False) -> tuple[int, str]:
        body = {"model": name, "messages": [{"role": "user", "content": "x"}], "stream": stream}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/v1/chat/completions", json=body, headers=HEADERS) as answer,
        ):
            return answer.status, await answer.text()


async def until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(
    app: StubApp,
    folder: Path,
    references: Mapping[str, str],
    *,
    shared: Mapping[str, object] | None = None,
    options: Mapping[str, Mapping[str, object]] | None = None,
    limits: InstanceLimits | None = None,
) -> AsyncIterator[Running]:
    """Serve models by name and reference.

    Args:
        app: The app.
        folder: The instance's home.
        references: By name.
        shared: Parameters of the instance.
        options: Further options of models, by name.
        limits: The instance's times; None: the usual ones.
    """
    models = [
        {"model": reference, "model_endpoint_name": name, **(options or {}).get(name, {})}
        for name, reference in references.items()
    ]
    parameters = {
        "Models/models": json.dumps(models),
        "General/host": "127.0.0.1",
        "General/api_key": KEY,
        "General/drain_seconds": "8",
        **{path: str(value) for path, value in (shared or {}).items()},
    }
    environ = {**os.environ, "HOME": str(folder)}
    out = io.StringIO()
    console = Console(out)
    stop = StopRequest(asyncio.get_running_loop())
    instance = Instance(
        app,
        check_parameters(app, parameters, environ),
        console,
        stop,
        name="test",
        task_id=None,
        environ=environ,
        limits=limits,
    )
    started = Running(instance, stop, console, out)
    try:
        await instance.start()
        yield started
    finally:
        await instance.close()


@asynccontextmanager
async def running(folder: Path, **flags: tuple[str, ...]) -> AsyncIterator[Running]:
    """Serve a model for each keyword, by an engine with its flags."""
    references = {}
    for name in flags:
        references[name] = str(folder / f"{name}.gguf")
        Path(references[name]).write_bytes(b"GGUF" + b"\0" * 60)
    async with serving(StubApp(flags), folder, references) as it:
        yield it
