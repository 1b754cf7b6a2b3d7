"""One run of an engine: from its start over readiness to its end, with nothing left of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from common.engines.child_process import ChildProcess, Console
from common.engines.contract import EngineSpec
from common.engines.failures import says_address_taken
from common.engines.limits import SupervisorLimits
from common.engines.parking import Parking
from common.engines.ports import is_listening
from common.engines.process_tree import TreeUsage, read_tree
from common.engines.readiness import HealthProbe, StartLimits, wait_until_ready, watch_liveness
from common.engines.state import Cause, Ending, LivenessLimits

# Restarting cannot help against these; others (no memory, no free process) pass.
_PERMANENT = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTDIR, errno.E2BIG}
)
# A late or hung engine has had its time and cannot finish anything.
_FAILED_GRACE_S = 1.0


class StopRequest:
    """The wish, left by others for the loop, that the engine be stopped."""

    def __init__(self) -> None:
        self._made = asyncio.Event()
        self.grace_s = 0.0

    def is_made(self) -> bool:
        """Tell whether a stop is wanted."""
        return self._made.is_set()

    def make(self, grace_s: float) -> None:
        """Want a stop."""
        self.grace_s = grace_s
        self._made.set()

    def hasten(self, grace_s: float) -> bool:
        """Shorten the grace of a stop that is under way; False if it is as short already."""
        if grace_s >= self.grace_s:
            return False
        self.grace_s = grace_s
        return True

    def clear(self) -> None:
        """Forget it: it was carried out."""
        self._made.clear()

    async def wait(self) -> None:
        """Wait until a stop is wanted."""
        await self._made.wait()


class EngineRun:
    """Starts an engine once and follows it.

    Args:
        spec: What to run.
        limits: Times and counts.
        environ: The environment that the command's variables are added to.
        console: Gets the engine's output.
        secrets: Values to mask in it.
        stop: Ends the run when it is made.
        served: A figure that changes whenever the engine served something.
        say: Gets sentences about the run.
        on_ready: Called with the seconds from start to readiness.
        on_parked: Called with True when the engine is left alone, False when it is watched again.
        on_ending: Called when the engine has ended or is about to be ended.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        limits: SupervisorLimits,
        environ: Mapping[str, str],
        console: Console,
        secrets: Collection[str],
        stop: StopRequest,
        served: Callable[[], int],
        say: Callable[[str], None],
        on_ready: Callable[[float], None],
        on_parked: Callable[[bool], None],
        on_ending: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._limits = limits
        self._environ = environ
        self._console = console
        self._secrets = secrets
        self._stop = stop
        self._served = served
        self._say = say
        self._on_ready = on_ready
        self._on_ending = on_ending
        self._child: ChildProcess | None = None
        self._started = 0.0
        self._ready: float | None = None
        self.parking = Parking(on_parked)

    @property
    def pid(self) -> int | None:
        """The engine's process id; None before it runs."""
        return self._child.pid if self._child else None

    @property
    def tail(self) -> tuple[str, ...]:
        """The engine's last lines."""
        return self._child.tail() if self._child else ()

    def hasten(self, grace_s: float) -> None:
        """Shorten the grace of the stop that is under way."""
        if self._child:
            self._child.request_stop(grace_s)

    async def kill(self) -> None:
        """End the engine at once, when nobody carries out the run any more."""
        if self._child:
            await self._child.stop(0.0)
            self._remove_socket()

    async def carry_out(self) -> Ending | None:
        """Run the engine to its end; None when that was requested."""
        try:
            return await self._carry_out()
        finally:
            self.parking.close()

    async def _carry_out(self) -> Ending | None:
        self._started = time.monotonic()
        self._remove_socket()
        try:
            child = await self._spawn()
        except OSError as error:
            cause = Cause.NOT_EXECUTABLE if error.errno in _PERMANENT else Cause.NOT_STARTED
            detail = f"{error.strerror}: {error.filename}" if error.filename else str(error)
            return Ending(cause, ran_s=0.0, detail=detail)
        self._child = child
        async with HealthProbe(self._spec.address, self._spec.program.health_path) as probe:
            cause, detail = await self._follow(child, probe)
        ending = await self._end(child, cause, detail)
        self._remove_socket()
        return ending

    async def _spawn(self) -> ChildProcess:
        command = self._spec.command
        return await ChildProcess.spawn(
            self._spec.name,
            command.argv,
            env={**self._environ, **command.env},
            console=self._console,
            cwd=self._spec.cwd,
            secrets=self._secrets,
        )

    async def _follow(self, child: ChildProcess, probe: HealthProbe) -> tuple[Cause, str]:
        """Bring the engine to readiness and watch it, until it ends or must be ended."""
        limits = self._limits

        async def measure() -> TreeUsage:
            return await asyncio.to_thread(read_tree, child.guard_pid)

        async def is_ours() -> bool:
            port = self._spec.address.port
            if port is None:
                return True  # nobody else can put a socket into our directory
            return await asyncio.to_thread(is_listening, port, (await measure()).pids)

        start_limits = StartLimits(
            limits.start_timeout_s,
            limits.no_progress_timeout_s,
            probe_timeout_s=limits.start_probe_s,
            measure_interval_s=limits.measure_interval_s,
        )
        has_ended, late = await self._until_ended(
            child, wait_until_ready(probe, measure, start_limits, is_ours)
        )
        if has_ended:
            return Cause.EXITED, ""
        if late is not None:
            return Cause.TOO_SLOW, late
        self._ready = time.monotonic()
        self._on_ready(self._ready - self._started)

        def watch() -> Coroutine[Any, Any, str]:
            return watch_liveness(
                probe,
                measure,
                self._served,
                interval_s=limits.health_interval_s,
                timeout_s=limits.health_timeout_s,
                limits=LivenessLimits(limits.health_failures, limits.busy_health_failures),
            )

        has_ended, hung = await self._until_ended(child, self.parking.follow(watch, probe))
        return (Cause.EXITED, "") if has_ended else (Cause.HUNG, str(hung))

    async def _until_ended(
        self, child: ChildProcess, watch: Coroutine[Any, Any, str | None]
    ) -> tuple[bool, str | None]:
        """Run `watch`; its result, or (True, None) if the engine ends or is to be stopped first."""
        loop = asyncio.get_running_loop()
        watching = loop.create_task(watch)
        others = [loop.create_task(child.wait_ended()), loop.create_task(self._stop.wait())]
        try:
            await asyncio.wait({watching, *others}, return_when=asyncio.FIRST_COMPLETED)
            if any(other.done() for other in others):
                return True, None
            return False, watching.result()
        finally:
            for aio_task in (watching, *others):
                aio_task.cancel()
            await asyncio.gather(watching, *others, return_exceptions=True)

    async def _end(self, child: ChildProcess, cause: Cause, detail: str) -> Ending | None:
        """See the engine and its descendants out; None when that was requested."""
        now = time.monotonic()
        self._on_ending()
        if self._stop.is_made():
            self._say("stopping")
            grace_s = self._stop.grace_s
            if self.parking.is_parked:
                grace_s = min(grace_s, self._limits.parked_grace_s)
            status = await child.stop(grace_s)
            self._say(f"stopped ({status})")
            return None
        if cause is Cause.EXITED:
            status = await child.wait()
        else:
            self._say(f"{detail}; it is ended")
            status = await child.stop(min(_FAILED_GRACE_S, self._limits.stop_grace_s))
        if self._stop.is_made():
            return None
        has_exited = cause is Cause.EXITED
        return Ending(
            cause,
            ran_s=now - self._started,
            ready_s=None if self._ready is None else now - self._ready,
            exit_code=status.exit_code if has_exited else None,
            signal=status.signal if has_exited else None,
            detail=detail,
            is_address_taken=self._is_address_taken(child),
            was_parked=self.parking.is_parked,
        )

    def _is_address_taken(self, child: ChildProcess) -> bool:
        has_port = self._spec.address.port is not None
        return has_port and self._ready is None and says_address_taken(child.tail())

    def _remove_socket(self) -> None:
        """Remove a socket file that a killed engine left: the next one could not bind."""
        if self._spec.address.socket_path is not None:
            with contextlib.suppress(OSError):
                self._spec.address.socket_path.unlink()
