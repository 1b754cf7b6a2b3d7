"""The instance's console: one line an event, engine lines marked with their model, no secrets."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Iterable
from typing import TextIO

# How the supervisor marks its own lines among the engine's.
SUPERVISOR_MARK = "[engine]"
# What waits for a reader that has stopped (a paused terminal, a full disk's pipe); a few MB.
_WAITING_LINES = 10_000


class Console:
    """Writes lines to standard output, which ClearML takes as the task's console log.

    A thread does the writing: whoever reads may stop reading, and that must not stop the event loop.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._changed = threading.Condition()
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._is_writing = False
        self._writer: threading.Thread | None = None
        self._secrets: tuple[str, ...] = ()
        self.show_engine = True
        self.is_debug = False

    def hide(self, secrets: Iterable[str | None]) -> None:
        """Mask these values wherever they would appear from now on."""
        # Values too short to be secrets would blank out ordinary text.
        self._secrets += tuple(secret for secret in secrets if secret and len(secret) >= 6)

    def line(self, text: str) -> None:
        """Write one event; a text of several lines is written at once. Never waits for the reader."""
        for secret in self._secrets:
            text = text.replace(secret, "******")
        with self._changed:
            if len(self._waiting) >= _WAITING_LINES:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append(f"{text}\n")
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="console", daemon=True)
                self._writer.start()
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything was written; False when the reader did not take it in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._is_writing, timeout_s
            )

    def _write(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                text = "".join(self._waiting)
                self._waiting.clear()
                dropped, self._dropped = self._dropped, 0
                self._is_writing = True
            if dropped:
                text = f"({dropped} lines were dropped: nobody read them)\n{text}"
            # The terminal or the agent's pipe may be gone; serving goes on.
            with contextlib.suppress(OSError, ValueError):
                # Looked up each time: the SDK replaces sys.stdout to record it.
                stream = self._stream or sys.stdout
                stream.write(text)
                stream.flush()

    def debug(self, text: str) -> None:
        """Write one event that matters in debug mode only."""
        if self.is_debug:
            self.line(text)

    def engine(self, model: str, text: str) -> None:
        """Write one line of an engine's own output, or of its supervisor (marked ``[engine]``)."""
        if self.show_engine or text.startswith(SUPERVISOR_MARK):
            self.line(f"[{model}] {text}")
