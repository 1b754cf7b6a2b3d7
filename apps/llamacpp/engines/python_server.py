"""llama-cpp-python's ``llama_cpp.server``: found in this interpreter, or in one that was built."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

from apps.llamacpp.engines.installed import LlamaCppEngine, engine_environment
from apps.llamacpp.engines.python_server_child import SETTINGS, SWITCHES
from apps.llamacpp.flags import BUNDLED_CATALOGUE, EngineFlags, load_catalogue
from apps.llamacpp.places import built_engines
from common.options.cli_field import FlagTable

_CHILD = Path(__file__).with_name("python_server_child.py")
_MODULES = ("llama_cpp", "uvicorn", "fastapi", "sse_starlette")

_SAMPLING = "llama_cpp.server takes sampling values from each request, it has no defaults for them"
_SERIAL = "llama_cpp.server answers one request after the other"
_REASONS = {
    **dict.fromkeys(
        (
            "--temp",
            "--top-k",
            "--top-p",
            "--min-p",
            "--typical",
            "--repeat-penalty",
            "--repeat-last-n",
            "--xtc-probability",
            "--xtc-threshold",
        ),
        _SAMPLING,
    ),
    "--parallel": _SERIAL,
    "--cont-batching": _SERIAL,
}
_NOTICE = (
    "WARNING: llama_cpp.server answers one request after the other; install xllamacpp or a native "
    "llama-server to serve several at a time."
)


def python_flags(table: FlagTable | None = None) -> EngineFlags:
    """The flags that llama_cpp.server can do, of those in the bundled catalogue (or in `table`)."""
    supported = {*SETTINGS, *SWITCHES}
    reason = "llama_cpp.server cannot do {flag}"
    table = table or load_catalogue(BUNDLED_CATALOGUE).table
    return EngineFlags(table, supported, reasons=_REASONS, reason=reason)


def find_python_server(environ: Mapping[str, str]) -> LlamaCppEngine | None:
    """Find llama_cpp.server without loading it: in this interpreter, then in a built one."""
    if all(importlib.util.find_spec(name) for name in _MODULES):
        version = importlib.metadata.version("llama-cpp-python")
        return python_engine(Path(sys.executable), version, environ, python_flags())
    for folder in built_engines(environ):
        version = folder.name.removeprefix("llama-cpp-python-")
        return python_engine(folder / "bin" / "python", version, environ, python_flags())
    return None


def python_engine(
    interpreter: Path, version: str, environ: Mapping[str, str], flags: EngineFlags
) -> LlamaCppEngine:
    """llama_cpp.server of this interpreter as an engine."""
    return LlamaCppEngine(
        kind="llama_cpp.server",
        version=version,
        # Isolated and by path: the other interpreter must see neither this program's packages
        # nor this folder's modules. -u, since isolated ones ignore PYTHONUNBUFFERED.
        program=(str(interpreter), "-I", "-u", str(_CHILD)),
        flags=flags,
        env=engine_environment(environ),
        place=str(interpreter),
        notice=_NOTICE,
        metrics_path=None,
    )
