"""Models that take turns, under load and with faults: part of `make soak`.

    python -m tests.soak.memory_soak --seconds 60 --seed 7

Four models share memory for two. A phase is one instance, in one of the two modes by turns; in it
there are calm points, at which nothing may be left. Ends with 1 if any request was lost, cut or kept
waiting without one of the faults explaining it, if an engine ran that there was no memory for, or if
anything is left behind. A seed repeats what is asked and which faults are made; not how the two meet.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.soak.__main__ import MAX_FAULTS_SHOWN, Process, say
from tests.soak.accounts import Ended, Ledger, grown, left_behind, memory_trend
from tests.soak.memory_clients import User, Waits, Weather
from tests.soak.memory_faults import FaultLog, MemoryFaults
from tests.soak.memory_instance import NAMES, ROOM
from tests.soak.memory_totals import Totals
from tests.soak.memory_watch import ALIVE, ASLEEP, is_running

MODES = {"ram": "Enable Automatic CPU Offloading", "disk": "Enable Disk Swapping"}
PHASE_S = 60.0
ROUND_S = 12.0
LONGEST_WAIT_S = 20.0
"""No model keeps a request waiting for longer, whatever happens to the others."""
MAX_WAIT_S = 0.5
"""The option of that name of all models."""
HOST_GIB = 0.0025
"""RAM for models put aside, where it is bounded: for the files of two of them."""
PROGRESS_EVERY_S = 5.0
SHOWN_LINES = 200
_END_WITHIN_S = 60.0


class Phase:
    """One instance from its start to its end.

    Args:
        number: Of the phase; the mode alternates.
        seconds: How long it is under load.
        seed: Of the run.
        users: Who ask.
        totals: Of the run.
    """

    def __init__(self, number: int, seconds: float, seed: str, users: int, totals: Totals) -> None:
        self._seed = f"{seed}-{number}"
        self._random = random.Random(self._seed)
        offset = random.Random(seed).randrange(2)
        self.mode = ("ram", "disk")[(number + offset) % 2]
        self._seconds = seconds
        self._users = users
        self._totals = totals
        self._ledger = Ledger()
        self._rss: list[int] = []
        self._rounds = 0

    async def run(self) -> list[str]:
        """Run; what went wrong."""
        folder = Path(tempfile.mkdtemp(prefix="cd-soak-"))
        for state in (ALIVE, ASLEEP):
            (folder / state).mkdir()
        options = self._options()
        pinned = [name for name, given in options.items() if given.get("pinned")]
        sleepers = "".join(name for name in NAMES if self._random.random() < 0.5)
        bounded = ("--host-gib", str(HOST_GIB)) if self._random.random() < 0.4 else ()
        if self.mode != "ram":
            bounded = ()
        say(
            f"{MODES[self.mode]}{' within little RAM' if bounded else ''}: {json.dumps(options)}, "
            f"engines of {sleepers or 'none'} can sleep"
        )
        process = await Process.start(
            "tests.soak.memory_instance",
            *("--mode", self.mode, "--folder", str(folder), "--sleepers", sleepers),
            *("--options", json.dumps(options)),
            *bounded,
            *(("--log", self._totals.log) if self._totals.log else ()),
        )
        try:
            return await self._run(process, folder, len(pinned))
        finally:
            await process.end()
            shutil.rmtree(folder, ignore_errors=True)

    def _options(self) -> dict[str, dict[str, Any]]:
        pick = self._random
        options: dict[str, dict[str, Any]] = {}
        for name in NAMES:
            given = options[name] = {"max_wait_seconds": MAX_WAIT_S}
            if pick.random() < 0.3:
                given["priority"] = pick.choice((-1, 1, 5))
            if pick.random() < 0.2:
                given["idle_offload_minutes"] = pick.choice((0.005, 0.03))
            if pick.random() < 0.3:
                given |= {"max_concurrent_requests": 4, "max_waiting_requests": 1000}
        if pick.random() < 0.25:
            name = pick.choice(NAMES)
            options[name].pop("idle_offload_minutes", None)
            options[name]["pinned"] = True
        return options

    async def _run(self, process: Process, folder: Path, pinned: int) -> list[str]:
        told = await process.line()
        first = await process.ask("calm")
        problems = list(first["found"])
        began = time.monotonic()
        state = first
        while (left := self._seconds - (time.monotonic() - began)) > 1 and not problems:
            await self._round(process, folder, pinned, told, min(ROUND_S, left))
            state = await process.ask("calm")
            self._rss.append(state["rss"])
            self._take(state)
            problems += self._judge(first, state, folder)
        problems += await self._end(process, told, state)
        for fault in problems[:MAX_FAULTS_SHOWN]:
            say(f"FAULT {fault}")
        for line in state["lines"][-SHOWN_LINES:] if problems else ():
            say(f"    {line}")
        self._totals.add(self._ledger, state)
        return problems

    async def _round(
        self,
        process: Process,
        folder: Path,
        pinned: int,
        told: dict[str, Any],
        seconds: float,
    ) -> None:
        self._rounds += 1
        seed = f"{self._seed}-{self._rounds}"
        stop, calm = asyncio.Event(), asyncio.Event()
        totals = self._totals
        weather = Weather(NAMES, [1.0] * len(NAMES))
        url, key = told["url"], told["key"]

        async def set_budget(models: float) -> None:
            await process.ask(f"budget {models}")

        faults = MemoryFaults(
            f"{seed}-faults",
            folder,
            NAMES,
            totals.faults,
            url,
            key,
            set_budget,
            ROOM,
            pinned,
            self._ledger.faults.append,
        )
        users = [
            User(
                f"{seed}-{n}",
                f"{seed}-{n}",
                url,
                key,
                weather,
                totals.faults,
                totals.waits,
                self._ledger.saw,
            )
            for n in range(self._users)
        ]
        changing = asyncio.ensure_future(weather.run(f"{seed}-weather", stop))
        asking = [asyncio.ensure_future(user.run(stop)) for user in users]
        breaking = asyncio.ensure_future(faults.run(calm))
        end = time.monotonic() + seconds
        shown = time.monotonic()
        while time.monotonic() < end:
            state = await process.ask("state")
            self._take(state)
            if time.monotonic() - shown > PROGRESS_EVERY_S:
                shown = time.monotonic()
                totals.show(self._ledger, state)
            await asyncio.sleep(0.3)
        # The faults end first, so that what they broke is mended for those who still ask.
        calm.set()
        await breaking
        stop.set()
        done, left = await asyncio.wait({changing, *asking}, timeout=_END_WITHIN_S)
        for task in left:
            task.cancel()
            self._ledger.faults.append(f"a request was not answered within {_END_WITHIN_S:g} s")
        for task in done:
            task.result()

    def _take(self, state: dict[str, Any]) -> None:
        for item in state["ended"]:
            self._ledger.recorded(Ended(*item))

    def _judge(self, first: dict[str, Any], state: dict[str, Any], folder: Path) -> list[str]:
        """What is wrong at a calm point."""
        ledger = self._ledger
        ledger.settle()
        ledger.compare(state["results"], state["key_requests"])
        found = [*state["found"], *left_behind(state), *grown(first, state), *ledger.faults]
        found += state["problems"]
        ledger.faults = []
        moves = collections.Counter(state["moves"])
        if moves != collections.Counter(state["moved"]):
            found.append(f"the telemetry counted the moves {moves}, made were {state['moved']}")
        if (folder / "asked-asleep").exists():
            found.append("a request came to an engine that was asleep")
        longest = self._totals.waits.longest
        found += [
            f"a request for {name} waited {seconds:.1f} s"
            for name, seconds in longest.items()
            if seconds > LONGEST_WAIT_S
        ]
        return found

    async def _end(
        self, process: Process, told: dict[str, Any], state: dict[str, Any]
    ) -> list[str]:
        """Stop in the middle of moves and requests."""
        stop = asyncio.Event()
        weather = Weather(NAMES, [1.0] * len(NAMES))
        nobody = FaultLog()  # whatever happens to these is no fault of the instance
        users = [
            User(
                f"{self._seed}-end-{n}",
                f"{self._seed}-end-{n}",
                told["url"],
                told["key"],
                weather,
                nobody,
                Waits(),
                lambda seen: None,
            )
            for n in range(self._users)
        ]
        asking = [asyncio.ensure_future(user.run(stop)) for user in users]
        await asyncio.sleep(self._random.uniform(0.0, 1.5))
        stop.set()
        last = await process.ask("stop")
        done, left = await asyncio.wait(asking, timeout=_END_WITHIN_S)
        found = [f"{len(left)} requests hang although the instance has ended"] if left else []
        for task in left:
            task.cancel()
        for task in done:
            task.result()
        found += [text for text in last["problems"] if text not in state["problems"]]
        found += [f"still running: {pid}" for pid in last["children"]]
        found += [f"engine still running: {name}" for name in last["running"]]
        if last["tasks"] > 1:
            found.append(f"{last['tasks'] - 1} tasks are left after the stop")
        if last["held"]:
            found.append(f"{last['held']} bytes of files are kept after the stop")
        await process.end()
        found += [
            f"child {pid} outlives the instance" for pid in last["children"] if is_running(pid)
        ]
        if trend := memory_trend(self._rss):
            found.append(trend)
        self._totals.rss.append(self._rss)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", default="")
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--log", default="", help="file that gets all that the instances say")
    args = parser.parse_args()
    seed = args.seed or secrets.token_hex(4)
    say(f"Memory soak of {args.seconds:g} s with {args.users} users, seed {seed}")
    count = max(2, round(args.seconds / PHASE_S))
    totals = Totals(args.log)
    problems: list[str] = []
    for number in range(count):
        phase = Phase(number, args.seconds / count, seed, args.users, totals)
        problems += asyncio.run(phase.run())
        if len(problems) > MAX_FAULTS_SHOWN:
            break
    totals.summarize()
    if not problems:
        say(f"None of {totals.requests} requests was lost in {totals.moves.total()} moves.")
        return 0
    for fault in problems[:MAX_FAULTS_SHOWN]:  # once more, where the end of a log shows them
        say(f"FAULT {fault}")
    say(
        f"{len(problems)} faults. Again: "
        f"python -m tests.soak.memory_soak --seconds {args.seconds:g} --seed {seed}"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
