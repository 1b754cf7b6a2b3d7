"""Ways to free a running engine's device memory that keep its process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from common.engines.contract import EngineAddress
from common.errors import DeployError


class OffloadError(DeployError):
    """An engine's memory was not put aside, or not brought back.

    Args:
        message: What happened, in words for the console.
        is_untouched: The engine is as it was, for certain: the next way may be tried on it. Without
            this it counts as spoilt, and is stopped.
    """

    code = "offload"

    def __init__(self, message: str, *, is_untouched: bool = False) -> None:
        super().__init__(message)
        self.is_untouched = is_untouched


@dataclass(frozen=True)
class RunningEngine:
    """An engine that runs: its process, and where it listens."""

    pid: int
    address: EngineAddress


class Offload(Protocol):
    """One way to free a running engine's device memory that keeps its process.

    Both methods may be cancelled at any time; the engine counts as spoilt then.
    """

    @property
    def label(self) -> str:
        """Its name in words, such as ``sleep level 1``."""

    async def put_aside(self, engine: RunningEngine) -> None:
        """Free the memory; on return the engine answers nothing.

        Called after the engine got its last request, and also on one that another way has put aside
        without freeing enough: the two are then undone in reverse order.

        Raises:
            OffloadError: It did not work.
        """

    async def bring_back(self, engine: RunningEngine) -> None:
        """Undo `put_aside`; on return the engine answers, or will in a moment.

        Raises:
            OffloadError: It did not work, such as for want of memory.
        """
