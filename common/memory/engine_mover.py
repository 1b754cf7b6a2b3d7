"""Carries out a model's moves between the tiers on its engine's process.

From the GPU to host RAM there are several ways, and the memory that they freed is measured after
each; one that freed too little is followed by the next. The last way always works: the process is
stopped, and the weights are kept in host RAM if there is room for them.

From the GPU to disk an engine may be emptied: its process stays without its weights. The model is on
disk then as if the engine had been stopped, comes back faster, and keeps its process until that is told
to end (`EngineMover.move`), crashes or cannot be brought back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from common.engines.contract import EngineState
from common.engines.supervisor import Supervisor
from common.errors import CapacityError, EngineCrashError, EngineError
from common.memory.attempts import attempt, to_its_end
from common.memory.contract import Tier
from common.memory.engine_sleep import EngineSleep, MoverLimits, first_line, running_engine
from common.memory.freed import FreedCheck
from common.memory.held_files import HeldFiles, HoldError
from common.memory.kept_weights import KeptWeights
from common.memory.offload import Offload, RunningEngine

__all__ = ["EngineHook", "EngineMover", "MoverLimits"]

logger = logging.getLogger(__name__)

EngineHook = Callable[[RunningEngine], Awaitable[None]]
"""Something to do with an engine that is ready."""


class EngineMover:
    """Moves one model (`common.memory.contract.ModelMover`).

    Args:
        supervisor: Runs the engine; from now on only this starts, parks and stops it.
        freed: Measures what a move freed.
        offloads: Ways to put the engine aside with its process kept and its weights in host RAM, the
            best first.
        emptied: Ways for the disk: its process is kept without its weights.
        may_empty: Whether there is room for what the process keeps; asked before each such move.
        files: Keeps the weights of the stopped engine in host RAM; None: they cannot be.
        keep_held: The weights stay locked also while the engine runs, since it maps the same pages.
        before_leaving: Called with a ready engine that is about to be stopped.
        after_coming: Called with a new engine when it is ready. Neither hook can fail a move.
        limits: Times.
        say: Gets what happens, a line each. Must not block.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        freed: FreedCheck,
        *,
        offloads: Sequence[Offload] = (),
        emptied: Sequence[Offload] = (),
        may_empty: Callable[[], bool] = lambda: True,
        files: HeldFiles | None = None,
        keep_held: bool = False,
        before_leaving: EngineHook | None = None,
        after_coming: EngineHook | None = None,
        limits: MoverLimits | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._freed = freed
        self._asleep = tuple(offloads)
        self._emptied = tuple(emptied)
        self._may_empty = may_empty
        self._weights = KeptWeights(files, self._say)
        self._keep_held = keep_held
        self._before_leaving = before_leaving
        self._after_coming = after_coming
        self._limits = limits or MoverLimits()
        self._listener = say
        self._sleep = EngineSleep(supervisor, freed, self._limits, self._say)
        self._is_moving = False
        self._settled = Tier.DISK
        self._releasing: asyncio.Task[None] | None = None

    @property
    def tier(self) -> Tier:
        """Where the model is.

        An engine that crashed and is being started again by its supervisor still has its place.
        """
        state = self._supervisor.state
        if state is EngineState.READY:
            return Tier.GPU
        if state is EngineState.PARKED:
            return self._sleep.tier
        if state is EngineState.FATAL:
            return Tier.DISK
        if state is EngineState.STOPPED:
            return Tier.CPU if self._weights.is_held else Tier.DISK
        return self._settled

    @property
    def keeps_process(self) -> bool:
        """Whether the model is on disk and its engine's process is still there, emptied."""
        is_parked = self._supervisor.state is EngineState.PARKED
        return is_parked and not self._is_moving and self._sleep.tier is Tier.DISK

    async def move(self, to: Tier, *, ends_process: bool = False) -> Tier:
        """Move the model; returns the tier that it reached, which may be a lower one.

        A move that is cancelled ends with the engine stopped, or ready as it was where it had not
        been touched; files that were kept stay kept.

        Args:
            to: The tier.
            ends_process: With `Tier.DISK`: the engine is stopped, also one that was emptied.

        Raises:
            EngineError: A load failed for good; the model is on disk.
            CapacityError: The engine did not get its memory, or was stopped meanwhile; or there is no
                RAM for the files of a model that is on disk; or it is being moved.
        """
        name = self._supervisor.spec.name
        if self._is_moving:
            raise CapacityError(f'"{name}" is being moved already.')
        self._is_moving = True
        if self._releasing is not None:
            self._releasing.cancel()
        try:
            if to is Tier.GPU:
                await self._come()
            elif to is Tier.CPU:
                await self._go_to_sleep()
            else:
                await self._leave(ends_process)
        except (EngineError, CapacityError):
            raise
        except Exception as error:
            logger.exception("a move of %s failed", name)
            await self._stop(0.0)
            self._weights.release()
            raise EngineCrashError(
                f'Moving "{name}" failed, which is a mistake of this program: '
                f"{type(error).__name__}: {error}"
            ) from error
        finally:
            self._is_moving = False
            self._settled = self.tier
        return self.tier

    # To the GPU.

    async def _come(self) -> None:
        supervisor = self._supervisor
        try:
            if supervisor.state is not EngineState.READY and not await self._wake():
                await supervisor.start()
                await supervisor.ensure_ready(None)
                await self._call(self._after_coming, "what it had computed was not restored")
                await supervisor.ensure_ready(None)  # it may have crashed meanwhile
        except asyncio.CancelledError:
            await self._stop(0.0)
            raise
        except EngineError as error:
            if error.lacks_memory and supervisor.state is not EngineState.FATAL:
                raise CapacityError(first_line(error)) from error
            self._weights.release()
            raise
        if not self._keep_held:
            self._weights.release()
        elif self._weights.is_held:
            self._releasing = asyncio.create_task(self._release_at_end())

    async def _release_at_end(self) -> None:
        """Give the RAM back when the engine is given up while it has its place."""
        await self._supervisor.wait_closed()
        self._weights.release()

    async def _wake(self) -> bool:
        """Wake a sleeping engine; False if it must be started."""
        if self._supervisor.state is not EngineState.PARKED:
            return False
        if await self._sleep.end():
            return True
        await self._stop(0.0)
        return False

    # To host RAM.

    async def _go_to_sleep(self) -> None:
        supervisor = self._supervisor
        if supervisor.state in (EngineState.PARKED, EngineState.FATAL):
            return  # there already; or given up, and nobody is to come back for it
        if supervisor.state is EngineState.STOPPED:
            await self._hold_from_disk()
            return
        try:
            if supervisor.state is EngineState.READY and await self._sleep.begin(
                self._asleep, Tier.CPU
            ):
                self._weights.release()  # a sleeping engine has its own copy
                return
            if supervisor.state is EngineState.READY:
                await self._call(self._before_leaving, "what it had computed was not saved")
            # While it still runs: its pages are in the page cache.
            await self._hold()
        except asyncio.CancelledError:
            if supervisor.state is not EngineState.READY:
                await self._stop(0.0)
            raise
        await self._stop()

    async def _hold(self) -> None:
        """Keep the weights in host RAM if that can be; says why not."""
        try:
            await self._weights.hold()
        except (CapacityError, HoldError) as error:
            self._say(f"it goes to disk: {error}")

    async def _hold_from_disk(self) -> None:
        try:
            await self._weights.hold()
        except HoldError as error:
            self._say(f"it stays on disk: {error}")

    # To disk, and what all need.

    async def _leave(self, ends_process: bool) -> None:
        if self._supervisor.state is EngineState.READY:
            # Also of an engine that is only emptied: it may end before it comes back.
            await self._call(self._before_leaving, "what it had computed was not saved")
        if not ends_process and await self._empty():
            self._weights.release()
            return
        try:
            await self._stop()
        finally:
            self._weights.release()

    async def _empty(self) -> bool:
        """Have the engine's process stay without its weights; False: it must be stopped."""
        state = self._supervisor.state
        if state is EngineState.PARKED:
            return self._sleep.tier is Tier.DISK
        if state is not EngineState.READY or not self._emptied:
            return False
        if not self._may_empty():
            self._say("not emptied: what its process keeps is needed for others")
            return False
        try:
            return await self._sleep.begin(self._emptied, Tier.DISK)
        except asyncio.CancelledError:
            if self._supervisor.state is not EngineState.READY:
                await self._stop(0.0)
                self._weights.release()
            raise

    async def _stop(self, grace_s: float | None = None) -> None:
        """End the engine, and wait a while for its memory; carried out also when cancelled."""
        await to_its_end(self._stop_and_measure(grace_s))

    async def _stop_and_measure(self, grace_s: float | None) -> None:
        supervisor = self._supervisor
        had_all = supervisor.state is EngineState.READY
        mark = await self._freed.mark(supervisor.pid)
        await supervisor.stop(self._limits.stop_grace_s if grace_s is None else grace_s)
        self._sleep.forget()
        freed = await self._freed.after_stop(mark, had_all=had_all)
        if freed is not None and not freed.is_freed:
            self._say(f"its engine was stopped, but {freed.words}")

    async def _call(self, hook: EngineHook | None, otherwise: str) -> None:
        engine = running_engine(self._supervisor)
        if hook is None or engine is None:
            return

        async def call() -> None:
            await hook(engine)

        error = await attempt(call(), self._limits.hook_s)
        if error is not None:
            self._say(f"{otherwise}: {first_line(error)}")

    def _say(self, line: str) -> None:
        if self._listener is None:
            return
        try:
            self._listener(line)
        except Exception:
            logger.exception("the listener of %s failed", self._supervisor.spec.name)
