"""The event loop of the stub engine and of the load: uvloop where it is installed."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def loop_name() -> str:
    """The name of the loop that `run` uses."""
    return "uvloop" if _uvloop() else "asyncio"


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a program to its end."""
    uvloop = _uvloop()
    result: Result = asyncio.run(main) if uvloop is None else uvloop.run(main)
    return result


def _uvloop() -> Any:
    try:
        return importlib.import_module("uvloop")
    except ImportError:
        return None
