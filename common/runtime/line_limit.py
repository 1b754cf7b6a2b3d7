"""How many lines of an engine reach the console: a burst, then a steady rate, the rest counted."""

from __future__ import annotations

# A start with all its warnings, or the tracebacks of one failure in several processes, is whole.
BURST_LINES = 500
LINES_PER_S = 5.0
# With detailed logging: llama-server says five thousand lines while it loads a model of 30 layers.
DETAIL_BURST_LINES = 10_000
DETAIL_LINES_PER_S = 50.0
# One for each request in debug mode: the console shows what comes in, it does not count it.
ACCESS_BURST_LINES = 1_000
ACCESS_LINES_PER_S = 20.0
# Of events in the same words, such as requests that failed because their engine did.
EVENT_BURST_LINES = 3
EVENT_LINES_PER_S = 0.1
# Once the burst is used up, nothing more comes for so long, and then what has become free at once:
# lines in a row can be read, single ones from here and there cannot.
PAUSE_S = 10.0


class LineLimit:
    """A token bucket for lines; a decision without a clock of its own.

    Args:
        burst: Lines that may come at once.
        per_s: Lines a second that may come for ever.
        pause_s: How long nothing comes once the burst is used up.
    """

    def __init__(
        self, burst: int = BURST_LINES, per_s: float = LINES_PER_S, pause_s: float = PAUSE_S
    ) -> None:
        self._burst = burst
        self._per_s = per_s
        self._pause_s = pause_s
        self._free = float(burst)
        self._filled_at: float | None = None
        self._paused_until = float("-inf")
        self.left_out = 0

    @property
    def words(self) -> str:
        """The rate, for whoever misses a line."""
        return f"more than {self._per_s:g} a second"

    def admits(self, now: float) -> bool:
        """Whether a line at `now` (seconds, of one clock) is shown; one that is not is counted."""
        since = now if self._filled_at is None else self._filled_at
        self._free = min(self._burst, self._free + (now - since) * self._per_s)
        self._filled_at = now
        if now < self._paused_until:
            self.left_out += 1
            return False
        if self._free < 1:
            self._paused_until = now + self._pause_s
            self.left_out += 1
            return False
        self._free -= 1
        return True

    def is_over(self, now: float) -> bool:
        """Whether lines were left out and it is time to say how many."""
        return self.left_out > 0 and now >= self._paused_until

    def take_left_out(self) -> int:
        """How many lines were left out since the last time this was asked."""
        count, self.left_out = self.left_out, 0
        return count
