"""What goes wrong, on purpose, while models take turns; and which errors of clients that explains."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.soak.memory_watch import ALIVE, ASLEEP, running

NOTICED_S = 0.5
"""After its engine was killed a model may still get a request that fails."""
OPERATION_S = 25.0
"""An operator's call takes no longer: those of all models, and a hung engine, may come before."""
ALLOWED = (200, 409, 502, 503)


@dataclass
class Fault:
    """Something that makes requests for a model fail.

    Attributes:
        what: In words.
        model: The model; "": all.
        began: On the monotonic clock.
        ended: From then on no request may fail of it.
        refuses: Requests are told that the model cannot be had; else its engine dies at work.
    """

    what: str
    model: str
    began: float
    ended: float
    refuses: bool = False


class FaultLog:
    """The faults of a run."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self.made: collections.Counter[str] = collections.Counter()

    def add(self, fault: Fault) -> Fault:
        """Note a fault before it is made."""
        self._faults.append(fault)
        return fault

    def explains(self, model: str, began: float, ended: float, *, is_refused: bool) -> bool:
        """Whether a request may have failed by a fault.

        Args:
            model: Its model.
            began: When it was made.
            ended: When it failed.
            is_refused: It was told that the model cannot be had; else the engine died at work.
        """
        return any(
            fault.model in ("", model)
            and fault.began <= ended
            and began <= fault.ended
            and fault.refuses is is_refused
            for fault in self._faults
        )


class MemoryFaults:
    """Makes faults at random.

    Args:
        seed: Decides them.
        folder: The engines'.
        names: The models.
        log: Gets those that may make a request fail.
        url: Of the gateway.
        key: An administrator's.
        set_budget: Has the instance have memory for so many models.
        room: For how many it has memory as a rule.
        pinned: Models that are never put aside.
        tell: Gets what must not be.
    """

    def __init__(
        self,
        seed: str,
        folder: Path,
        names: Sequence[str],
        log: FaultLog,
        url: str,
        key: str,
        set_budget: Callable[[float], Awaitable[None]],
        room: int,
        pinned: int,
        tell: Callable[[str], None],
    ) -> None:
        self._random = random.Random(seed)
        self._folder = folder
        self._names = names
        self._log = log
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._set_budget = set_budget
        self._room = room
        self._pinned = pinned
        self._tell = tell
        self._stopped: set[int] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._is_budget_changed = False

    async def run(self, stop: asyncio.Event) -> None:
        """Make faults until told to stop; then let all go on, and wait for the operators."""
        pick = self._random
        faults = (
            (self._kill, 12),
            (self._hold, 8),
            (self._hang, 1),
            (self._crash_a_load, 6),
            (self._slow_load, 4),
            (self._bad_load, 2),
            (self._operate, 12),
            (self._change_budget, 4),
        )
        async with aiohttp.ClientSession(headers=self._headers) as session:
            self._session = session
            while not stop.is_set():
                make = pick.choices([f for f, _ in faults], weights=[n for _, n in faults])[0]
                make(pick.choice(self._names))
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(stop.wait(), pick.uniform(0.1, 1.2))
            if self._calls:
                await asyncio.wait(self._calls)
        for what in ("crash", "bad", "slow"):
            for name in self._names:
                (self._folder / f"{name}.{what}").unlink(missing_ok=True)

    def _spawn(self, work: Awaitable[None]) -> None:
        async def call() -> None:
            await work

        task = asyncio.ensure_future(call())
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    def _pid(self, model: str) -> int | None:
        """The engine's process, awake or asleep."""
        found = running(self._folder / ALIVE).get(model) or running(self._folder / ASLEEP).get(
            model
        )
        return found[0] if found else None

    def _kill(self, model: str) -> None:
        pid = self._pid(model)
        if pid is None or pid in self._stopped:
            return
        self._log.made["engine killed"] += 1
        now = time.monotonic()
        self._log.add(Fault("killed", model, now, now + NOTICED_S))
        _signal(pid, signal.SIGKILL)

    def _hold(self, model: str) -> None:
        """Stop an engine for a moment, which nobody may notice but by the time."""
        self._stop(model, "engine held up", self._random.uniform(0.1, 0.8))

    def _hang(self, model: str) -> None:
        seconds = self._random.uniform(5.0, 8.0)
        pid = self._stop(model, "engine hung", seconds)
        if pid is not None:
            now = time.monotonic()
            self._log.add(Fault("hung", model, now, now + seconds + NOTICED_S))

    def _stop(self, model: str, what: str, seconds: float) -> int | None:
        pid = self._pid(model)
        if pid is None or pid in self._stopped:
            return None
        self._log.made[what] += 1
        self._spawn(self._keep_stopped(pid, seconds))
        return pid

    async def _keep_stopped(self, pid: int, seconds: float) -> None:
        self._stopped.add(pid)
        _signal(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            _signal(pid, signal.SIGCONT)
            self._stopped.discard(pid)

    def _crash_a_load(self, model: str) -> None:
        self._log.made["load crashes once"] += 1
        (self._folder / f"{model}.crash").write_text("")

    def _slow_load(self, model: str) -> None:
        self._log.made["slow load"] += 1
        (self._folder / f"{model}.slow").write_text(str(self._random.uniform(0.5, 2.0)))

    def _bad_load(self, model: str) -> None:
        """Have a model given up at its next load, until an operator loads it."""
        self._log.made["load that fails for good"] += 1
        self._spawn(self._give_up_for_a_while(model, self._random.uniform(0.5, 2.0)))

    async def _give_up_for_a_while(self, model: str, seconds: float) -> None:
        path = self._folder / f"{model}.bad"
        fault = self._log.add(
            Fault("given up", model, time.monotonic(), float("inf"), refuses=True)
        )
        path.write_text("")
        await asyncio.sleep(seconds)
        path.unlink(missing_ok=True)
        # Its engine may have taken the order and not ended yet: the first call ends with that.
        for _ in range(2):
            await self._call(model, "load")
        fault.ended = time.monotonic() + NOTICED_S

    def _operate(self, model: str) -> None:
        what = self._random.choice(("load", "sleep", "unload"))
        self._log.made[f"operator: {what}"] += 1
        self._spawn(self._call(model, what))

    async def _call(self, model: str, what: str) -> None:
        url = f"{self._url}/admin/models/{model}/{what}"
        began = time.monotonic()
        try:
            async with self._session.post(
                url, timeout=aiohttp.ClientTimeout(total=OPERATION_S + 20)
            ) as answer:
                text = await answer.text()
                status = answer.status
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            self._tell(f"an operator's {what} of {model} was not answered: {error!r}")
            return
        took_s = time.monotonic() - began
        if status not in ALLOWED:
            self._tell(f"an operator's {what} of {model} got {status}: {text}")
        if took_s > OPERATION_S:
            self._tell(f"an operator's {what} of {model} took {took_s:.1f} s ({status}: {text})")

    def _change_budget(self, model: str) -> None:
        if self._is_budget_changed:
            return
        self._is_budget_changed = True
        models = self._random.choice((0.5, 1, 1, 1, 3))
        self._log.made[f"memory for {models:g} models"] += 1
        self._spawn(self._budget_for_a_while(models, self._random.uniform(0.5, 4.0)))

    async def _budget_for_a_while(self, models: float, seconds: float) -> None:
        fault = None
        if models < 1 + self._pinned:
            now = time.monotonic()
            fault = self._log.add(Fault("no memory", "", now, float("inf"), refuses=True))
        try:
            await self._set_budget(models)
            await asyncio.sleep(seconds)
        finally:
            await self._set_budget(self._room)
            if fault is not None:
                fault.ended = time.monotonic() + NOTICED_S
            self._is_budget_changed = False


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
