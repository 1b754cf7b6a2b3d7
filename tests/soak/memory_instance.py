"""The process under test of the memory soak: an instance whose models take turns.

Tells its port and key in one line, then answers each line on stdin with one on stdout: ``state``,
``calm`` (puts every model aside, then as ``state`` with what must not be left), ``budget N`` (memory for
so many models) and ``stop``.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import functools
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from common.engines.contract import EngineState
from common.engines.limits import SupervisorLimits
from common.engines.state import BackoffPolicy
from common.errors import DeployError
from common.memory.contract import RESIDENT, Tier
from common.memory.engine_sleep import MoverLimits
from common.runtime import instance as instance_module
from common.runtime import universal_memory as memory_module
from common.runtime.checking import check_parameters
from common.runtime.event_loop import run_loop
from common.runtime.instance import Instance
from common.runtime.limits import InstanceLimits
from common.runtime.stopping import StopRequest
from tests.soak.instance import OF_REQUESTS, NotingRecorder, ProblemLog, count_objects, say
from tests.soak.memory_app import TurningApp
from tests.soak.memory_counting import CountedMover, SoakConsole
from tests.soak.memory_watch import Watch

KEY = "key-of-the-soak-0123456789"
NAMES = ("a", "b", "c", "d")
NEED = 2**30
ROOM = 2
"""Models that the budget has room for."""
_SETTLED_S = 20.0

# Hung engines are found within 3 s; crashes are restarted at once, for ever.
LIMITS = InstanceLimits(
    supervisor=SupervisorLimits(
        start_timeout_s=30.0,
        no_progress_timeout_s=30.0,
        health_interval_s=0.3,
        health_timeout_s=1.0,
        health_failures=2,
        busy_health_failures=1000,
        stop_grace_s=1.0,
        parked_grace_s=1.0,
        measure_interval_s=0.2,
        backoff=BackoffPolicy(first_s=0.1, max_s=0.3, reset_after_s=1.0, max_quick_crashes=10_000),
    ),
    mover=MoverLimits(put_aside_s=4.0, bring_back_s=4.0, answer_s=4.0, hook_s=4.0),
    settle_s=0.5,
    load_wait_s=30.0,
    heartbeat_after_s=0.2,
    heartbeat_every_s=0.2,
)


class Soaked:
    """The instance and all that is known of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.problems: list[str] = []
        self.folder: Path = args.folder
        self.counts: collections.Counter[str] = collections.Counter()
        self.recorder = NotingRecorder(NAMES)
        self.console = SoakConsole(self.recorder, args.log)
        self._put_in()
        self.can_sleep = args.mode == "ram"
        app = TurningApp({}, folder=self.folder, need_bytes=NEED, sleepers=frozenset(args.sleepers))
        environ = {**os.environ, "HOME": str(self.folder)}
        self.stop_request = StopRequest(asyncio.get_running_loop())
        self.instance = Instance(
            app,
            check_parameters(app, self._parameters(args), environ),
            self.console,
            self.stop_request,
            name="soak",
            task_id=None,
            environ=environ,
            limits=LIMITS,
        )
        self.watch = Watch(self.folder, self._places, lambda: self.room, self.problems.append)
        self._background: list[asyncio.Task[None]] = []
        self._last: dict[str, Any] = {}

    def _put_in(self) -> None:
        """Have the instance be made of parts that count."""
        module: Any = instance_module
        module.Recorder = lambda: self.recorder
        memory: Any = memory_module
        memory.EngineMover = functools.partial(CountedMover, self.counts)

    def _parameters(self, args: argparse.Namespace) -> dict[str, str]:
        models = []
        for name, options in json.loads(args.options).items():
            path = self.folder / f"{name}.gguf"
            path.write_bytes(b"GGUF" + name.encode() * 2**20)
            models.append({"model": str(path), "model_endpoint_name": name, **options})
        mode = "enable_automatic_cpu_offloading" if self.can_sleep else "enable_disk_swapping"
        return {
            "Models/models": json.dumps(models),
            "General/host": "127.0.0.1",
            "General/port": "18800-18999",
            "General/api_key": KEY,
            "General/drain_seconds": "3",
            "General/max_cuda_memory_gib": str(ROOM),
            f"General/{mode}": "true",
            **({"General/max_host_memory_gib": str(args.host_gib)} if args.host_gib else {}),
        }

    @property
    def _scheduler(self) -> Any:
        assert self.instance.memory is not None
        return self.instance.memory._scheduler

    @property
    def room(self) -> int:
        """Models that the capacity has room for now."""
        return int(self._scheduler._loop.capacity[RESIDENT]) // NEED

    def _views(self) -> dict[str, Any]:
        return {name: self._scheduler.view(name) for name in NAMES}

    def _places(self) -> set[str]:
        """Models that have a place in memory, or are on their way to it or from it."""
        return {n for n, v in self._views().items() if Tier.GPU in (v.tier, v.moving_to)}

    async def start(self) -> None:
        await self.instance.start()
        deadline = time.monotonic() + 30
        while not all(model.turns for model in self.instance.models):
            assert time.monotonic() < deadline, list(self.console.lines)
            await asyncio.sleep(0.02)
        scheduler, set_capacity = self._scheduler, self._scheduler.set_capacity

        def note_and_set(capacity: Mapping[str, int]) -> None:
            self.watch.capacity_changes()
            set_capacity(capacity)

        scheduler.set_capacity = note_and_set  # the instance itself sets it as well
        self._background += [
            asyncio.ensure_future(self.watch.run()),
            asyncio.ensure_future(self._tick()),
        ]

    async def _tick(self) -> None:
        """As the lifecycle does."""
        assert self.instance.memory is not None
        assert self.instance.view is not None
        while True:
            await self.instance.view.tick()
            await self.instance.memory.tick()
            await asyncio.sleep(0.5)

    def budget(self, models: float) -> None:
        capacity = dict(self._scheduler._loop.capacity)
        capacity[RESIDENT] = int(models * NEED)
        self._scheduler.set_capacity(capacity)

    def state(self) -> dict[str, Any]:
        """All that is counted; what ended is told once."""
        gateway = self.instance.gateway
        assert gateway is not None
        proxy = gateway._proxy
        process = psutil.Process()
        ended, self.recorder.ended = self.recorder.ended, []
        snapshot = self.recorder.snapshot()
        pools = list(proxy.pools._pools.values())
        views = self._views()
        return {
            "rss": process.memory_info().rss,
            "fds": process.num_fds(),
            "tasks": len(asyncio.all_tasks()),
            "in_flight": proxy.in_flight,
            "connections": len(gateway._server._connections),
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
            "moves": {
                f"{name} {kind}": durations.count
                for name, totals in snapshot.models.items()
                for kind, durations in totals.moves.items()
            },
            "moved": dict(self.counts),
            "tiers": {name: view.tier.value for name, view in views.items()},
            "moving": {n: v.moving_to.value for n, v in views.items() if v.moving_to},
            "waiters": {name: view.waiting for name, view in views.items() if view.waiting},
            "statuses": {model.name: model.status for model in self.instance.models},
            "held": sum(moved.held.held_bytes for moved in self._moved() if moved.held),
            "samples": self.watch.samples,
            "most": self.watch.most,
            "ended": ended,
            "problems": self.problems,
            "lines": list(self.console.lines),
        }

    def _moved(self) -> list[Any]:
        assert self.instance.memory is not None
        return list(self.instance.memory._moved.values())

    async def calm(self) -> dict[str, Any]:
        """Once no request is there: look whether all is in its tier, put all aside, and tell."""
        found = await self._settle()
        found += self._check_tiers()
        for model in self.instance.models:
            try:
                if model.status == "failed":
                    await asyncio.wait_for(model.load(), _SETTLED_S)
                await asyncio.wait_for(
                    self.instance.operations.unload(model.name), timeout=_SETTLED_S
                )
                await asyncio.wait_for(
                    self._scheduler.end_process(model.name, "all is calm"), timeout=_SETTLED_S
                )
            except (DeployError, asyncio.TimeoutError) as error:
                found.append(f"{model.name} could not be unloaded when all was calm: {error!r}")
        await asyncio.sleep(0.1)
        found += self._check_nothing_held()
        return self.state() | {"objects": count_objects(OF_REQUESTS), "found": found}

    async def _settle(self) -> list[str]:
        deadline = time.monotonic() + _SETTLED_S
        while True:
            views = self._views()
            moving = [name for name, view in views.items() if view.moving_to is not None]
            waiting = [name for name, view in views.items() if view.waiting]
            restarting = [
                model.name
                for model in self.instance.models
                if model.supervisor is not None
                and model.supervisor.state
                in (EngineState.STARTING, EngineState.STOPPING, EngineState.BACKOFF)
            ]
            gateway = self.instance.gateway
            assert gateway is not None
            count = gateway._proxy.in_flight
            if not (moving or waiting or count or restarting):
                return []
            if time.monotonic() > deadline:
                return [
                    f"not calm: {moving} move, {waiting} wait, {restarting} restart, "
                    f"{count} requests in flight"
                ]
            await asyncio.sleep(0.05)

    def _check_tiers(self) -> list[str]:
        """At rest what runs and what is held must be what the tiers say."""
        found = []
        awake, asleep = self.watch.awake(), self.watch.asleep()
        for moved in self._moved():
            name = moved.model.name
            tier = self._scheduler.view(name).tier
            if (name in awake) != (tier is Tier.GPU):
                found.append(f"{name} is in {tier.value}, and of {sorted(awake)} engines run")
            is_emptied = moved.mover.keeps_process
            if is_emptied and (tier is not Tier.DISK or name not in asleep):
                found.append(f"{name} is in {tier.value}, and its engine counts as emptied")
            is_kept = (name in asleep and not is_emptied) or (
                moved.held is not None and moved.held.is_held
            )
            if is_kept != (tier is Tier.CPU):
                found.append(f"{name} is in {tier.value}, and kept in RAM: {is_kept}")
        return found

    def _check_nothing_held(self) -> list[str]:
        found = []
        tiers = {name: view.tier.value for name, view in self._views().items()}
        if set(tiers.values()) != {"disk"}:
            found.append(f"not all was put aside: {tiers}")
        running = [*self.watch.awake(), *self.watch.asleep()]
        if running:
            found.append(f"engines run of models on disk: {running}")
        if children := psutil.Process().children(recursive=True):
            found.append(f"processes run although no model does: {children}")
        locked = [line for line in _own_status() if line.startswith("VmLck:")]
        if locked and locked[0].split()[1] != "0":
            found.append(f"memory is locked although no model is kept: {locked[0]}")
        if held := sum(moved.held.held_bytes for moved in self._moved() if moved.held):
            found.append(f"{held} bytes of files are kept although no model is")
        return found

    async def stop(self) -> dict[str, Any]:
        """End as an instance does, whatever is under way."""
        for task in self._background:
            task.cancel()
        await asyncio.wait(self._background)
        began = time.monotonic()
        await self.instance.drain()
        await self.instance.close()
        took_s = time.monotonic() - began
        await asyncio.sleep(0.1)
        last = self.state()
        if took_s > 10:
            self.problems.append(f"the end took {took_s:.1f} s")
        if self.stop_request.reason is not None:
            self.problems.append(f"the instance wanted to stop: {self.stop_request.reason.text}")
        children = [child.pid for child in psutil.Process().children(recursive=True)]
        running = [*self.watch.awake(), *self.watch.asleep()]
        return last | {"children": children, "running": running, "problems": self.problems}


