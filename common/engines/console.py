"""An engine's raw output as lines that a console can show."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection

# Longest line kept, in bytes; the rest of it is dropped and counted. A prompt that an engine is
# asked to log is one line.
MAX_LINE_BYTES = 64 * 1024
# A progress bar that redraws itself with carriage returns is shown once in so many seconds.
REDRAW_INTERVAL_S = 5.0
# Shorter secrets are not masked: they would blot out ordinary text, and nobody is kept out by them.
MIN_SECRET_LENGTH = 4

# Terminal control sequences of ECMA-48: CSI (colours, cursor), OSC (titles, links), and the rest.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# llama.cpp's minutes.seconds.ms.us before the level, and vLLM's date and time after it.
_LLAMA_TIME = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} (?=[A-Z] )")
_VLLM_TIME = re.compile(
    r"^(?P<kept>(?:\([^()]{1,80}\) )?(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)) "
    r"\d\d-\d\d \d\d:\d\d:\d\d (?=\[)"
)


def clean(raw: bytes) -> str:
    """Decode one line and drop escape sequences and control characters."""
    text = _ESCAPES.sub("", raw.decode("utf-8", "replace"))
    return _CONTROLS.sub("", text).rstrip()


def without_time(line: str) -> str:
    """Drop the time that an engine puts before its lines: a console's log has its own."""
    return _VLLM_TIME.sub(r"\g<kept> ", _LLAMA_TIME.sub("", line, count=1), count=1)


def mask(line: str, secrets: Collection[str]) -> str:
    """Replace every secret in `line` by asterisks; those shorter than 4 characters are left."""
    for secret in secrets:
        if len(secret) >= MIN_SECRET_LENGTH and secret in line:
            line = line.replace(secret, "***")
    return line


class LineSplitter:
    """Cuts a stream of bytes into lines of text, whatever the bytes are.

    Lines end at ``\\n`` or ``\\r\\n``. A lone ``\\r`` redraws the line: what it replaces is given
    once in `REDRAW_INTERVAL_S`. A line longer than `MAX_LINE_BYTES` is given at once, cut, and what
    follows up to its end is dropped, so that memory stays bounded. Empty lines are not given.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pending = b""
        self._dropped = 0
        self._is_cut = False
        self._redrawn_at = float("-inf")

    def feed(self, data: bytes) -> list[str]:
        """Add bytes; returns the lines that are complete now."""
        lines: list[str] = []
        *complete, rest = data.split(b"\n")
        for part in complete:
            self._extend(part, lines)
            lines.extend(self.flush())
        self._extend(rest, lines)
        return lines

    def flush(self) -> list[str]:
        """End the current line; returns it unless it is empty."""
        lines: list[str] = []
        if self._is_cut:
            if self._dropped:
                lines.append(f"... {self._dropped} more bytes of this line were dropped")
        else:
            self._give(self._pending.rstrip(b"\r").rpartition(b"\r")[2], lines)
        self._pending, self._dropped, self._is_cut = b"", 0, False
        return lines

    def _extend(self, part: bytes, lines: list[str]) -> None:
        """Add bytes without a newline to the current line."""
        if self._is_cut:
            self._dropped += len(part)
            return
        self._pending += part
        # A carriage return at the very end may be half of a line's end.
        redraws, found, current = self._pending[:-1].rpartition(b"\r")
        if found:
            now = self._clock()
            if now - self._redrawn_at >= REDRAW_INTERVAL_S:
                shown = redraws.rpartition(b"\r")[2][:MAX_LINE_BYTES]
                self._redrawn_at = now if self._give(shown, lines) else self._redrawn_at
            self._pending = current + self._pending[-1:]
        if len(self._pending) > MAX_LINE_BYTES:
            self._give(self._pending[:MAX_LINE_BYTES], lines)
            self._dropped = len(self._pending) - MAX_LINE_BYTES
            self._pending, self._is_cut = b"", True

    @staticmethod
    def _give(raw: bytes, lines: list[str]) -> bool:
        text = clean(raw)
        if text:
            lines.append(text)
        return bool(text)
