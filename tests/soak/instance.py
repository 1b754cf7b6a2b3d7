"""The process under test: a gateway in front of models whose engines run under real supervisors.

Tells its ports and keys in one line, then answers each line on stdin with one on stdout:
``state``, ``calm`` (as ``state``, after a collection of garbage, with the objects that are left)
and ``stop``.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from common.engines.contract import Diagnosis, EngineAddress, EngineCommand, EngineSpec, EngineState
from common.engines.ports import SocketDirectory, pick_port
from common.engines.state import BackoffPolicy
from common.engines.supervisor import Supervisor, SupervisorLimits
from common.gateway.app import Gateway
from common.gateway.auth import ApiKeyAuthenticator
from common.gateway.http.serving import Timeouts
from common.gateway.keys import KeyLimits, Role, generate_key, make_entry
from common.gateway.models import GatewaySettings, ServedModel
from common.options.settings import ModelOptions
from common.runtime.event_loop import run_loop
from common.runtime.hosted_model import HostedModel
from common.telemetry.record import RequestRecord
from common.telemetry.recorder import Outcome, Recorder, RequestUsage

# Hung engines are found within 3 s, dead ones are back within one.
LIMITS = SupervisorLimits(
    start_timeout_s=30.0,
    no_progress_timeout_s=30.0,
    health_interval_s=0.5,
    health_timeout_s=0.5,
    health_failures=3,
    busy_health_failures=1000,
    stop_grace_s=2.0,
    measure_interval_s=0.2,
    backoff=BackoffPolicy(first_s=0.1, max_s=0.3, reset_after_s=1.0, max_quick_crashes=10_000),
)
MAX_BODY_BYTES = 4 * 2**20
ROOT = Path(__file__).parents[2]

# What one request makes: none may be left when none is in flight.
OF_REQUESTS = frozenset(
    {
        "Admission",
        "ClientConnection",
        "EngineConnection",
        "EnginePool",
        "Exchange",
        "IncomingBody",
        "NotedRecord",
        "OwnExchange",
        "Refused",
        "RequestBody",
        "RequestHead",
    }
)


@dataclass(frozen=True)
class Program:
    label: str = "faulty engine"
    health_path: str = "/health"
    metrics_path: str | None = None

    def diagnose(self, exit_code: int | None, tail: Sequence[str]) -> Diagnosis:
        return Diagnosis(False, "")


class Model(HostedModel):
    """A hosted model with the soak's limits."""

    def prepare(
        self,
        spec: EngineSpec,
        console: Callable[[str, str], None],
        on_change: Callable[[EngineState], None],
        restart_spec: Callable[[], EngineSpec] | None = None,
    ) -> Supervisor:
        self.supervisor = Supervisor(
            spec,
            console=console,
            on_change=on_change,
            limits=LIMITS,
            address_factory=restart_spec,
        )
        return self.supervisor


class NotedRecord(RequestRecord):
    """Tells its recorder how it ended, besides counting it."""

    __slots__ = ()

    def close(self, outcome: Outcome, status: int) -> RequestUsage:
        if not self.is_closed:
            assert isinstance(self._recorder, NotingRecorder)
            self._recorder.last = (outcome.value, status, self.model)
        return super().close(outcome, status)


class NotingRecorder(Recorder):
    """The real recorder; `access`, which is called right after an end, pairs it with its request."""

    def __init__(self, models: Sequence[str]) -> None:
        super().__init__(models)
        self.last: tuple[str, int, str] | None = None
        self.ended: list[list[Any]] = []

    def open(self) -> RequestRecord:
        return NotedRecord(self, self.now())

    def access(self, line: str) -> None:
        found = re.search(r" (\d{3}) in \d+ ms(?: \(request (.*)\))?$", line)
        assert found is not None, line
        last, self.last = self.last, None
        outcome, status, model = last or ("", int(found[1]), "")
        self.ended.append([found[2] or "", outcome, status, model, int(found[1])])


