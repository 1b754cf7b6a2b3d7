"""An instance whose models share the memory: each needs 1 GiB of a budget, and is a real process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from common.engines.limits import SupervisorLimits
from common.engines.state import BackoffPolicy
from common.engines.supervisor import Supervisor
from common.memory.engine_sleep import MoverLimits
from common.memory.offload import OffloadError, RunningEngine
from common.runtime.limits import InstanceLimits
from tests.runtime.running_instance import HEADERS, Running, serving
from tests.runtime.stub_app import StubApp

GIB = 2**30
OFFLOAD = {"General/enable_automatic_cpu_offloading": "true"}
SWAP = {"General/enable_disk_swapping": "true"}
OUT_OF_MEMORY = "CUDA error: out of memory"
BALLAST = ("--ballast-mib", "256")
"""Memory of an engine's own, which it frees when it is put to sleep: most of what it has."""

QUICK = InstanceLimits(
    supervisor=SupervisorLimits(
        stop_grace_s=1.0,
        parked_grace_s=0.5,
        measure_interval_s=0.2,
        backoff=BackoffPolicy(first_s=0.1, max_s=0.4, reset_after_s=60.0, max_quick_crashes=3),
    ),
    mover=MoverLimits(put_aside_s=5.0, bring_back_s=5.0, answer_s=5.0, hook_s=2.0),
    settle_s=0.3,
)


@asynccontextmanager
async def sharing(
    folder: Path,
    names: str,
    mode: Mapping[str, object],
    *,
    budget_gib: float = 2.0,
    first: str | None = None,
    flags: Mapping[str, tuple[str, ...]] | None = None,
    options: Mapping[str, Mapping[str, object]] | None = None,
    limits: InstanceLimits | None = None,
    installed: Mapping[str, Any] | None = None,
) -> AsyncIterator[Running]:
    """Serve a model for each letter, each of which needs 1 GiB of the budget.

    Args:
        folder: The instance's home.
        names: A letter for each model.
        mode: How the models share, `OFFLOAD` or `SWAP`, and further parameters.
        budget_gib: What they share.
        first: Those that are loaded at the start, and no others; None: the first ones that fit, as far
            as they are all known soon enough.
        flags: Of the engines, by model.
        options: Of the models, by name.
        limits: The instance's times.
        installed: What the engine is, as changes of `StubEngine`.
    """
    references = {}
    for name in names:
        path = folder / f"{name}.gguf"
        path.write_bytes(b"GGUF" + name.encode() * 2**16)
        references[name] = str(path)
    app = StubApp(
        {
            name: ("--starts", str(folder / f"{name}.starts"), *(flags or {}).get(name, ()))
            for name in names
        },
        need_bytes=GIB,
        installed=installed or {},
    )
    given: dict[str, dict[str, object]] = {
        name: {} if first is None or name in first else {"preload": False} for name in names
    }
    for name, more in (options or {}).items():
        given[name] |= more
    shared = {"General/max_cuda_memory_gib": budget_gib, **mode}
    async with serving(
        app, folder, references, shared=shared, options=given, limits=limits
    ) as running:
        yield running


@dataclass
class StubSleep:
    """An `Offload` over the stub engine's own routes, which frees its ballast.

    Attributes:
        label: Its name.
        frees: Whether it frees anything.
        aside_goes_on: Putting aside ends not before this is set.
        back_goes_on: Bringing back ends not before this is set.
        refusal: Why nothing can be brought back; empty: it can.
        calls: What was asked for, in order.
    """

    label: str = "stub sleep"
    frees: bool = True
    aside_goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    back_goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: str = ""
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.aside_goes_on.set()
        self.back_goes_on.set()

    async def put_aside(self, engine: RunningEngine) -> None:
        self.calls.append("aside")
        await self.aside_goes_on.wait()
        if self.frees:
            await _post(engine, "/sleep")

    async def bring_back(self, engine: RunningEngine) -> None:
        self.calls.append("back")
        await self.back_goes_on.wait()
        if self.refusal:
            raise OffloadError(self.refusal)
        await _post(engine, "/wake_up")


async def _post(engine: RunningEngine, route: str) -> None:
    connector = aiohttp.UnixConnector(path=str(engine.address.socket_path))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"http://engine{route}") as answer,
    ):
        assert answer.status == 200


@dataclass(frozen=True)
class Told:
    """An answer as a client gets it."""

    status: int
    text: str
    headers: Mapping[str, str]


async def ask(running: Running, name: str, **body: object) -> Told:
    """Ask a model something."""
    whole = {"model": name, "messages": [{"role": "user", "content": "x"}], **body}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{running.url}/v1/chat/completions", json=whole, headers=HEADERS) as answer,
    ):
        return Told(answer.status, await answer.text(), dict(answer.headers))


async def models(running: Running, path: str = "/v1/models") -> dict[str, dict[str, Any]]:
    """The models as the instance lists them, by name."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{running.url}{path}", headers=HEADERS) as answer,
    ):
        return {entry["id"]: entry for entry in json.loads(await answer.text())["data"]}


async def operate(running: Running, name: str, operation: str) -> int:
    """Have an operator's wish carried out; return the status."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{running.url}/admin/models/{name}/{operation}", headers=HEADERS) as answer,
    ):
        return answer.status


def supervisor(running: Running, name: str) -> Supervisor:
    found = next(model.supervisor for model in running.instance.models if model.name == name)
    assert found is not None
    return found


def tier(running: Running, name: str) -> str:
    """Where a model is; "" while nothing is known of it."""
    memory = next(model.memory for model in running.instance.models if model.name == name)
    return memory.tier if memory is not None else ""


def waiting(running: Running, name: str) -> int:
    """Requests that wait for a model."""
    memory = next(model.memory for model in running.instance.models if model.name == name)
    return memory.waiting if memory is not None else 0


def starts(folder: Path, name: str) -> int:
    """How often a model's engine was started, in an instance of this folder."""
    told = folder / f"{name}.starts"
    return len(told.read_text().splitlines()) if told.exists() else 0


def is_known(running: Running, *names: str) -> bool:
    """Whether models take their turns, that is, all that comes before a first load is done."""
    return all(tier(running, name) for name in names)


def kill(running: Running, name: str, number: int = signal.SIGKILL) -> None:
    """Send an engine's process a signal."""
    os.kill(running.pid(name), number)
