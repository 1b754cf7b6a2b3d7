"""Putting an engine to sleep with its process kept, by one way after the other, and waking it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.engines.contract import EngineState
from common.engines.supervisor import Supervisor
from common.errors import CapacityError, EngineError
from common.memory.attempts import attempt
from common.memory.contract import Tier
from common.memory.freed import FreedCheck
from common.memory.offload import Offload, OffloadError, RunningEngine


@dataclass(frozen=True)
class MoverLimits:
    """How long the parts of a move may take, in seconds.

    Attributes:
        put_aside_s: One way to put an engine aside.
        bring_back_s: Undoing one.
        reload_s: The same where the weights are read from their files again.
        answer_s: From then until it answers.
        hook_s: One hook.
        stop_grace_s: Between asking an engine to end and killing it; None: the supervisor's.
    """

    put_aside_s: float = 120.0
    bring_back_s: float = 120.0
    reload_s: float = 900.0
    answer_s: float = 15.0
    hook_s: float = 30.0
    stop_grace_s: float | None = None


@dataclass(frozen=True)
class _Words:
    """What putting an engine aside is called."""

    done: str
    not_done: str


_WORDS = {
    Tier.CPU: _Words("asleep", "not put to sleep"),
    Tier.DISK: _Words("without its weights", "not emptied"),
}


class EngineSleep:
    """Puts one engine to sleep, and wakes it.

    Args:
        supervisor: Runs it.
        freed: Measures what a way freed.
        limits: Times.
        say: Gets what happens, a line each.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        freed: FreedCheck,
        limits: MoverLimits,
        say: Callable[[str], None],
    ) -> None:
        self._supervisor = supervisor
        self._freed = freed
        self._limits = limits
        self._say = say
        # What put the engine aside, to be undone in reverse order.
        self._applied: list[Offload] = []
        self._tier = Tier.CPU

    @property
    def tier(self) -> Tier:
        """Where the model of the engine is while that is parked: its weights, that is."""
        return self._tier

    def forget(self) -> None:
        """Take note that the engine was stopped."""
        self._applied.clear()

    async def begin(self, offloads: Sequence[Offload], tier: Tier) -> bool:
        """Put the ready engine to sleep, until its memory is free.

        Args:
            offloads: The ways, the best first.
            tier: Where they have its weights: in host RAM, or only in the files.

        Returns:
            False if no way did it, which is said: the engine must be stopped. It is ready if no way
            has touched it, else parked, or gone.
        """
        supervisor = self._supervisor
        engine = running_engine(supervisor)
        if not offloads or engine is None:
            return False
        words = _WORDS[tier]
        self._tier = tier
        self._applied.clear()  # of a process that may have ended by itself
        mark = await self._freed.mark(engine.pid)
        try:
            await supervisor.park()
        except (EngineError, CapacityError) as error:
            self._say(f"{words.not_done}: {first_line(error)}")
            return False
        for offload in offloads:
            began = time.monotonic()
            problem = await attempt(
                offload.put_aside(engine), self._limits.put_aside_s, supervisor.wait_closed()
            )
            took_s = time.monotonic() - began
            if problem is not None:
                self._say(f"{words.not_done} ({offload.label}): {first_line(problem)}")
                if isinstance(problem, OffloadError) and problem.is_untouched:
                    continue
                return False
            self._applied.append(offload)
            freed = await self._freed.after_offload(mark)
            if supervisor.state is not EngineState.PARKED:
                self._say(f"{words.not_done} ({offload.label}): the engine ended")
                return False
            if freed.is_freed:
                self._say(f"{words.done} after {took_s:.1f} s ({offload.label}): {freed.words}")
                return True
            self._say(f"{offload.label} did not free its memory: {freed.words}")
        if not self._applied:
            await self._back_to_ready()
        return False

    async def _back_to_ready(self) -> None:
        try:
            await self._supervisor.unpark(self._limits.answer_s)
        except (EngineError, CapacityError) as error:
            self._say(first_line(error))

    async def end(self) -> bool:
        """Wake the parked engine; it is ready then.

        Returns:
            False if it cannot be woken, which is said: it must be stopped.
        """
        engine = running_engine(self._supervisor)
        if engine is None:
            return False
        began = time.monotonic()
        problem = await self._undo(engine)
        if problem:
            self._say(f"{problem.rstrip('.')}; it is started anew")
            return False
        self._say(f"awake after {time.monotonic() - began:.1f} s")
        return True

    async def _undo(self, engine: RunningEngine) -> str:
        """Bring the engine back; why it could not be, empty if it was."""
        supervisor = self._supervisor
        limits = self._limits
        timeout_s = limits.reload_s if self._tier is Tier.DISK else limits.bring_back_s
        while self._applied:
            offload = self._applied[-1]
            problem = await attempt(offload.bring_back(engine), timeout_s, supervisor.wait_closed())
            if problem is not None:
                return f"not brought back ({offload.label}): {first_line(problem)}"
            self._applied.pop()
        try:
            await supervisor.unpark(self._limits.answer_s)
        except (EngineError, CapacityError) as error:
            return first_line(error)
        return ""


def running_engine(supervisor: Supervisor) -> RunningEngine | None:
    """The engine's process and address; None while it does not run."""
    pid = supervisor.pid
    return None if pid is None else RunningEngine(pid, supervisor.address)


def first_line(error: BaseException) -> str:
    """What an error says, without an engine's output that may follow."""
    return str(error).partition("\n")[0] or type(error).__name__