class Instance:
    """Wires it all."""

    def __init__(self, sockets: SocketDirectory) -> None:
        self.sockets = sockets
        self.problems: list[str] = []
        self.lines: collections.deque[str] = collections.deque(maxlen=300)
        self.models = [Model(name, ModelOptions()) for name in ("plain", "org/narrow", "keeps")]
        narrow = {"max_concurrent_requests": 4, "max_waiting_requests": 6, "max_queue_s": 2.0}
        keeps = {"max_concurrent_requests": 24, "cancel_on_disconnect": False}
        limits: list[dict[str, Any]] = [{}, narrow, keeps]
        served = [self._served(m, more) for m, more in zip(self.models, limits, strict=True)]
        self.keys: dict[str, str] = {}
        entries = []
        for name, options in {
            "free": {},
            "urgent": {"priority": 5},
            "often": {"limits": KeyLimits(requests_per_minute=600)},
            "two": {"limits": KeyLimits(concurrent=2)},
            "tokens": {"limits": KeyLimits(tokens_per_minute=3000)},
            "one model": {"models": ["plain"]},
            "reader": {"role": Role.METRICS},
            "over": {"expires": 1},
        }.items():
            entry, self.keys[name] = make_entry(name, **options)  # type: ignore[arg-type]
            entries.append(entry)
        self.recorder = NotingRecorder([model.name for model in self.models])
        settings = GatewaySettings(
            host="127.0.0.1",
            ports=(0,),
            max_body_bytes=MAX_BODY_BYTES,
            load_wait_s=4.0,
            public_url=None,
            task_id=None,
            instance_name="soak",
            heartbeat_after_s=0.3,
            heartbeat_every_s=0.3,
            timeouts=Timeouts(head=3.0, body=3.0, idle=30.0, send=5.0, linger=2.0),
        )
        self.gateway = Gateway(
            settings,
            served,
            ApiKeyAuthenticator(generate_key(), None, entries),
            self.recorder,
            None,
            self._log,
            access=self.recorder.access,
        )

    def _served(self, model: Model, more: dict[str, Any]) -> ServedModel:
        values: dict[str, Any] = {"max_concurrent_requests": None} | more
        return ServedModel(
            model.name, model, max_input_tokens=None, max_total_tokens=None, created=1, **values
        )

    def spec(self, model: Model, port: int | None = None) -> EngineSpec:
        if port is None:
            address = EngineAddress(socket_path=self.sockets.new_socket())
            where = ("--socket", str(address.socket_path))
        else:
            address = EngineAddress(port=port)
            where = ("--port", str(port))
        flags = ("--name", model.name, "--token-delay", "0.01")
        argv = (sys.executable, "-m", "tests.soak.faulty_engine", *where, *flags)
        return EngineSpec(model.name, EngineCommand(argv), address, Program(), cwd=ROOT)

    async def start(self) -> None:
        for model in self.models:
            factory = None
            spec = self.spec(model)
            if model.name == "keeps":  # the one on a port, another one at each start
                spec = self.spec(model, pick_port())

                def factory(model: Model = model) -> EngineSpec:
                    return self.spec(model, pick_port())

            model.prepare(spec, self._console, lambda _: None, factory)
            await model.start()
        for model in self.models:
            await model.ensure_ready(30)
        await self.gateway.start()

    def _log(self, line: str) -> None:
        self.lines.append(line)
        if " failed: " in line and "EngineCrashError" not in line:
            self.problems.append(line)

    def _console(self, name: str, line: str) -> None:
        self.lines.append(f"{name}: {line}")

    async def stop(self) -> dict[str, Any]:
        await self.gateway.drain(2.0)
        await self.gateway.stop()
        for model in self.models:
            await model.stop()
            assert model.supervisor is not None
            await model.supervisor.wait_closed()
        await asyncio.sleep(0.1)
        children = [child.pid for child in psutil.Process().children(recursive=True)]
        return {"children": children, "tasks": len(asyncio.all_tasks())} | self.state()

    def state(self) -> dict[str, Any]:
        """All that is counted; what ended is told once."""
        proxy = self.gateway._proxy
        process = psutil.Process()
        ended, self.recorder.ended = self.recorder.ended, []
        snapshot = self.recorder.snapshot()
        pools = list(proxy.pools._pools.values())
        return {
            "pids": {m.name: m.supervisor.pid for m in self.models if m.supervisor},
            "restarts": sum(m.supervisor.restarts for m in self.models if m.supervisor),
            "statuses": [model.status for model in self.models],
            "rss": process.memory_info().rss,
            "fds": process.num_fds(),
            "tasks": len(asyncio.all_tasks()),
            "in_flight": proxy.in_flight,
            "connections": len(self.gateway._server._connections),
            "engine_connections": sum(len(pool._all) for pool in pools),
            "busy_engine_connections": sum(len(p._all) - len(p._free) for p in pools),
            "places": {e.name: [e.admission.in_flight, e.admission.waiting] for e in proxy.engines},
            "by_key": {name: usage.in_flight for name, usage in proxy.limiter._usage.items()},
            "open_requests": self.recorder.open_requests,
            "gauges": {n: [m.in_flight, m.waiting] for n, m in snapshot.models.items()},
            "results": [
                [outcome, status, count]
                for totals in snapshot.models.values()
                for (outcome, status), count in totals.results.items()
            ],
            "key_requests": sum(counts.requests for counts in snapshot.keys.values()),
            "ended": ended,
            "problems": self.problems,
            "lines": list(self.lines),
        }

    def calm(self) -> dict[str, Any]:
        """The state, and how many objects of requests there are."""
        return self.state() | {"objects": count_objects(OF_REQUESTS)}


def count_objects(names: Iterable[str]) -> dict[str, int]:
    """Objects that are left after a collection of garbage, by the names of their classes."""
    gc.collect()
    kinds = collections.Counter(type(thing).__name__ for thing in gc.get_objects())
    return {name: kinds[name] for name in sorted(names)}


class ProblemLog(logging.Handler):
    """Whatever is logged as a warning or worse is a fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        self._problems.append(f"logged: {self.format(record)}")


async def serve() -> None:
    """Start, answer commands, stop."""
    loop = asyncio.get_running_loop()
    with SocketDirectory() as sockets:
        instance = Instance(sockets)
        logging.getLogger().addHandler(ProblemLog(instance.problems))
        loop.set_exception_handler(
            lambda _, context: instance.problems.append(
                f"unhandled: {context.get('message')}: {context.get('exception')!r}"
            )
        )
        await instance.start()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        say({"port": instance.gateway.port, "keys": instance.keys, "pid": os.getpid()})
        while True:
            command = (await reader.readline()).decode().strip()
            if command == "state":
                say(instance.state())
            elif command == "calm":
                say(instance.calm())
            else:
                say(await instance.stop())
                return


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_loop(serve())
