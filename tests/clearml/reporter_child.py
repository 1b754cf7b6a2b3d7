"""An instance's own task, opened with the real SDK in a process of its own and told what to report.

    python tests/clearml/reporter_child.py

Reads a JSON list a line, a method and its arguments, and answers each with a line ``SEEN <JSON>``. The
clock of its points is moved by ``clock``; a server that is away is tried again every 0.1 s.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from common.clearml.api import ClearMLApi
from common.clearml.instance import InstanceTask
from common.clearml.model_endpoints import EndpointEntry
from common.clearml.task import open_task


class Child:
    """What the commands do."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.debug: list[str] = []
        task = open_task(project="reports", name="instance", offline="offline" in sys.argv)
        self.task = task
        self.report = InstanceTask(task, ClearMLApi(), self.lines.append, self.debug.append)
        self.report._outbox._retry_s = 0.1
        self.now = 0.0
        events = self.report._events
        events._started = 0.0
        events._clock = lambda: self.now
        self.wall = events._wall()
        events._wall = lambda: self.wall + self.now
        self.calls = 0
        self.report.reset_status()

    def id(self) -> str:
        return self.task.id

    def wall_ms(self) -> int:
        return int(self.wall * 1000)

    def clock(self, seconds: float) -> None:
        self.now = seconds

    def hour(self, reports: int, every_s: float, series: int) -> None:
        """Reports at the usual distance on the shortened clock, several series each."""
        for _ in range(reports):
            self.now += every_s
            points = [("Load", f"m{n}", self.now) for n in range(series)]
            self.report.report_scalars(points)

    def status(self, values: Mapping[str, str]) -> None:
        self.report.set_status(values)

    def properties(self, values: Mapping[str, str]) -> None:
        self.report.set_properties(values)

    def scalars(self, points: list[tuple[str, str, float]]) -> None:
        self.report.report_scalars([tuple(point) for point in points])  # type: ignore[misc]

    def plot(self, title: str, series: str, figure: Mapping[str, Any]) -> None:
        self.report.report_plot(title, series, figure)

    def endpoints(self, entries: list[Mapping[str, Any]]) -> None:
        self.report.set_endpoints([EndpointEntry(**entry) for entry in entries])

    def flush(self, timeout_s: float) -> bool:
        return self.report._outbox.flush(timeout_s)

    def said(self) -> list[list[str]]:
        return [self.lines, self.debug]

    def read_scalars(self) -> Any:
        return self.task.sdk.get_reported_scalars()

    def read_plots(self) -> Any:
        return self.task.sdk.get_reported_plots()

    def finish(self, ending: Any, timeout_s: float) -> bool:
        return self.report.finish(ending, "the test", "", timeout_s)


def main() -> None:
    child = Child()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        answer = getattr(child, name)(*arguments)
        sys.stdout.write(f"SEEN {json.dumps(answer)}\n")
        sys.stdout.flush()
    os._exit(0)  # the SDK's exit hooks wait for a server that may be away


if __name__ == "__main__":
    main()
