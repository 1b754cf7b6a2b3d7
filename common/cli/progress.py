"""Showing a task on its way: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from rich.console import Console
from rich.status import Status

from common.launch.follow import Followed


def show_progress(states: Iterable[Followed], console: Console | None = None) -> Followed:
    """Show every state with the seconds since the start; returns the last one.

    A terminal shows the present state on one live line; anything else gets a line a stage.
    """
    console = console or Console(file=sys.stderr, highlight=False)
    started = time.monotonic()
    last: Followed | None = None
    with console.status("queued") as live:
        for state in states:
            _show(console, live, state, last, time.monotonic() - started)
            last = state
    if last is None:
        raise ValueError("there was nothing to show")
    return last


def _show(
    console: Console, live: Status, state: Followed, last: Followed | None, elapsed_s: float
) -> None:
    text = _words(state)
    live.update(text)
    is_new_stage = last is None or last.stage != state.stage
    if is_new_stage or (
        not console.is_terminal and state.text and state.text != (last and last.text)
    ):
        console.print(f"{elapsed_s:5.1f} s  {text}", markup=False)


def _words(state: Followed) -> str:
    if not state.text:
        return state.stage
    return state.text if state.text.startswith(state.stage) else f"{state.stage}: {state.text}"
