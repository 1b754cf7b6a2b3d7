"""Where the environment of one vLLM is, and whether its installation was finished."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from apps.vllm.facts import Build
from common.engines.places import engines_folder

MARKER = "installed.json"
"""Written last: an environment without it was cut off half-way and is not used."""

# What the agent's own environment says about Python must not reach another interpreter.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT")


@dataclass(frozen=True)
class EngineEnvironment:
    """The environment of one version and build of vLLM, whether or not it exists yet."""

    folder: Path
    version: Version
    build: Build

    @property
    def title(self) -> str:
        """For people, such as ``vLLM 0.32.0 (CPU build)``."""
        return f"vLLM {self.version}{' (CPU build)' if self.build == 'cpu' else ''}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def program(self) -> Path:
        """The command ``vllm`` in it."""
        return self.folder / "bin" / "vllm"

    @property
    def lock(self) -> Path:
        """The file that whoever installs it holds locked."""
        return self.folder.with_name(f"{self.folder.name}.lock")

    @property
    def log(self) -> Path:
        """What the installers printed, the last time."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def is_finished(self) -> bool:
        """Whether it was installed to the end and is still there."""
        try:
            marker = json.loads((self.folder / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        # Its programs hold the folder's path: one that was moved does not run.
        is_ours = isinstance(marker, dict) and marker.get("folder") == str(self.folder)
        return is_ours and self.python.exists() and self.program.exists()

    def finish(self) -> None:
        """Write the marker: from now on it is used.

        Raises:
            OSError: It cannot be written.
        """
        marker = {
            "version": str(self.version),
            "build": self.build,
            "folder": str(self.folder),
            "python": ".".join(map(str, sys.version_info[:3])),
        }
        temporary = self.folder / f"{MARKER}.part"
        temporary.write_text(json.dumps(marker), encoding="utf-8")
        os.replace(temporary, self.folder / MARKER)


def own_environment(
    version: Version, build: Build, environ: Mapping[str, str]
) -> EngineEnvironment:
    """Name the environment of a version and build, in the user's cache."""
    suffix = "+cpu" if build == "cpu" else ""
    folder = engines_folder(environ).absolute() / f"vllm-{version}{suffix}"
    return EngineEnvironment(folder, version, build)


def without_foreign_python(environ: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment for another interpreter than the agent's."""
    return {name: value for name, value in environ.items() if name not in _FOREIGN}


def foreign_python(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The variables that `without_foreign_python` takes away, as far as they are set."""
    return tuple(name for name in _FOREIGN if name in environ)
