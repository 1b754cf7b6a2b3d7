"""What installs packages: uv where there is one, else pip."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.version import Version

from apps.vllm.environments.indexes import pip_environment, read_pip_settings, uv_environment
from apps.vllm.environments.layout import EngineEnvironment, without_foreign_python

INSTALLER = "CLEARML_DEPLOY_INSTALLER"
"""The variable that, as ``pip``, keeps uv from being used where it is installed."""

Resolution = Literal["highest", "lowest"]
"""Which of the versions that fit is taken."""

_SERVES_OTHERS = Version("22.3")
"""The first pip that installs for an interpreter without a pip."""


@dataclass(frozen=True)
class Tool:
    """uv where there is one, else pip.

    Attributes:
        uv: The program; None for pip.
        environ: The worker's environment without what is another interpreter's.
        pip_settings: Where packages come from, for uv.
    """

    uv: str | None
    environ: Mapping[str, str]
    pip_settings: Mapping[str, str]

    def create(self, folder: Path) -> list[str]:
        """The command that makes an empty environment."""
        if self.uv:
            return [self.uv, "venv", "--no-project", "--python", sys.executable, str(folder)]
        # Without ensurepip, which Linux distributions split off, and which takes seconds.
        without = ["--without-pip"] if _serves_others() else []
        return [sys.executable, "-m", "venv", *without, str(folder)]

    def install(self, environment: EngineEnvironment) -> list[str]:
        """The command that installs what follows it into an environment."""
        if self.uv:
            return [self.uv, "pip", "install", "--python", str(environment.python)]
        if _serves_others():
            return [sys.executable, "-m", "pip", "--python", str(environment.python), "install"]
        return [str(environment.python), "-m", "pip", "install"]

    def resolve(
        self, environment: EngineEnvironment, source: Path, resolution: Resolution
    ) -> list[str]:
        """The command of uv that prints the version which a file of requirements comes to."""
        assert self.uv is not None
        python = str(environment.python)
        return [
            *(self.uv, "pip", "compile", "--no-deps", "--no-header", "--no-annotate"),
            *("--python", python, "--resolution", resolution, str(source)),
        ]

    def variables(self, temporary: Path, *, extra_index: str | None = None) -> dict[str, str]:
        """The whole environment of the commands.

        Args:
            temporary: Where packages are unpacked.
            extra_index: A further index to look at.
        """
        if self.uv:
            env = uv_environment(self.environ, self.pip_settings, extra_index=extra_index)
        else:
            env = pip_environment(self.environ, extra_index=extra_index)
        # What is unpacked on the way lies, and is removed, with the environment.
        return {**env, "TMPDIR": str(temporary)}


def choose_tool(environ: Mapping[str, str]) -> Tool:
    """Choose what installs. Blocks for a second: pip is asked for its settings.

    Args:
        environ: The worker's environment.
    """
    kept = without_foreign_python(environ)
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if os.access(beside, os.X_OK) else shutil.which("uv", path=kept.get("PATH"))
    if environ.get(INSTALLER) == "pip":
        uv = None
    return Tool(uv, kept, read_pip_settings(kept) if uv else {})


def _serves_others() -> bool:
    """Whether this interpreter's pip is there and can install for another interpreter."""
    try:
        return Version(importlib.metadata.version("pip")) >= _SERVES_OTHERS
    except importlib.metadata.PackageNotFoundError:
        return False
