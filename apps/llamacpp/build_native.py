"""Build a native llama-server with nothing but a compiler: ``python -m apps.llamacpp.build_native``.

llama-cpp-python's source package carries all of llama.cpp, and brings CMake and Ninja from PyPI; so
installing it with the right switches into a virtual environment of its own gives both the native
server and ``llama_cpp.server``. Four to five minutes on two cores. Further switches are taken from
``CMAKE_ARGS``, for instance ``CMAKE_ARGS=-DGGML_CUDA=on`` where the CUDA toolkit is installed.

Prints the path of llama-server as the last line of its output; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from apps.llamacpp.places import MARKER, engines_folder
from common.engines.cpu import usable_cpus
from common.errors import CapacityError, DeployError, EngineMissingError

VERSION = "0.3.36"
"""The llama-cpp-python that is built; its llama.cpp is what the tests were run with."""

CMAKE_ARGS = (
    # The image library does not build from this source package, and text models need none.
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_BUILD_COMMON=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=ON",
    # Without this the server is installed without its libraries.
    "-DLLAMA_TOOLS_INSTALL=ON",
    # Engines listen for this program alone: no TLS, no web page, which would be downloaded.
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)

# One compiler process of llama.cpp's largest files takes up to this much memory.
_BYTES_PER_JOB = 1536 * 2**20
_NEEDED_DISK_BYTES = 3 * 2**30
_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\] ")
_TAIL_LINES = 30
_REPORT_EVERY_S = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, or find what was built; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m apps.llamacpp.build_native", description="Build a native llama-server."
    )
    parser.add_argument("--prefix", type=Path, help="Where to build it. Default: the user's cache.")
    given = parser.parse_args(arguments)
    prefix = given.prefix or default_prefix(os.environ)
    try:
        server = build(prefix.expanduser().absolute(), os.environ)
    except DeployError as error:
        _say(str(error))
        return 1
    print(server)  # noqa: T201 - the command's result
    return 0


def default_prefix(environ: Mapping[str, str]) -> Path:
    """Where discovery looks for a built server of this version."""
    return engines_folder(environ) / f"llama-cpp-python-{VERSION}"


def build(prefix: Path, environ: Mapping[str, str]) -> Path:
    """Make sure that `prefix` holds a built server. Blocks for minutes.

    Of several processes that want the same, one builds and the others wait. A build that was cut
    off leaves no marker and is begun again.

    Args:
        prefix: The virtual environment to build into.
        environ: Environment of the build.

    Returns:
        The path of llama-server.

    Raises:
        EngineMissingError: No compiler, or the build failed; says where its output is.
        CapacityError: Too little disk.
    """
    from filelock import FileLock

    prefix.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{prefix}.lock"):
        if (server := _finished(prefix)) is not None:
            return server
        _check_means(prefix, environ)
        shutil.rmtree(prefix, ignore_errors=True)
        log = Path(f"{prefix}.log")
        log.unlink(missing_ok=True)
        _say(f"Building llama-cpp-python {VERSION} in {prefix}; its output is in {log}.")
        started = time.monotonic()
        _run([sys.executable, "-m", "venv", str(prefix)], environ, log, "making the environment")
        _run(_pip(prefix), _build_environment(environ), log, "building")
        server = next(prefix.glob("lib*/python*/site-packages/bin/llama-server"), None)
        if server is None:
            raise EngineMissingError(
                f"llama-cpp-python {VERSION} was built, and there is no llama-server in {prefix}. "
                f"Its output is in {log}."
            )
        marker = {"version": VERSION, "server": str(server.relative_to(prefix))}
        temporary = prefix / f"{MARKER}.part"
        temporary.write_text(json.dumps(marker), encoding="utf-8")
        os.replace(temporary, prefix / MARKER)
        _say(f"Built in {time.monotonic() - started:.0f} s.")
        return server


def _finished(prefix: Path) -> Path | None:
    try:
        marker = json.loads((prefix / MARKER).read_text(encoding="utf-8"))
        server = prefix / marker["server"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return server if server.is_file() and marker.get("version") == VERSION else None


def _check_means(prefix: Path, environ: Mapping[str, str]) -> None:
    compilers = (environ.get("CXX"), "c++", "g++", "clang++")
    if not any(shutil.which(name, path=environ.get("PATH")) for name in compilers if name):
        raise EngineMissingError(
            "No C++ compiler was found (c++, g++, clang++, or the variable CXX). Install one, on "
            "Debian and Ubuntu with: apt-get install build-essential. Or use the prebuilt wheel: "
            "pip install xllamacpp."
        )
    free = shutil.disk_usage(prefix.parent).free
    if free < _NEEDED_DISK_BYTES:
        raise CapacityError(
            f"The build needs {_NEEDED_DISK_BYTES / 2**30:.0f} GiB of disk, and {prefix.parent} "
            f"has {free / 2**30:.1f} GiB free. Free some, or choose another place with --prefix."
        )


def _pip(prefix: Path) -> list[str]:
    return [
        str(prefix / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--verbose",  # shows Ninja's steps, which the progress is read from
        "--no-binary=llama-cpp-python",
        # Its cache of built wheels does not know the switches they were built with.
        "--no-cache-dir",
        "--progress-bar=off",
        f"llama-cpp-python[server]=={VERSION}",
    ]


def _build_environment(environ: Mapping[str, str]) -> dict[str, str]:
    jobs = max(1, int(min(usable_cpus(), _free_memory() // _BYTES_PER_JOB)))
    return {
        "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs),
        **environ,
        "CMAKE_ARGS": " ".join([*CMAKE_ARGS, environ.get("CMAKE_ARGS", "")]).strip(),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
    }


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


class _Progress:
    """Shows the steps of the build: in place on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._shown_at = time.monotonic()

    def show(self, line: str) -> None:
        """Show the step that a line of Ninja's output names."""
        match = _STEP.search(line)
        if match is None:
            return
        done, total = int(match[1]), int(match[2])
        is_last = done == total
        text = f"Compiling: {done} of {total} ({100 * done // max(total, 1)}%)"
        if self._is_terminal:
            print(text, end="\n" if is_last else "\r", file=sys.stderr, flush=True)  # noqa: T201
        elif is_last or time.monotonic() - self._shown_at >= _REPORT_EVERY_S:
            self._shown_at = time.monotonic()
            _say(text)


def _run(argv: Sequence[str], environ: Mapping[str, str], log: Path, doing: str) -> None:
    """Run one step with its output in `log`; shows how far it is.

    Raises:
        EngineMissingError: It failed; holds its last lines.
    """
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    progress = _Progress()
    with (
        log.open("a", encoding="utf-8") as kept,
        subprocess.Popen(
            argv,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                kept.write(line)
                tail.append(line.rstrip())
                progress.show(line)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        last = "\n".join(f"  {line}" for line in tail)
        raise EngineMissingError(
            f"{doing.capitalize()} llama-cpp-python {VERSION} failed with exit code "
            f"{process.returncode}. Its output is in {log}; its last lines:\n{last}\n"
            "Or use the prebuilt wheel: pip install xllamacpp.",
            exit_code=process.returncode,
        )


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)  # noqa: T201 - a command for people


if __name__ == "__main__":
    sys.exit(main())
