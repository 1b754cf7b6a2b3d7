"""The instance's console: one line an event, engine lines marked with their model, no secrets."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import TextIO

# How the supervisor marks its own lines among the engine's.
SUPERVISOR_MARK = "[engine]"


class Console:
    """Writes lines to standard output, which ClearML takes as the task's console log."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._secrets: tuple[str, ...] = ()
        self.show_engine = True
        self.is_debug = False

    def hide(self, secrets: Iterable[str | None]) -> None:
        """Mask these values wherever they would appear from now on."""
        # Values too short to be secrets would blank out ordinary text.
        self._secrets += tuple(secret for secret in secrets if secret and len(secret) >= 6)

    def line(self, text: str) -> None:
        """Write one event; a text of several lines is written at once."""
        for secret in self._secrets:
            text = text.replace(secret, "******")
        with self._lock:
            # Looked up at each line: the SDK replaces sys.stdout to record it.
            stream = self._stream or sys.stdout
            try:
                stream.write(f"{text}\n")
                stream.flush()
            except (OSError, ValueError):
                # The terminal or the agent's pipe is gone; serving goes on.
                self._stream = None

    def debug(self, text: str) -> None:
        """Write one event that matters in debug mode only."""
        if self.is_debug:
            self.line(text)

    def engine(self, model: str, text: str) -> None:
        """Write one line of an engine's own output, or of its supervisor (marked ``[engine]``)."""
        if self.show_engine or text.startswith(SUPERVISOR_MARK):
            self.line(f"[{model}] {text}")
