"""The stub engine and the proxies as processes on their processors, for as long as they are needed."""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway import wire
from benchmarks.gateway.cores import pinned_to
from benchmarks.gateway.targets import Place, Target
from benchmarks.gateway.tree import tree_of
from benchmarks.machine import ROOT
from benchmarks.processes import BenchmarkError, end_process, wait_until

_ENGINE_READY_S = 30.0
# LiteLLM imports for a long time, the more so on a busy machine.
_PROXY_READY_S = 180.0
_ANSWER_S = 10.0


@dataclass(frozen=True)
class Engine:
    """The stub engine that runs."""

    port: int
    socket_path: Path


@dataclass(frozen=True)
class Running:
    """A target that can be asked.

    Attributes:
        target: Which.
        version: Of it.
        port: Where it listens; of the direct way the engine's port.
        pids: Its processes; none of the direct way.
        key: What it wants to see.
        is_exact: Whether bodies must be the engine's to the byte.
    """

    target: Target
    version: str
    port: int
    pids: tuple[int, ...]
    key: str = field(repr=False)
    is_exact: bool = True


def free_port() -> int:
    """Return a port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def stub_engine(core: int) -> Iterator[Engine]:
    """Run the stub engine.

    Raises:
        BenchmarkError: It did not come up.
    """
    with tempfile.TemporaryDirectory(prefix="cd-bench-") as folder:
        engine = Engine(free_port(), Path(folder) / "engine.sock")
        module = "benchmarks.gateway.stub_engine"
        argv = (sys.executable, "-m", module, "--port", str(engine.port))
        with _process((*argv, "--socket", str(engine.socket_path)), {}, core) as started:
            wait_until(
                lambda: started.answer(engine.port, ""),
                _ENGINE_READY_S,
                "the stub engine answers",
            )
            yield engine


@contextmanager
def running_target(
    target: Target, version: str, engine: Engine, core: int, peers: Mapping[str, str]
) -> Iterator[Running]:
    """Run a target in front of the engine until it answers a chat request.

    Raises:
        BenchmarkError: It ended, or did not answer in time; with what it printed.
    """
    key = f"sk-{secrets.token_hex(16)}"
    if target.command is None:
        yield Running(target, version, engine.port, (), key)
        return
    # A proxy's worker may run as another user (nginx as root): its folder is open to it.
    with tempfile.TemporaryDirectory(prefix="cd-bench-") as folder:
        place = Place(
            port=free_port(),
            metrics_port=free_port(),
            engine_port=engine.port,
            engine_socket=engine.socket_path,
            folder=Path(folder),
            key=key,
        )
        command = target.command(place, peers)
        with _process(command.argv, command.env, core) as started:
            body = wait_until(
                lambda: started.answer(place.port, key),
                _PROXY_READY_S,
                f"{target.name} answers",
            )
            is_exact = not target.may_rewrite or body == wire.answer()
            pids = tuple(tree_of(started.process.pid))
            yield Running(target, version, place.port, pids, key, is_exact)


@dataclass(frozen=True)
class _Started:
    process: subprocess.Popen[bytes]
    output: Path

    def answer(self, port: int, key: str) -> bytes | None:
        """Ask it; raises when it ended."""
        if self.process.poll() is not None:
            text = self.output.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise BenchmarkError(f"{self.process.args!r} ended:\n{text}")
        return _answer(port, key)


@contextmanager
def _process(argv: tuple[str, ...], env: Mapping[str, str], core: int) -> Iterator[_Started]:
    with tempfile.TemporaryDirectory(prefix="cd-bench-") as folder:
        output = Path(folder) / "output.txt"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=pinned_to(core),
            )
        try:
            yield _Started(process, output)
        finally:
            end_process(process)


def _answer(port: int, key: str) -> bytes | None:
    """Return the body of the answer to a chat request, None when there is none (yet)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        connection.request("POST", wire.PATH, wire.request_body(wire.Script()), headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body if response.status == 200 else None
