"""A gateway under load while its engines fail at random: `make soak`, `make soak SECONDS=60 SEED=7`.

Ends with 1 if any request is not accounted for, or anything is left behind. A seed repeats what is
asked and which faults are made, at which time; not how the two meet.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil

from tests.soak.accounts import Ended, Ledger, grown, left_behind, memory_trend
from tests.soak.clients import Client

PHASE_S = 20.0
"""Between two calm points, at which all has to be free again."""

CALM_WITHIN_S = 30.0
PROGRESS_EVERY_S = 5.0
MAX_FAULTS_SHOWN = 25


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Process:
    """The instance's process, by its lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lock = asyncio.Lock()

    @classmethod
    async def start(cls, module: str, *arguments: str) -> Process:
        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=2**26,
            )
        )

    async def line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        text = await asyncio.wait_for(self._process.stdout.readline(), 60)
        if not text:
            raise SystemExit("The instance ended by itself.")
        return dict(json.loads(text))

    async def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        async with self._lock:
            self._process.stdin.write(f"{command}\n".encode())
            return await self.line()

    async def end(self) -> None:
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except asyncio.TimeoutError:
            self._process.kill()
            await self._process.wait()


class Faults:
    """Kills and stops engines, now and then."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._stopped: set[int] = set()
        self.pids: dict[str, int | None] = {}
        self.made: collections.Counter[str] = collections.Counter()

    async def run(self, stop: asyncio.Event) -> None:
        """Make faults until told to stop; then let all go on."""
        pick = self._random
        tasks = []
        while not stop.is_set():
            model = pick.choice(("plain", "org/narrow", "keeps"))
            what = pick.choices(("killed", "held up", "hung", "ended"), weights=(3, 4, 1, 1))[0]
            hold_s = pick.uniform(4, 8) if what == "hung" else pick.uniform(0.1, 1.0)
            pid = self.pids.get(model)
            if pid is not None and pid not in self._stopped:
                self.made[f"engine {what}"] += 1
                if what in ("killed", "ended"):
                    self._signal(pid, signal.SIGKILL if what == "killed" else signal.SIGTERM)
                else:
                    tasks.append(asyncio.ensure_future(self._hold(pid, hold_s)))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), pick.uniform(0.5, 3.0))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _hold(self, pid: int, seconds: float) -> None:
        self._stopped.add(pid)
        self._signal(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._signal(pid, signal.SIGCONT)
            self._stopped.discard(pid)

    def _signal(self, pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Soak:
    """One run."""

    def __init__(self, seconds: float, seed: str, clients: int) -> None:
        self._seconds = seconds
        self._seed = seed
        self._clients = clients
        self.ledger = Ledger()
        self.faults = Faults(f"{seed}-faults")
        self._rss: list[int] = []
        self._state: dict[str, Any] = {}

    async def run(self) -> list[str]:
        """Run; what went wrong."""
        process = await Process.start("tests.soak.instance")
        try:
            return await self._run(process)
        finally:
            await process.end()

    async def _run(self, process: Process) -> list[str]:
        ledger = self.ledger
        told = await process.line()
        first = await process.ask("calm")
        clients = [
            Client(f"{n}", f"{self._seed}-{n}", told["port"], told["keys"], ledger.saw)
            for n in range(self._clients)
        ]
        began = time.monotonic()
        problems: list[str] = []
        state = first
        while (left := self._seconds - (time.monotonic() - began)) > 1:
            await self._phase(process, clients, min(PHASE_S, left), began)
            state = await self._calm(process, first)
            self._rss.append(state["rss"])
            ledger.settle()
            ledger.compare(state["results"], state["key_requests"])
            found = [*left_behind(state), *grown(first, state), *ledger.faults]
            for fault in found[:MAX_FAULTS_SHOWN]:
                say(f"FAULT {fault}")
            problems += found
            ledger.faults = []
            if len(problems) > MAX_FAULTS_SHOWN:
                break
        engines = [pid for pid in state["pids"].values() if pid]
        last = await process.ask("stop")
        found = list(last["problems"])
        found += [f"still running: {pid}" for pid in last["children"]]
        found += [f"engine still running: {pid}" for pid in engines if psutil.pid_exists(pid)]
        if last["tasks"] > 1:
            found.append(f"{last['tasks'] - 1} tasks are left after the stop")
        if trend := memory_trend(self._rss):
            found.append(trend)
        for fault in found[:MAX_FAULTS_SHOWN]:
            say(f"FAULT {fault}")
        problems += found
        for line in last["lines"][-60:] if problems else ():
            say(f"    {line}")
        return problems

    async def _phase(
        self, process: Process, clients: Sequence[Client], seconds: float, began: float
    ) -> None:
        stop = asyncio.Event()
        work = [asyncio.ensure_future(client.run(stop)) for client in clients]
        chaos = asyncio.ensure_future(self.faults.run(stop))
        end = time.monotonic() + seconds
        shown = time.monotonic()
        while time.monotonic() < end:
            await self._look(process, "state")
            if time.monotonic() - shown > PROGRESS_EVERY_S:
                shown = time.monotonic()
                self._show(began)
            await asyncio.sleep(0.3)
        stop.set()
        await asyncio.gather(chaos, *work)

    async def _look(self, process: Process, command: str) -> dict[str, Any]:
        state = self._state = await process.ask(command)
        self.faults.pids = state["pids"]
        for item in state["ended"]:
            self.ledger.recorded(Ended(*item))
        return state

    async def _calm(self, process: Process, first: dict[str, Any]) -> dict[str, Any]:
        """Wait until the engines are back and all is free, or for `CALM_WITHIN_S`."""
        deadline = time.monotonic() + CALM_WITHIN_S
        while True:
            state = await self._look(process, "calm")
            is_ready = set(state["statuses"]) == {"ready"}
            if is_ready and not left_behind(state) + grown(first, state):
                return state
            if time.monotonic() > deadline:
                return state
            await asyncio.sleep(0.5)

    def _show(self, began: float) -> None:
        state = self._state
        say(
            f"{time.monotonic() - began:5.0f} s  {self.ledger.total:7d} requests, "
            f"{state['in_flight']} in flight, {state['connections']} connections, "
            f"{state['rss'] / 2**20:.0f} MiB, {state['fds']} descriptors, {state['tasks']} tasks, "
            f"{state['restarts']} restarts of engines"
        )

    def summarize(self) -> None:
        """Print what was done."""
        say("")
        for result, count in sorted(self.ledger.counts.items()):
            say(f"{count:8d}  {result[0]} {result[1]}")
        say("")
        for kind, count in sorted(self.ledger.kinds.items()):
            say(f"{count:8d}  {kind}")
        say("")
        for fault, count in sorted(self.faults.made.items()):
            say(f"{count:8d}  {fault}")
        rss = ", ".join(f"{n / 2**20:.1f}" for n in self._rss)
        say(f"Memory when calm (MiB): {rss}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", default="")
    parser.add_argument("--clients", type=int, default=32)
    args = parser.parse_args()
    seed = args.seed or secrets.token_hex(4)
    say(f"Soak of {args.seconds:g} s with {args.clients} clients, seed {seed}")
    soak = Soak(args.seconds, seed, args.clients)
    problems = asyncio.run(soak.run())
    soak.summarize()
    if not problems:
        say(f"Every one of {soak.ledger.total} requests is accounted for; nothing is left behind.")
        return 0
    for fault in problems[:MAX_FAULTS_SHOWN]:  # once more, where the end of a log shows them
        say(f"FAULT {fault}")
    say(f"{len(problems)} faults. Again: make soak SECONDS={args.seconds:g} SEED={seed}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
