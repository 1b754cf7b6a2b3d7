"""Runs an instance that reports more often than a real one, as a process of its own.

    python -m tests.e2e.load_instance JSON

The object has ``parameters``; ``flags`` for the stub engine by model (without them it is llama.cpp);
``every_s`` between two reports; ``speed``, by which the clock of the points is faster than the real
one, so that an hour's outage takes half a minute; ``points``, a file that gets a line for each report
of points when it is made.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import Any

from apps.llamacpp.app import app as llamacpp_app
from common.clearml.events import Point
from common.clearml.instance import InstanceTask
from common.runtime import run as running
from common.runtime.app import App
from common.runtime.reporting import Rates
from tests.runtime.stub_app import StubApp


def hasten(speed: float, points_file: str) -> None:
    """Have the clock of the points run faster, and a server that is away be asked more often."""

    class HastyTask(InstanceTask):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._outbox._retry_s = 0.1
            events = self._events
            began, began_wall = time.monotonic(), time.time()
            events._started = 0.0
            events._clock = lambda: (time.monotonic() - began) * speed
            stamps = [0.0]

            def wall() -> float:
                stamps.append(began_wall + (time.monotonic() - began) * speed)
                return stamps[-1]

            events._wall = wall
            add = events.add

            def add_and_tell(points: Iterable[Point]) -> int:
                listed = list(points)
                iteration = add(listed)
                with open(points_file, "a", encoding="utf-8") as file:
                    file.write(json.dumps([iteration, int(stamps[-1] * 1000), listed]) + "\n")
                return iteration

            events.add = add_and_tell  # type: ignore[method-assign]

    running.InstanceTask = HastyTask  # type: ignore[attr-defined, assignment]


def main() -> None:
    given = json.loads(sys.argv[1])
    app: App = llamacpp_app()
    if "flags" in given:
        app = StubApp({model: tuple(flags) for model, flags in given["flags"].items()})
    if given.get("speed"):
        hasten(given["speed"], given["points"])
    every_s = given["every_s"]
    rates = Rates(every_s, every_s, every_s, every_s, every_s)
    request = running.RunRequest(app, given["parameters"], name="load", rates=rates)
    running.exit_now(running.run(request))


if __name__ == "__main__":
    main()
