"""A task's console as the server has it: its end, all of it, or what comes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from common.clearml.api import ClearMLApi
from common.launch.follow import Followed, read_task

_BATCH = 500
_POLL_S = 1.0
# Lines of one task come from the SDK and from the agent, each in batches: some arrive after younger ones.
_LATE_MS = 60_000
# After a task's end its agent still sends what it has.
_LAST_LINES_S = 6.0


@dataclass(frozen=True)
class LogLine:
    """One line of a console.

    Attributes:
        timestamp_ms: When it was written, in ms since the epoch.
        text: The line.
        worker: Who sent it.
    """

    timestamp_ms: int
    text: str
    worker: str = ""

    def record(self) -> dict[str, str]:
        """The line for a program."""
        when = datetime.fromtimestamp(self.timestamp_ms / 1000, timezone.utc)
        return {
            "time": when.isoformat(timespec="milliseconds"),
            "worker": self.worker,
            "text": self.text,
        }


class TaskLog:
    """Reads a task's console; every line is given once."""

    def __init__(self, api: ClearMLApi, task_id: str) -> None:
        self._api = api
        self._task_id = task_id
        self._given: Counter[LogLine] = Counter()
        self._newest_ms = 0
        self._oldest_ms = 0

    def tail(self, lines: int) -> list[LogLine]:
        """The last lines, at most so many; `new` gives none that is older.

        Raises:
            ControlPlaneError: There is no such task, or the server cannot be reached.
        """
        found: list[LogLine] = []
        before: int | None = None
        while before is None or len(found) < lines:
            events = self._events(navigate_earlier=True, order="desc", from_timestamp=before)
            older = [event for event in events if before is None or _when(event) < before]
            if not older:
                break
            # An event may hold several lines.
            found = [line for event in reversed(older) for line in _lines(event)] + found
            self._oldest_ms = before = _when(older[-1])
        self._take(found)
        return found[-lines:] if lines else []

    def new(self) -> list[LogLine]:
        """The lines that came since the last time, all of them at first.

        Raises:
            ControlPlaneError: There is no such task, or the server cannot be reached.
        """
        found: list[LogLine] = []
        since = max(self._newest_ms - _LATE_MS, self._oldest_ms)
        while True:
            events = self._events(navigate_earlier=False, order="asc", from_timestamp=since or None)
            found += [line for event in events for line in _lines(event)]
            last = max(map(_when, events), default=since)
            if len(events) < _BATCH or last <= since:
                break
            since = last
        return self._take(found)

    def _take(self, lines: list[LogLine]) -> list[LogLine]:
        """Those that were not given yet; equal lines of one moment are told apart by their number."""
        seen: Counter[LogLine] = Counter()
        fresh = []
        for line in lines:
            seen[line] += 1
            if seen[line] > self._given[line]:
                fresh.append(line)
        self._given |= seen
        self._newest_ms = max([self._newest_ms, *(line.timestamp_ms for line in lines)])
        forgotten = self._newest_ms - 2 * _LATE_MS
        self._given = Counter(
            {line: n for line, n in self._given.items() if line.timestamp_ms >= forgotten}
        )
        return fresh

    def _events(self, **how: Any) -> list[dict[str, Any]]:
        asked = {name: value for name, value in how.items() if value is not None}
        answer = self._api.call(
            "events", "get_task_log", task=self._task_id, batch_size=_BATCH, **asked
        )
        return list(answer.get("events") or [])


def follow_log(api: ClearMLApi, log: TaskLog, task_id: str) -> Iterator[LogLine | Followed]:
    """Yield the lines as they come; ends, with the task's last state, when the task has ended.

    Raises:
        ControlPlaneError: There is no such task, or the server cannot be reached.
    """
    ended_at: float | None = None
    while True:
        # Asked before the lines: what was written until then is among them.
        state = read_task(api, task_id)
        lines = log.new()
        yield from lines
        if state.stage != "ended":
            ended_at = None
        elif ended_at is None or lines:
            ended_at = ended_at or time.monotonic()
        if ended_at is not None and time.monotonic() - ended_at >= _LAST_LINES_S and not lines:
            yield state
            return
        time.sleep(_POLL_S)


def _when(event: dict[str, Any]) -> int:
    return int(event.get("timestamp") or 0)


def _lines(event: dict[str, Any]) -> list[LogLine]:
    # A progress bar writes over its line: the last of it counts, as on a terminal.
    texts = str(event.get("msg") or "").rstrip("\n").split("\n")
    worker = str(event.get("worker") or "")
    return [LogLine(_when(event), text.rstrip("\r").split("\r")[-1], worker) for text in texts]
