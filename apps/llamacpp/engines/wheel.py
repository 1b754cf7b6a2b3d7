"""The xllamacpp wheel: llama.cpp's server inside a Python extension, prebuilt, run as a child."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

from apps.llamacpp.engines.installed import LlamaCppEngine, engine_environment, prepend_path
from apps.llamacpp.engines.wheel_params import wheel_flags
from apps.llamacpp.flags import EngineFlags

_ROOT = Path(__file__).resolve().parents[3]
_CHILD = "apps.llamacpp.engines.wheel_server"


def find_wheel(environ: Mapping[str, str]) -> LlamaCppEngine | None:
    """Find the wheel in this interpreter without loading it."""
    if importlib.util.find_spec("xllamacpp") is None:
        return None
    version = importlib.metadata.version("xllamacpp")
    return wheel_engine(version, environ, wheel_flags())


def wheel_engine(version: str, environ: Mapping[str, str], flags: EngineFlags) -> LlamaCppEngine:
    """The wheel of this version as an engine."""
    # The child imports this program again: from the same place, wherever its working folder is.
    path = prepend_path(_ROOT, environ.get("PYTHONPATH"))
    return LlamaCppEngine(
        kind="xllamacpp",
        version=version,
        program=(sys.executable, "-m", _CHILD),
        flags=flags,
        env=engine_environment(environ, PYTHONPATH=path, PYTHONUNBUFFERED="1"),
        place="the wheel in this Python",
    )
