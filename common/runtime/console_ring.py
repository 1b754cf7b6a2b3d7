"""The last lines of a console, numbered, for whoever asks again and again."""

from __future__ import annotations

import threading
from collections import deque

RING_LINES = 500
# Longest line kept, in characters: the ring must not hold megabytes for a page that nobody looks at.
RING_LINE_CHARS = 2000


class ConsoleRing:
    """Keeps the last lines; safe in any thread."""

    def __init__(self, lines: int = RING_LINES, line_chars: int = RING_LINE_CHARS) -> None:
        self._lines: deque[str] = deque(maxlen=lines)
        self._line_chars = line_chars
        self._newest = 0
        self._lock = threading.Lock()

    def add(self, text: str) -> None:
        """Keep a text's lines, each cut at the longest that is kept."""
        lines = [self._cut(line) for line in text.splitlines() or [""]]
        with self._lock:
            self._lines.extend(lines)
            self._newest += len(lines)

    def recent(self, after: int) -> tuple[list[str], int]:
        """The lines that came after the line of this number.

        Args:
            after: What the last call returned as the number; 0 for all that are kept. A number that
                was never given (that of an earlier instance at this address) counts as 0.

        Returns:
            The lines, oldest first, and the number of the newest.
        """
        with self._lock:
            newest = self._newest
            missing = newest - after if 0 <= after <= newest else newest
            return (list(self._lines)[-missing:] if missing else []), newest

    def _cut(self, line: str) -> str:
        left_out = len(line) - self._line_chars
        if left_out <= 0:
            return line
        return f"{line[: self._line_chars]} ... ({left_out} more characters)"