def _own_status() -> list[str]:
    return Path("/proc/self/status").read_text(encoding="ascii").splitlines()


async def serve(args: argparse.Namespace) -> None:
    """Start, answer commands, stop."""
    loop = asyncio.get_running_loop()
    soaked = Soaked(args)
    logging.getLogger().addHandler(ProblemLog(soaked.problems))
    loop.set_exception_handler(
        lambda _, context: soaked.problems.append(
            f"unhandled: {context.get('message')}: {context.get('exception')!r}"
        )
    )
    await soaked.start()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    assert soaked.instance.gateway is not None
    say({"url": soaked.instance.gateway.base_url, "key": KEY})
    while True:
        command, _, value = (await reader.readline()).decode().strip().partition(" ")
        if command == "state":
            say(soaked.state())
        elif command == "calm":
            say(await soaked.calm())
        elif command == "budget":
            soaked.budget(float(value))
            say({})
        else:
            say(await soaked.stop())
            return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("ram", "disk"), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--options", required=True, help="JSON: of each model by its name")
    parser.add_argument("--host-gib", type=float, help="RAM for models that are put aside")
    parser.add_argument("--log", type=argparse.FileType("a"), help="gets all that is said")
    parser.add_argument("--sleepers", default="", help="models whose engines can sleep")
    run_loop(serve(parser.parse_args()))
