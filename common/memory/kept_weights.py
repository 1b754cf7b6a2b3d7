"""The weights of a stopped engine, kept in host RAM where they can be, with the words for the console."""

from __future__ import annotations

import time
from collections.abc import Callable

from common.memory.held_files import HeldFiles, HoldError
from common.memory.pools import gib


class KeptWeights:
    """Keeps one model's weights.

    Args:
        files: Its files; None: they cannot be kept.
        say: Gets what happens, a line each.
    """

    def __init__(self, files: HeldFiles | None, say: Callable[[str], None]) -> None:
        self._files = files
        self._say = say
        self._has_said_unlocked = False

    @property
    def is_held(self) -> bool:
        """Whether they are in host RAM."""
        return self._files is not None and self._files.is_held

    async def hold(self) -> None:
        """Keep them; does nothing if they are.

        Raises:
            CapacityError: There is not the RAM.
            HoldError: They cannot be kept, or not be read.
        """
        files = self._files
        if files is None:
            raise HoldError("Its weights cannot be kept in host RAM.")
        if files.is_held:
            return
        began = time.monotonic()
        await files.hold()
        took_s = time.monotonic() - began
        self._say(f"weights kept in host RAM: {gib(files.held_bytes)}, read in {took_s:.1f} s")
        if files.why_unlocked and not self._has_said_unlocked:
            self._has_said_unlocked = True
            self._say(files.why_unlocked)

    def release(self) -> None:
        """Let the system have the RAM."""
        if self._files is not None:
            self._files.release()
