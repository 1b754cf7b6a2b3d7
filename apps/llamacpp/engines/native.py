"""A native llama-server: where it is looked for, and what it needs to run."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

from apps.llamacpp.engines.installed import LlamaCppEngine, engine_environment, prepend_path
from apps.llamacpp.flags import EngineFlags, read_flag_table, run_briefly
from apps.llamacpp.places import built_engines, cache_folder
from common.errors import EngineMissingError

PROGRAM = "llama-server"
VARIABLE = "CLEARML_DEPLOY_LLAMA_SERVER"
"""Names the binary, for a worker whose tasks should all use it."""

_VERSION = re.compile(r"^version: (?P<version>.+)$", re.MULTILINE)
_BUILD = re.compile(r"(?P<number>\d+) \([0-9a-f]+\)$")
# What llama-server takes from the environment instead of its arguments. An engine is started from
# the settings alone, so a worker's leftovers are taken away from it.
_ITS_VARIABLES = ("LLAMA_ARG_", "LLAMA_API_KEY", "LLAMA_LOG_")


def find_native(given: str | None, environ: Mapping[str, str]) -> LlamaCppEngine | None:
    """Find a native llama-server and ask it for its version and flags. Blocks for a moment.

    Args:
        given: The option "Llama Server Path"; where it or the variable is set, nothing else counts.
        environ: The worker's environment.

    Returns:
        None when there is none.

    Raises:
        EngineMissingError: The path that was given is no program.
        EngineConfigurationError: It does not run, or is no llama-server.
    """
    for source, path in (
        ('"Llama Server Path" (General/llama_server_path)', given),
        (f"the environment variable {VARIABLE}", environ.get(VARIABLE)),
    ):
        if path:
            binary = Path(path).expanduser()
            if binary.is_dir():
                binary = binary / PROGRAM
            if not _is_program(binary):
                raise EngineMissingError(
                    f"{source} is {path!r}, and there is no program there that this user may run. "
                    "Give the path of llama-server on the worker, or leave it empty."
                )
            return describe_native(binary, environ)
    found = next((path for path in _places(environ) if _is_program(path)), None)
    return describe_native(found, environ) if found else None


def describe_native(binary: Path, environ: Mapping[str, str]) -> LlamaCppEngine:
    """Ask a llama-server for its version and flags.

    Raises:
        EngineConfigurationError: It does not run, or is no llama-server.
    """
    needed = _library_path(binary, environ)
    asking = {**_without_its_variables(environ), **needed}
    table = read_flag_table(binary, asking, cache_folder(environ) / "flags")
    version = _version(run_briefly([str(binary), "--version"], asking))
    taken = sorted(name for name in environ if name.startswith(_ITS_VARIABLES))
    # Setting them empty is no way: an empty number is refused, an empty key is a key.
    unset = [part for name in taken for part in ("-u", name)]
    program = ("env", *unset, str(binary)) if taken else (str(binary),)
    notice = f"Taken from the engine's environment: {', '.join(taken)}." if taken else ""
    return LlamaCppEngine(
        kind="llama-server",
        version=version,
        program=program,
        flags=EngineFlags(table),
        env=engine_environment(environ, **needed),
        place=str(binary),
        notice=notice,
    )


def _places(environ: Mapping[str, str]) -> Iterator[Path]:
    """Where it may be, the user's own choice first."""
    if found := shutil.which(PROGRAM, path=environ.get("PATH")):
        yield Path(found)
    # llama-cpp-python installs it beside its modules; a virtual environment need not be on PATH.
    yield Path(sysconfig.get_path("platlib")) / "bin" / PROGRAM
    yield Path(sys.prefix) / "bin" / PROGRAM
    yield from built_servers(environ)


def built_servers(environ: Mapping[str, str]) -> list[Path]:
    """Binaries that ``python -m apps.llamacpp.build_native`` built, the newest first."""
    pattern = f"lib*/python*/site-packages/bin/{PROGRAM}"
    return [path for folder in built_engines(environ) for path in folder.glob(pattern)]


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _library_path(binary: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """llama-cpp-python's build names no library folder in its binaries; its libraries lie beside."""
    for folder in (binary.resolve().parent.parent / "lib", binary.resolve().parent):
        if any(folder.glob("libllama.*")) or any(folder.glob("libggml.*")):
            name = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
            return {name: prepend_path(folder, environ.get(name))}
    return {}


def _without_its_variables(environ: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in environ.items() if not k.startswith(_ITS_VARIABLES)}


def _version(text: str) -> str:
    match = _VERSION.search(text)
    version = match["version"].strip() if match else ""
    build = _BUILD.match(version)
    return f"b{build['number']}" if build else version
