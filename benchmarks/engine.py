"""The engine by itself: the command that the app would run, started without anything around it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from apps.llamacpp.app import app
from benchmarks.load import Target
from benchmarks.processes import BenchmarkError, end_process
from common.engines.contract import EngineAddress, EngineCommand
from common.engines.cpu import default_threads
from common.errors import EngineError
from common.runtime.app import ModelPlan
from common.runtime.checking import check_parameters

ENGINES = ("llama-server", "xllamacpp")
"""Those that are measured: llama_cpp.server serves one request at a time."""

_POLL_S = 0.01
_READY_S = 60.0


def installed_engines() -> tuple[str, ...]:
    """Those of `ENGINES` that are on this machine."""
    found = []
    for name in ENGINES:
        try:
            check_parameters(
                app(), {"Model/model": "/model.gguf", "General/engine": name}, os.environ
            )
        except EngineError:
            continue
        found.append(name)
    return tuple(found)


def engine_label(parameters: Mapping[str, object]) -> str:
    """Name, version and threads of the engine that these parameters get."""
    engine = check_parameters(app(), parameters, os.environ).engine
    return f"{engine.label.partition(' (/')[0]}, {default_threads(1)} threads"


def bare_command(parameters: Mapping[str, object], model: Path, socket_path: Path) -> EngineCommand:
    """The very command that an instance with these parameters would run."""
    checked = check_parameters(app(), parameters, os.environ)
    plan = ModelPlan(
        name="model",
        options=checked.settings.models[0],
        path=model,
        files=(model,),
        address=EngineAddress(socket_path=socket_path),
        threads=default_threads(1),
    )
    return checked.engine.command(plan, checked.settings)


@contextmanager
def bare_engine(parameters: Mapping[str, object], model: Path) -> Iterator[tuple[Target, float]]:
    """Run an engine by itself; yields where it is and the seconds until ``/health`` said 200.

    Raises:
        BenchmarkError: It ended, or was not ready in time.
    """
    with tempfile.TemporaryDirectory(prefix="cd-bench-") as folder:
        socket_path = Path(folder) / "1.sock"
        command = bare_command(parameters, model, socket_path)
        output = Path(folder) / "output.txt"
        with output.open("wb") as stream:
            started = time.monotonic()
            process = subprocess.Popen(
                command.argv,
                env={**os.environ, **command.env},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            asyncio.run(_wait_healthy(process, socket_path, output))
            ready_s = time.monotonic() - started
            yield Target("http://engine/v1", "model", socket_path=str(socket_path)), ready_s
        finally:
            end_process(process)


async def _wait_healthy(process: subprocess.Popen[bytes], socket_path: Path, output: Path) -> None:
    deadline = time.monotonic() + _READY_S
    connector = aiohttp.UnixConnector(str(socket_path), force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                async with session.get("http://engine/health") as response:
                    if response.status == 200:
                        return
            except (aiohttp.ClientError, OSError):
                pass  # nothing listens yet
            await asyncio.sleep(_POLL_S)
    tail = output.read_text(encoding="utf-8", errors="replace")[-1000:]
    raise BenchmarkError(f"the engine did not get ready:\n{tail}")
