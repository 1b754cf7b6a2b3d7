"""Showing a task on its way: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from common.launch.follow import Followed
from common.launch.logs import TaskLog

_STOPPING = "stopping; requests in flight finish first"
_LOG_EVERY_S = 1.0


def show_progress(states: Iterable[Followed], console: Console | None = None) -> Followed:
    """Show every state with the seconds since the start; returns the last one.

    A terminal shows the present state, with the seconds going by, on one live line; anything else
    gets a line for each change.
    """
    console = console or Console(file=sys.stderr, highlight=False)
    live = _LiveLine()
    last: Followed | None = None
    with console.status(live):
        for state in states:
            _show(console, live, state, last)
            last = state
    if last is None:
        raise ValueError("there was nothing to show")
    return last


@contextmanager
def show_stopping(
    log: TaskLog, console: Console | None = None
) -> Iterator[Callable[[Followed], None]]:
    """Show what an instance says while it stops, and on a terminal for how long it has been at it.

    Yields:
        What to call with every state of its task.
    """
    console = console or Console(file=sys.stderr, highlight=False)
    live = _LiveLine()
    asked_at = 0.0

    def print_new() -> None:
        for line in log.new():
            console.print(line.text, markup=False, soft_wrap=True)

    def show(state: Followed) -> None:
        nonlocal asked_at
        live.text = _STOPPING if state.task_status == "in_progress" else state.task_status
        if time.monotonic() - asked_at >= _LOG_EVERY_S:
            asked_at = time.monotonic()
            print_new()

    with console.status(live):
        yield show
        print_new()


class _LiveLine:
    """What is being done and for how long; drawn anew several times a second."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.text = "queued"

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def __rich__(self) -> Text:
        return Text(f"{self.elapsed_s:3.0f} s  {self.text}")


def _show(console: Console, live: _LiveLine, state: Followed, last: Followed | None) -> None:
    text = live.text = _words(state)
    is_new_stage = last is None or last.stage != state.stage
    if is_new_stage or (
        not console.is_terminal and state.text and state.text != (last and last.text)
    ):
        console.print(f"{live.elapsed_s:5.1f} s  {text}", markup=False, soft_wrap=True)


def _words(state: Followed) -> str:
    if not state.text:
        return state.stage
    return state.text if state.text.startswith(state.stage) else f"{state.stage}: {state.text}"
