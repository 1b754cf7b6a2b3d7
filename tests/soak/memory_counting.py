"""Parts of the instance under test that count, or keep what is said."""

from __future__ import annotations

import collections
import io
import time
from typing import Any, TextIO

from common.memory.contract import Tier
from common.memory.engine_mover import EngineMover
from common.runtime.console import Console
from common.runtime.memory_view import move_kind
from tests.soak.instance import NotingRecorder


class CountedMover(EngineMover):
    """Counts its moves, beside the scheduler and the telemetry.

    Args:
        counts: Gets them, by model and kind.
        arguments: Of `EngineMover`.
    """

    def __init__(self, counts: collections.Counter[str], *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._counts = counts

    async def move(self, to: Tier, *, ends_process: bool = False) -> Tier:
        source = self.tier
        try:
            return await super().move(to, ends_process=ends_process)
        finally:
            if self.tier is not source:
                self._counts[f"{self._supervisor.spec.name} {move_kind(source, self.tier)}"] += 1


class SoakConsole(Console):
    """Keeps what is said, and tells the recorder of every request's end."""

    def __init__(self, recorder: NotingRecorder, log: TextIO | None) -> None:
        super().__init__(io.StringIO())
        self._log = log
        self.lines: collections.deque[str] = collections.deque(maxlen=400)
        self.is_debug = True
        self._recorder = recorder
        self._began = time.monotonic()

    def _keep(self, text: str) -> None:
        self.lines.append(self._write(text))

    def _write(self, text: str) -> str:
        line = f"{time.monotonic() - self._began:7.2f} {text}"
        if self._log is not None:
            self._log.write(line + "\n")
        return line

    def line(self, text: str) -> None:
        self._keep(text)

    def event(self, text: str) -> None:
        self._keep(text)

    def access(self, text: str) -> None:
        self._write(text)
        self._recorder.access(text)

    def engine(self, model: str, text: str) -> None:
        self._keep(f"{model}: {text}")
