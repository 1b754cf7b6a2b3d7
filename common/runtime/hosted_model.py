"""One model of an instance, from its reference to its running engine: what the gateway calls an upstream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from common.engines.contract import EngineAddress, EngineSpec, EngineState
from common.engines.limits import SupervisorLimits
from common.engines.supervisor import Supervisor
from common.errors import CapacityError, DeployError, EngineCrashError, EngineError
from common.gateway.models import MemoryView, ModelStatus
from common.options.settings import ModelOptions

ENGINE_GRACE_S = 1.5
"""How long an engine may take to end: an abort promises that it is gone two seconds after the drain."""

_STATUS_OF_STATE: dict[EngineState, ModelStatus] = {
    EngineState.STOPPED: "offloaded",
    EngineState.STARTING: "loading",
    EngineState.READY: "ready",
    EngineState.PARKED: "sleeping",
    EngineState.STOPPING: "loading",
    EngineState.BACKOFF: "loading",
    EngineState.FATAL: "failed",
}


class Turns(Protocol):
    """Has one model take turns with the others on the devices (`common.runtime.universal_memory`)."""

    @property
    def is_open(self) -> bool:
        """Whether a request may go to the engine now, as far as the memory is concerned."""

    @property
    def closed_status(self) -> ModelStatus:
        """What clients see while it is not open."""

    @property
    def view(self) -> MemoryView:
        """Where it is and what it takes."""

    async def ensure_open(self, timeout_s: float | None) -> None:
        """Have it loaded; returns when it is open.

        Raises:
            DeployError: It failed to load.
            CapacityError: Not in time, or there is no memory for it.
        """

    async def load(self) -> None:
        """The same as an operator's wish, also for one that was given up."""

    async def sleep(self) -> None:
        """Put it into host RAM when its requests are answered."""

    async def unload(self) -> None:
        """Stop it when its requests are answered."""


class HostedModel:
    """A model that the instance serves; before its engine exists it is loading, or failed.

    Args:
        name: Served name.
        options: Its options.
        limits: Times and counts of its engine's supervision; None: the usual ones.

    Attributes:
        name: Served name.
        options: Its options.
        supervisor: Keeps its engine running; None: its files are still fetched or checked.
        turns: Decides when it is loaded; None: it always is, unless an operator unloads it.
        error: Why it was given up before it had an engine.
    """

    def __init__(
        self, name: str, options: ModelOptions, limits: SupervisorLimits | None = None
    ) -> None:
        self.name = name
        self.options = options
        self._limits = limits
        self.supervisor: Supervisor | None = None
        self.turns: Turns | None = None
        self.error: DeployError | None = None
        self._prepared = asyncio.Event()

    @property
    def address(self) -> EngineAddress:
        """Where its engine listens; a restart may change it.

        Raises:
            EngineCrashError: It has no engine yet.
        """
        if self.supervisor is None:
            raise EngineCrashError(f'The engine of "{self.name}" was never started.')
        return self.supervisor.address

    @property
    def status(self) -> ModelStatus:
        """The tier and state shown to clients."""
        if self.error is not None:
            return "failed"
        if self.supervisor is None:
            return "loading"
        state = self.supervisor.state
        if self.turns is not None and not self.turns.is_open and state is not EngineState.FATAL:
            return self.turns.closed_status
        return _STATUS_OF_STATE[state]

    @property
    def answers(self) -> bool:
        """Whether its engine answers questions, whether clients may use it or not."""
        return self.supervisor is not None and self.supervisor.state is EngineState.READY

    @property
    def failure(self) -> str | None:
        """Why it failed, in words for a client; None while it has not."""
        error = self.error or (self.supervisor.failure if self.supervisor else None)
        return str(error) if error is not None and self.status == "failed" else None

    @property
    def memory(self) -> MemoryView | None:
        """Where it is and what it takes; None: it is not moved."""
        return self.turns.view if self.turns is not None else None

    def fail(self, error: DeployError) -> None:
        """Give up on this model; waiting requests are told why."""
        self.error = error
        self._prepared.set()

    def prepare(
        self,
        spec: EngineSpec,
        console: Callable[[str, str], None],
        on_change: Callable[[EngineState], None],
        restart_spec: Callable[[], EngineSpec] | None = None,
        *,
        shares_memory: bool = False,
    ) -> Supervisor:
        """Give it an engine, which is not started yet.

        Args:
            spec: What to run.
            console: Gets the engine's lines.
            on_change: Called with every new state.
            restart_spec: Makes what to run at a restart, where that is not the same again.
            shares_memory: It takes turns with others: `start` will be given the turns.
        """
        self.supervisor = Supervisor(
            spec,
            console=console,
            on_change=on_change,
            limits=self._limits,
            address_factory=restart_spec,
            shares_memory=shares_memory,
        )
        return self.supervisor

    async def start(self, turns: Turns | None = None) -> None:
        """Let it be served; returns at once, `ensure_ready` waits.

        Args:
            turns: Starts the engine when it is its turn; None: it is started now, for good.
        """
        self.turns = turns
        if turns is None and self.supervisor is not None:
            await self.supervisor.start()
        self._prepared.set()

    async def ensure_ready(self, timeout_s: float | None) -> None:
        """Wait until the engine can answer.

        Raises:
            DeployError: It failed for good.
            CapacityError: Not ready within `timeout_s`.
        """
        started = time.monotonic()
        if not self._prepared.is_set():
            # Before Python 3.12 `wait_for` swallows a cancellation that comes with the event.
            prepared = asyncio.ensure_future(self._prepared.wait())
            try:
                await asyncio.wait({prepared}, timeout=timeout_s)
            finally:
                prepared.cancel()
            if not self._prepared.is_set():
                raise CapacityError(f'The model "{self.name}" is still loading. Try again shortly.')
        if self.error is not None:
            raise self.error
        if self.supervisor is None:
            raise EngineCrashError(f'The engine of "{self.name}" was never started.')

        def left() -> float | None:
            return None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - started))

        if self.turns is None:
            await self.supervisor.ensure_ready(left())
            return
        while True:
            # A model that is open does not move away under whoever was let in; its engine may be
            # about to be restarted after a crash.
            await self.turns.ensure_open(left())
            state = self.supervisor.state
            if state is EngineState.READY:
                return
            if state in (EngineState.STOPPED, EngineState.PARKED):
                continue  # in this very moment: it is for the turns to have it started
            try:
                await self.supervisor.ensure_ready(left())
            except EngineError as error:
                # Another process took its memory: it waits for its turn again.
                if not error.lacks_memory or self.supervisor.state is EngineState.FATAL:
                    raise

    async def load(self) -> None:
        """Start the engine unless it runs, also one that was given up, and wait until it answers.

        Raises:
            DeployError: It failed for good.
            CapacityError: It was stopped meanwhile.
        """
        if self.turns is not None:
            await self.turns.load()
            return
        if self.supervisor is not None:
            await self.supervisor.start()
        await self.ensure_ready(None)

    async def stop(self, grace_s: float | None = None) -> None:
        """Stop the engine, if there is one."""
        if self.supervisor is not None:
            await self.supervisor.stop(grace_s)
