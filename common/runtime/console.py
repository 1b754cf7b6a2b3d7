"""The instance's console: one line an event, engine lines marked with their model, no secrets."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TextIO

from common.engines.console import without_time
from common.engines.error_lines import ErrorLines
from common.runtime.console_ring import ConsoleRing
from common.runtime.line_limit import (
    ACCESS_BURST_LINES,
    ACCESS_LINES_PER_S,
    DETAIL_BURST_LINES,
    DETAIL_LINES_PER_S,
    EVENT_BURST_LINES,
    EVENT_LINES_PER_S,
    LineLimit,
)
from common.runtime.redaction import Redactor

# How the supervisor marks its own lines among the engine's.
SUPERVISOR_MARK = "[engine]"
# What waits for a reader that has stopped (a paused terminal, a full disk's pipe); a few MB.
_WAITING_LINES = 10_000
# How often it is looked whether lines that were left out have to be told.
_LEFT_OUT_EVERY_S = 1.0
_KNOWN_EVENTS = 100
_SHOWN_OF_EVENT = 100


class Console:
    """Writes lines to standard output, which ClearML takes as the task's console log.

    A thread does the writing: whoever reads may stop reading, and that must not stop the event loop.

    Args:
        stream: Where to write; None: the standard output of the moment.
        clock: Seconds, for the limit of an engine's lines.

    Attributes:
        show_engine: Whether the engines' own output is shown; their errors always are.
        is_debug: Whether everything is shown, as it comes.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._is_writing = False
        self._writer: threading.Thread | None = None
        self._redactor = Redactor()
        self._ring = ConsoleRing()
        self._engines: dict[str, _Lines] = {}
        self._events: dict[str, _Lines] = {}
        self._requests = _Lines(
            "{} of requests {} left out", LineLimit(ACCESS_BURST_LINES, ACCESS_LINES_PER_S)
        )
        self.show_engine = True
        self.is_debug = False

    def hide(self, secrets: Iterable[str | None]) -> None:
        """Mask these values wherever they would appear from now on."""
        self._redactor.hide(secrets)

    def line(self, text: str) -> None:
        """Write one event; a text of several lines is written at once. Never waits for the reader."""
        text = self._redactor.clean(text)
        with self._changed:
            self._put(text)

    def event(self, text: str) -> None:
        """Write one event that may happen a hundred times at once, as when an engine dies at work.

        Of events in the same words only so many are shown at a time.
        """
        with self._changed:
            lines = self._events.pop(text, None) or _Lines(
                _of_event(text), LineLimit(EVENT_BURST_LINES, EVENT_LINES_PER_S)
            )
            self._events[text] = lines  # the latest one last
            while len(self._events) > _KNOWN_EVENTS:
                self._tell_left_out(self._events.pop(next(iter(self._events))))
            self._put_within(lines.limit, lines, text)

    def recent(self, after: int) -> tuple[list[str], int]:
        """The lines that came after the line of this number, of the last 500.

        Args:
            after: The number that the last call returned; 0 for all that are kept.

        Returns:
            The lines, oldest first, secrets masked and long ones cut, and the newest one's number.
        """
        return self._ring.recent(after)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything was written; False when the reader did not take it in time."""
        with self._changed:
            for lines in self._sources():
                self._tell_left_out(lines)
            return self._changed.wait_for(
                lambda: not self._waiting and not self._is_writing, timeout_s
            )

    def expect_detail(self, model: str) -> None:
        """Let more of a model's engine through: it was asked for detailed logging."""
        with self._changed:
            limit = LineLimit(DETAIL_BURST_LINES, DETAIL_LINES_PER_S)
            self._engines[model] = _Lines(_of_engine(model), limit)

    def debug(self, text: str) -> None:
        """Write one event that matters in debug mode only."""
        if self.is_debug:
            self.line(text)

    def access(self, text: str) -> None:
        """Write the line of one request, of which only so many are shown at a time."""
        with self._changed:
            self._put_within(self._requests.limit, self._requests, text)

    def engine(self, model: str, text: str) -> None:
        """Write one line of an engine's own output, or of its supervisor (marked ``[engine]``).

        What the supervisor says is an event of ours, ``model: ready after 2.1 s``; an engine's line is
        marked ``[model]``. Of these only errors are shown where `show_engine` is off, and only so
        many at a time: how many were left out is said. In debug mode they are all shown, unchanged.
        """
        if text.startswith(SUPERVISOR_MARK):
            shown = f"{model}:{text.removeprefix(SUPERVISOR_MARK)}"
            text = self._redactor.clean(shown)
            with self._changed:
                # In order: what came before it is told before it.
                if model in self._engines:
                    self._tell_left_out(self._engines[model])
                self._put(text)
            return
        with self._changed:
            lines = self._engines.get(model)
            if lines is None:
                lines = self._engines[model] = _Lines(_of_engine(model), LineLimit())
            # Asked of every line: the lines of a traceback are told by its head.
            is_error = lines.errors.is_error(text)
            if self.is_debug:
                self._put(self._redactor.clean(f"[{model}] {text}"))
            elif is_error or self.show_engine:
                limit = lines.error_limit if is_error else lines.limit
                self._put_within(limit, lines, f"[{model}] {without_time(text)}")

    # Below, the caller holds `_changed`.

    def _put_within(self, limit: LineLimit, lines: _Lines, text: str) -> None:
        if limit.admits(self._clock()):
            self._tell_left_out_in_time(lines)
            self._put(self._redactor.clean(text))
        else:
            self._start_writer()  # it tells how many there were, if nothing else comes

    def _put(self, text: str) -> None:
        self._ring.add(text)
        if len(self._waiting) >= _WAITING_LINES:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(f"{text}\n")
        self._start_writer()
        self._changed.notify_all()

    def _start_writer(self) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="console", daemon=True)
            self._writer.start()

    def _sources(self) -> list[_Lines]:
        return [*self._engines.values(), *self._events.values(), self._requests]

    def _tell_left_out_in_time(self, lines: _Lines) -> None:
        now = self._clock()
        if lines.limit.is_over(now) or lines.error_limit.is_over(now):
            self._tell_left_out(lines)

    def _tell_left_out(self, lines: _Lines) -> None:
        if count := lines.take_left_out():
            what = ("1 line", "was") if count == 1 else (f"{count} lines", "were")
            told = self._redactor.clean(lines.told.format(*what))
            self._put(f"{told}, {lines.limit.words}")

    def _next_wait_s(self) -> float | None:
        """How long the writer may sleep: until somebody wakes it, unless something is to be told."""
        is_left_out = any(lines.left_out for lines in self._sources())
        return _LEFT_OUT_EVERY_S if is_left_out else None

    def _write(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                while not self._waiting:
                    self._changed.wait(self._next_wait_s())
                    for lines in self._sources():
                        self._tell_left_out_in_time(lines)
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


def _of_engine(model: str) -> str:
    return f"{_plain(model)}: {{}} of its engine {{}} left out"


def _plain(text: str) -> str:
    """A text as part of a format."""
    return text.replace("{", "{{").replace("}", "}}")


def _of_event(text: str) -> str:
    shown = text if len(text) <= _SHOWN_OF_EVENT else f"{text[:_SHOWN_OF_EVENT]}..."
    return f'{{}} like "{_plain(shown)}" {{}} left out'


class _Lines:
    """What is remembered of the lines of one source; `told` says how those that were left out are told."""

    def __init__(self, told: str, limit: LineLimit) -> None:
        self.told = told
        self.errors = ErrorLines()
        self.limit = limit
        # Errors are not left out for the sake of what is none.
        self.error_limit = LineLimit()

    @property
    def left_out(self) -> int:
        return self.limit.left_out + self.error_limit.left_out

    def take_left_out(self) -> int:
        return self.limit.take_left_out() + self.error_limit.take_left_out()
