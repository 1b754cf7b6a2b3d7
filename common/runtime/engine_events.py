"""What engines say and how their states change: for the console, the progress and the telemetry."""

from __future__ import annotations

import time

from common.engines.contract import EngineState
from common.runtime.app import InstalledEngine
from common.runtime.console import SUPERVISOR_MARK, Console
from common.runtime.hosted_model import HostedModel
from common.runtime.preparation import STARTING
from common.telemetry.recorder import Recorder

ENDING = f"{SUPERVISOR_MARK} stopping"
"""What a supervisor says when it asks its engine to end."""


class EngineEvents:
    """Takes the lines and the states of an instance's engines.

    Args:
        console: Gets the lines.
        recorder: Gets how long models take to load and to stop.
        counts_moves: False where somebody else counts them, who moves the models.

    Attributes:
        progress: What is being done for each model, in words, by its name.
    """

    def __init__(self, console: Console, recorder: Recorder, *, counts_moves: bool = True) -> None:
        self._console = console
        self._recorder = recorder
        self._counts_moves = counts_moves
        self._is_ending: dict[str, bool] = {}
        self._stopping_since: dict[str, float] = {}
        self._parked: set[str] = set()
        self.progress: dict[str, str] = {}

    def said(self, engine: InstalledEngine, model: HostedModel, line: str) -> bool:
        """Take a line of a model's engine; returns whether it changed the model's progress."""
        if line.startswith(SUPERVISOR_MARK):
            self._is_ending[model.name] = line == ENDING
        # Processes of one engine that are to end say warnings and tracebacks about each other.
        elif self._is_ending.get(model.name) or (
            engine.is_noise(line) and not model.options.is_verbose
        ):
            self._console.debug(f"[{model.name}] {line}")
            return False
        self._console.engine(model.name, line)
        step = engine.loading_step(line) if model.status == "loading" else None
        if step:
            self.progress[model.name] = f"{STARTING}: {step}"
        return bool(step)

    def changed(self, model: HostedModel, state: EngineState) -> None:
        """Take a new state of a model's engine."""
        self._console.debug(f"{model.name}: engine {state.value}")
        if state is EngineState.STARTING:
            self.progress[model.name] = STARTING
        if state is EngineState.BACKOFF:
            self.progress[model.name] = "the engine failed and will be started again"
        self._count_move(model, state)

    def _count_move(self, model: HostedModel, state: EngineState) -> None:
        """Have the telemetry know how long loading and stopping take, and when an engine is another."""
        supervisor = model.supervisor
        was_parked = model.name in self._parked
        self._parked.discard(model.name)
        if state is EngineState.PARKED:
            self._parked.add(model.name)
        if state is EngineState.READY and was_parked:
            return  # it was woken: nothing was loaded
        if state is EngineState.READY and supervisor is not None and supervisor.load_s is not None:
            self._observe(model, "load", supervisor.load_s)
        if state is EngineState.STOPPING:
            self._stopping_since[model.name] = time.monotonic()
        if state in (EngineState.STOPPED, EngineState.BACKOFF, EngineState.FATAL):
            self._recorder.engine_ended(model.name)
            since = self._stopping_since.pop(model.name, None)
            if since is not None:
                self._observe(model, "stop", time.monotonic() - since)

    def _observe(self, model: HostedModel, kind: str, seconds: float) -> None:
        if self._counts_moves:
            self._recorder.observe_move(model.name, kind, seconds)
