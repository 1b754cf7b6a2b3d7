"""How long to leave alone what failed."""

from __future__ import annotations

FIRST_S = 1.0
LONGEST_S = 30.0


class Backoff:
    """Delays between attempts: 1 s, and twice as long after each further failure, up to 30 s."""

    __slots__ = ("_next_s",)

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def next(self) -> float:
        """Return how long to wait after one more failure, in seconds."""
        delay_s, self._next_s = self._next_s, min(LONGEST_S, 2 * self._next_s)
        return delay_s

    def reset(self) -> None:
        """It worked."""
        self._next_s = FIRST_S
