"""What the tests of engine processes share: a console that remembers, specs, looks at processes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from common.engines.contract import (
    Diagnosis,
    EngineAddress,
    EngineCommand,
    EngineSpec,
    EngineState,
)
from common.engines.ports import SocketDirectory
from common.engines.state import BackoffPolicy
from common.engines.supervisor import Supervisor, SupervisorLimits

ENGINE = Path(__file__).with_name("misbehaving_engine.py")
PYTHON = (sys.executable, "-I", "-S")

# Real engines get minutes; a test's engine answers within 0.1 s.
QUICK = SupervisorLimits(
    start_timeout_s=20.0,
    no_progress_timeout_s=20.0,
    health_interval_s=0.1,
    health_timeout_s=0.2,
    health_failures=3,
    busy_health_failures=1000,
    stop_grace_s=2.0,
    measure_interval_s=0.1,
    backoff=BackoffPolicy(first_s=0.05, max_s=0.2, reset_after_s=60.0, max_quick_crashes=3),
)


class Console:
    """Remembers every line that it was given."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, name: str, line: str) -> None:
        assert name == "acme/tiny"
        self.lines.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Program:
    """An engine's kind whose configuration errors say ``bad option``."""

    label: str = "misbehaving engine"
    health_path: str = "/health"
    metrics_path: str | None = None

    def diagnose(self, exit_code: int | None, tail: Sequence[str]) -> Diagnosis:
        bad = [line for line in tail if "bad option" in line]
        return Diagnosis(bool(bad), f"It refuses an option: {bad[-1]}." if bad else "")


class Launcher:
    """Makes specs and supervisors, and stops these at the end."""

    def __init__(self, sockets: SocketDirectory) -> None:
        self.sockets = sockets
        self.console = Console()
        self.states: list[EngineState] = []
        self.supervisors: list[Supervisor] = []

    def spec(self, *flags: str, port: int | None = None, **env: str) -> EngineSpec:
        if port is None:
            address = EngineAddress(socket_path=self.sockets.new_socket())
            where = ("--socket", str(address.socket_path))
        else:
            address = EngineAddress(port=port)
            where = ("--port", str(port))
        argv = (*PYTHON, str(ENGINE), *where, *flags)
        command = EngineCommand(argv, env, frozenset(key for key in env if "KEY" in key))
        return EngineSpec("acme/tiny", command, address, Program())

    def supervise(
        self,
        *flags: str,
        limits: SupervisorLimits = QUICK,
        spec: EngineSpec | None = None,
        address_factory: Callable[[], EngineSpec] | None = None,
        **env: str,
    ) -> Supervisor:
        supervisor = Supervisor(
            spec or self.spec(*flags, **env),
            console=self.console,
            on_change=self.states.append,
            limits=limits,
            address_factory=address_factory,
        )
        self.supervisors.append(supervisor)
        return supervisor


@pytest_asyncio.fixture
async def launcher() -> AsyncIterator[Launcher]:
    with SocketDirectory() as sockets:
        launcher = Launcher(sockets)
        yield launcher
        for supervisor in launcher.supervisors:
            await supervisor.stop(0.0)
            await supervisor.wait_closed()


@pytest.fixture(autouse=True)
def no_process_left() -> object:
    """Every test leaves this process without children of its own, zombies included."""
    before = set(children(os.getpid()))  # a session's server may be among them
    yield
    wait_for(lambda: not set(children(os.getpid())) - before, 2.0)


def children(parent: int) -> list[int]:
    """Processes whose parent is `parent`, zombies included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_for(condition: Callable[[], object], timeout_s: float) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Poll until `condition` holds, with the event loop running."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)
