"""Runs an instance of the stub app as a process of its own, as an app's task script does.

    python tests/runtime/stub_instance.py APP JSON-PARAMETERS

APP is ``legacy`` (the legacy form), ``plain`` (llama.cpp's form), ``slow`` (the same, with an engine
that loads for some seconds) or ``installing`` (an engine whose installation goes on until it is
cancelled).
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from apps.legacy_model.options import LegacySettings
from common.models.progress import FetchCancelledError
from common.runtime.run import RunRequest, exit_now, run
from tests.runtime.stub_app import StubApp


def install_until_cancelled(report: Callable[[str], None], cancel: threading.Event) -> None:
    report("installing for ever")
    cancel.wait()
    report("the installation was given up")
    raise FetchCancelledError("given up")


def app(kind: str) -> StubApp:
    if kind == "installing":
        return StubApp({}, install=install_until_cancelled)
    if kind == "plain":
        return StubApp({})
    if kind == "slow":
        return StubApp({"m": ("--load-seconds", "4")})
    legacy: Any = LegacySettings
    return replace(StubApp({}), settings=legacy)


def main() -> None:
    kind, parameters = sys.argv[1:]
    exit_now(run(RunRequest(app(kind), json.loads(parameters), name="stub instance")))


if __name__ == "__main__":
    main()
