"""Keeps one model's engine running: starts it, waits until it can serve, restarts, stops.

One loop (`Supervisor._live`) owns the engine's state and alone changes it. The public methods leave
it a request and wait for the outcome; they may be called at any time, from the loop's event loop.
Whether and when to restart is decided in `common.engines.state`.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import logging
import os
import shlex
import time
from collections.abc import Callable, Collection, Mapping

from common.engines.child_process import Console
from common.engines.console import mask
from common.engines.contract import Diagnosis, EngineAddress, EngineSpec, EngineState
from common.engines.engine_run import EngineRun, StopRequest
from common.engines.failures import build_failure
from common.engines.limits import SupervisorLimits
from common.engines.parking import Outcome
from common.engines.state import Ending, GiveUp, Rest, check_transition, decide_after_exit
from common.errors import CapacityError, DeployError, EngineCrashError, EngineError

__all__ = ["Supervisor", "SupervisorLimits"]

logger = logging.getLogger(__name__)

# What a client is told to wait for a first load, whose length nobody knows yet.
_FIRST_RETRY_S = 5.0


class Supervisor:
    """Runs one engine.

    Args:
        spec: What to run.
        console: Called with the model's name and one line; gets the engine's output and what
            happens to it. Must not block.
        on_change: Called with every new state, from the event loop. Must not block.
        limits: Times and counts.
        environ: The environment that the command's variables are added to; None is this process's.
            Handed on untouched, ``CUDA_VISIBLE_DEVICES`` included.
        address_factory: Makes the spec for each start after the first: for an engine on a TCP
            port, the same with another free port.
        secrets: Values to mask in the output besides those of the command's `secret_env`.
        shares_memory: Others may take its memory while it does not run. When it does not get it at a
            start it is STOPPED, with the reason in `failure`, for the caller to try again later;
            one that was never ready is given up at last.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        console: Console,
        on_change: Callable[[EngineState], None] | None = None,
        limits: SupervisorLimits | None = None,
        environ: Mapping[str, str] | None = None,
        address_factory: Callable[[], EngineSpec] | None = None,
        secrets: Collection[str] = (),
        shares_memory: bool = False,
    ) -> None:
        self._spec = spec
        self._console = console
        self._on_change = on_change
        self._limits = limits or SupervisorLimits()
        self._environ = environ
        self._address_factory = address_factory
        self._secrets = tuple(secrets)
        self._shares_memory = shares_memory

        self._state = EngineState.STOPPED
        self._run: EngineRun | None = None
        self._last_tail: tuple[str, ...] = ()
        self._failure: EngineError | None = None
        self._starts = 0
        self._restarts = 0
        self._ready_since: float | None = None
        self._load_s: float | None = None
        self._restart_at = 0.0
        self._short_starts = 0
        self._served = 0

        self._loop: asyncio.Task[None] | None = None
        self._start_again = False
        self._is_resting = False
        self._stop = StopRequest()
        self._stopped: asyncio.Future[None] | None = None
        self._waiters: set[asyncio.Future[DeployError | None]] = set()

    @property
    def state(self) -> EngineState:
        """The present state; may be another by the time it is acted on, so use `ensure_ready`."""
        return self._state

    @property
    def pid(self) -> int | None:
        """The engine's process id; None while it does not run."""
        return self._run.pid if self._run else None

    @property
    def failure(self) -> EngineError | None:
        """Why it ended last, while it is not ready again."""
        return self._failure

    @property
    def starts(self) -> int:
        """How often it was started, for whatever reason."""
        return self._starts

    @property
    def restarts(self) -> int:
        """How often it was started again because it had failed; not after a stop."""
        return self._restarts

    @property
    def spec(self) -> EngineSpec:
        """What runs, or would be run next."""
        return self._spec

    @property
    def address(self) -> EngineAddress:
        """Where it listens; a restart may change it."""
        return self._spec.address

    @property
    def ready_since(self) -> float | None:
        """When it became ready, as `time.time` tells; None while it is not."""
        return self._ready_since

    @property
    def load_s(self) -> float | None:
        """How long its last start took to be ready, in seconds; None before the first."""
        return self._load_s

    def tail(self) -> tuple[str, ...]:
        """The last lines of the running engine, or of the last one that ran."""
        return self._run.tail if self._run else self._last_tail

    def note_activity(self) -> None:
        """Say that the engine just served something: it is then not taken for hung. Cheap."""
        self._served += 1

    async def start(self) -> None:
        """Have the engine run, and keep it running; returns at once.

        Does nothing when it is on its way or ready already. A FATAL one is tried afresh.
        """
        if self._loop is not None and not self._loop.done():
            self._start_again = self._stopped is not None or self._is_resting
            return
        if self._state is EngineState.FATAL:
            self._short_starts = 0
        self._failure = None  # of the last life: `ensure_ready` must not take it for this one's
        self._loop = asyncio.get_running_loop().create_task(self._live())

    async def ensure_ready(self, timeout_s: float | None = None) -> None:
        """Wait until the engine is ready; starts it if it is stopped.

        Cancelling the wait does not cancel the start. A FATAL engine is not tried again: `start`
        does that.

        Args:
            timeout_s: How long to wait; None waits for however long the start may take.

        Raises:
            EngineError: It is FATAL; the subclass says whether the configuration is at fault, the
                text holds its last lines.
            CapacityError: It is not ready in time, or was stopped; `retry_after_s` says when to
                try again. It is parked: `unpark` is for whoever parked it.
        """
        if self._state is EngineState.PARKED and self._stopped is None:
            raise CapacityError(f'The engine of "{self._spec.name}" is asleep.')
        if self._state is EngineState.READY and self._stopped is None:
            return
        if self._state is EngineState.FATAL and self._failure is not None:
            raise copy.copy(self._failure)
        await self.start()
        waiter: asyncio.Future[DeployError | None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait({waiter}, timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)
        if not waiter.done():
            raise self._not_ready_in_time(timeout_s or 0.0)
        error = waiter.result()
        if error is not None:
            raise error

    async def park(self) -> None:
        """Leave the ready engine alone from now on: it is not asked whether it lives.

        If it ends while it is parked it is STOPPED, with the reason in `failure`, and is not
        started again. Does nothing to one that is parked already.

        Raises:
            CapacityError: It is not ready, or was stopped meanwhile.
            EngineError: It ended meanwhile.
        """
        if self._state is EngineState.PARKED and self._stopped is None:
            return
        if self._state is not EngineState.READY or self._stopped is not None or not self._run:
            raise CapacityError(f'The engine of "{self._spec.name}" is {self._state.value}.')
        if await self._run.parking.park() is not Outcome.DONE:
            raise self._ended_meanwhile()

    async def unpark(self, timeout_s: float) -> None:
        """Watch a parked engine again: it is READY when this returns.

        Args:
            timeout_s: How long it may take to answer. One that does not counts as hung: it stays
                parked, for the caller to stop.

        Raises:
            EngineError: It did not answer in time, or ended meanwhile.
            CapacityError: It is not parked, or was stopped meanwhile.
        """
        if self._state is EngineState.READY and self._stopped is None:
            return
        if self._state is not EngineState.PARKED or self._stopped is not None or not self._run:
            if self._failure is not None:
                raise copy.copy(self._failure)
            raise CapacityError(f'The engine of "{self._spec.name}" is {self._state.value}.')
        outcome = await self._run.parking.unpark(timeout_s)
        if outcome is Outcome.SILENT:
            raise EngineCrashError(
                f'The engine of "{self._spec.name}" did not answer within {timeout_s:g} s after it '
                "was woken."
            )
        if outcome is Outcome.ENDED:
            raise self._ended_meanwhile()

    async def stop(self, grace_s: float | None = None) -> None:
        """End the engine and all that it started; returns when it is gone.

        Concurrent calls share one stop, in which the shortest grace counts. Whoever waits in
        `ensure_ready` gets a `CapacityError`. A FATAL engine stays FATAL.

        Args:
            grace_s: From asking to killing; None is the limits' `stop_grace_s`, 0 kills at once.
        """
        grace_s = self._limits.stop_grace_s if grace_s is None else grace_s
        self._start_again = False
        self._release(CapacityError(f'The engine of "{self._spec.name}" was stopped.'))
        if self._loop is None or self._loop.done():
            return
        if self._stopped is None:
            self._stopped = asyncio.get_running_loop().create_future()
            self._stop.make(grace_s)
        elif self._stop.hasten(grace_s) and self._run:
            self._run.hasten(grace_s)
        await asyncio.shield(self._stopped)

    async def wait_closed(self) -> None:
        """Wait until the engine is stopped or FATAL, and nothing of it runs."""
        if self._loop is not None:
            await asyncio.wait({self._loop})

    # The loop. Everything below runs in it, but for `_release` and `_not_ready_in_time`.

    async def _live(self) -> None:
        try:
            while True:
                await self._keep_running()
                self._is_resting = False
                self._finish_stop()
                if not self._start_again:
                    return
                self._start_again = False
        except Exception as error:
            # Nobody else could bring the waiters out, and the instance serves other models too.
            logger.exception("the supervisor of %s failed", self._spec.name)
            await self._abandon()
            self._failure = EngineCrashError(
                f'The supervisor of "{self._spec.name}" failed, which is a mistake of this '
                f"program: {type(error).__name__}: {error}"
            )
            self._state = EngineState.FATAL
            self._announce()
        finally:
            await self._abandon()
            self._finish_stop()

    async def _keep_running(self) -> None:
        """Run the engine, again and again, until it is stopped or FATAL."""
        crashes = 0
        while True:
            self._set_state(EngineState.STARTING)
            ending = await self._run_once(is_restart=crashes > 0)
            if ending is None:
                self._set_state(EngineState.STOPPED)
                return
            if self._address_factory is None:
                ending = dataclasses.replace(ending, is_address_taken=False)
            tail = self._last_tail
            diagnosis = self._spec.program.diagnose(ending.exit_code, tail)
            decision = decide_after_exit(
                ending,
                diagnosis,
                crashes,
                self._limits.backoff,
                short_starts=self._count_short(diagnosis) if self._shares_memory else None,
            )
            self._failure = build_failure(self._spec, ending, diagnosis, decision, tail)
            self._say(str(self._failure).partition("\n")[0])
            if isinstance(decision, Rest):
                self._set_state(EngineState.STOPPED)
                if not ending.was_parked:
                    self._release(self._failure)
                return
            if isinstance(decision, GiveUp):
                self._set_state(EngineState.FATAL)
                return
            crashes = decision.crashes
            self._restart_at = time.monotonic() + decision.delay_s
            self._say(f"restarting in {decision.delay_s:g} s")
            self._set_state(EngineState.BACKOFF)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), decision.delay_s)
            if self._stop.is_made():
                self._set_state(EngineState.STOPPED)
                return
            self._restarts += 1

    def _count_short(self, diagnosis: Diagnosis) -> int:
        """How many starts in a row lacked memory; 0 once it had it, which it may have again."""
        self._short_starts = self._short_starts + 1 if diagnosis.lacks_memory else 0
        return self._short_starts if self._load_s is None else 0

    async def _run_once(self, *, is_restart: bool) -> Ending | None:
        """One run of the engine, to its end; None when it was stopped on request."""
        if self._starts and self._address_factory:
            self._spec = self._address_factory()
        self._starts += 1
        self._say_start(is_restart)
        self._run = EngineRun(
            self._spec,
            limits=self._limits,
            environ=os.environ if self._environ is None else self._environ,
            console=self._console,
            secrets=self._all_secrets(),
            stop=self._stop,
            served=lambda: self._served,
            say=self._say,
            on_ready=self._on_ready,
            on_parked=self._on_parked,
            on_ending=self._on_ending,
        )
        ending = await self._run.carry_out()
        self._last_tail = self._run.tail
        self._run = None
        return ending

    def _on_ready(self, load_s: float) -> None:
        self._load_s, self._ready_since, self._failure = load_s, time.time(), None
        self._say(f"ready after {load_s:.1f} s")
        self._set_state(EngineState.READY)

    def _on_parked(self, is_parked: bool) -> None:
        self._ready_since = None if is_parked else time.time()
        self._set_state(EngineState.PARKED if is_parked else EngineState.READY)

    def _on_ending(self) -> None:
        self._ready_since = None
        # Who asks for it from now on wants another one, which this loop must start.
        self._is_resting = self._state is EngineState.PARKED
        self._set_state(EngineState.STOPPING)

    async def _abandon(self) -> None:
        """Kill the engine when the loop is cancelled or failed; nothing to do otherwise."""
        if self._run is not None:
            run, self._run = self._run, None
            self._ready_since = None
            await run.kill()

    def _set_state(self, state: EngineState) -> None:
        check_transition(self._state, state)
        self._state = state
        self._announce()

    def _announce(self) -> None:
        """Tell the new state to whoever waits for it."""
        if self._state is EngineState.READY:
            self._release(None)
        elif self._state is EngineState.FATAL:
            self._release(self._failure)
        if self._on_change is not None:
            try:
                self._on_change(self._state)
            except Exception:
                logger.exception("the listener of %s failed", self._spec.name)

    def _release(self, error: DeployError | None) -> None:
        """End all waits in `ensure_ready`."""
        for waiter in self._waiters:
            if not waiter.done():
                # One instance that is raised twice would collect both tracebacks.
                waiter.set_result(copy.copy(error))
        self._waiters.clear()

    def _finish_stop(self) -> None:
        self._stop.clear()
        stopped, self._stopped = self._stopped, None
        if stopped is not None and not stopped.done():
            stopped.set_result(None)

    def _ended_meanwhile(self) -> DeployError:
        if self._failure is not None:
            return copy.copy(self._failure)
        return CapacityError(f'The engine of "{self._spec.name}" was stopped.')

    def _not_ready_in_time(self, timeout_s: float) -> CapacityError:
        retry_s = self._load_s or _FIRST_RETRY_S
        doing = "is loading"
        if self._state is EngineState.BACKOFF:
            retry_s += max(0.0, self._restart_at - time.monotonic())
            doing = "failed and will be started again"
        retry_s = min(60.0, max(1.0, retry_s))
        return CapacityError(
            f'The engine of "{self._spec.name}" {doing}; it was not ready within '
            f"{timeout_s:g} s. Try again in {retry_s:.0f} s.",
            retry_after_s=retry_s,
        )

    def _all_secrets(self) -> tuple[str, ...]:
        command = self._spec.command
        return (*self._secrets, *(command.env.get(name, "") for name in command.secret_env))

    def _say_start(self, is_restart: bool) -> None:
        again = f"again (restart {self._restarts}): " if is_restart else ""
        self._say(f"starting {again}{self._spec.program.label}")
        # Among the engine's own lines: it is for whoever looks into its output.
        self._tell(f"$ {shlex.join(self._spec.command.argv)}")

    def _say(self, line: str) -> None:
        """Tell an event: a line with the mark that makes it none of the engine's."""
        self._tell(f"[engine] {line}")

    def _tell(self, line: str) -> None:
        try:
            self._console(self._spec.name, mask(line, self._all_secrets()))
        except Exception:
            logger.exception("the console refused a line of %s", self._spec.name)
