"""Which llama.cpp runs on this machine: the native server, else the wheel, else the Python server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from apps.llamacpp.engines.installed import EngineKind, LlamaCppEngine, engine_environment
from apps.llamacpp.engines.native import find_native
from apps.llamacpp.engines.python_server import find_python_server, python_engine, python_flags
from apps.llamacpp.engines.wheel import find_wheel, wheel_engine
from apps.llamacpp.engines.wheel_params import wheel_flags
from apps.llamacpp.flags import BUNDLED_CATALOGUE, Catalogue, EngineFlags, load_catalogue
from apps.llamacpp.options import EngineChoice
from common.errors import EngineMissingError

INSTALL = {
    "llama-server": (
        'put llama-server on PATH, name it in "Llama Server Path" (General/llama_server_path), or '
        "build it with: python -m apps.llamacpp.build_native"
    ),
    "xllamacpp": "pip install xllamacpp",
    "llama_cpp.server": "pip install 'llama-cpp-python[server]'",
}
"""How to get each of them, as a clause."""


def find_engine(
    choice: EngineChoice | None, server_path: str | None, environ: Mapping[str, str]
) -> LlamaCppEngine:
    """Find the engine to use. Blocks for a moment: a native server is asked for its flags.

    Args:
        choice: The option "Engine"; None and ``auto`` take the first of the three that is there.
        server_path: The option "Llama Server Path".
        environ: The worker's environment.

    Raises:
        EngineMissingError: The one that was asked for, or any, is not there; says how to install it.
        EngineConfigurationError: A native server was found and does not run.
    """
    ways: dict[EngineKind, Callable[[], LlamaCppEngine | None]] = {
        "llama-server": lambda: find_native(server_path, environ),
        "xllamacpp": lambda: find_wheel(environ),
        "llama_cpp.server": lambda: find_python_server(environ),
    }
    kinds = [kind for kind in ways if choice in (None, "auto", kind)]
    for kind in kinds:
        if engine := ways[kind]():
            return engine
    if len(kinds) == 1:
        raise EngineMissingError(
            f'"Engine" (General/engine) is {choice}, which is not installed. Install it '
            f"({INSTALL[kinds[0]]}), or leave the option empty."
        )
    how = "; or ".join(INSTALL.values())
    raise EngineMissingError(f"No llama.cpp is installed for {sys.executable}. Install one: {how}.")


def catalogue_engine(path: Path, environ: Mapping[str, str]) -> LlamaCppEngine:
    """An engine known only by a catalogue of its flags: to show what it would be told.

    Raises:
        OSError: The file cannot be read.
        UserError: It is no catalogue.
    """
    return engine_of(load_catalogue(path), environ)


def stand_in(kind: EngineKind, environ: Mapping[str, str]) -> LlamaCppEngine:
    """An engine of this kind as of the bundled catalogue, whether or not it is installed."""
    bundled = load_catalogue(BUNDLED_CATALOGUE)
    return engine_of(Catalogue(kind, bundled.version, bundled.table), environ)


def engine_of(catalogue: Catalogue, environ: Mapping[str, str]) -> LlamaCppEngine:
    """An engine of a catalogue's kind, version and flags."""
    version, table = catalogue.version, catalogue.table
    if catalogue.engine == "xllamacpp":
        return wheel_engine(version, environ, wheel_flags(table))
    if catalogue.engine == "llama_cpp.server":
        return python_engine(Path("python"), version, environ, python_flags(table))
    return LlamaCppEngine(
        kind="llama-server",
        version=version,
        program=("llama-server",),
        flags=EngineFlags(table),
        env=engine_environment(environ),
    )
