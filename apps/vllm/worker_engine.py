"""The vLLM of the worker's own environment, image or choice."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from apps.vllm.catalogue import OLDEST
from apps.vllm.environments.layout import without_foreign_python
from apps.vllm.read_flags import InstalledVllm, installed_vllm
from common.errors import EngineMissingError

VARIABLE = "CLEARML_DEPLOY_VLLM"
"""Names an environment with a vLLM, or its interpreter."""

_INSTALL = (
    "install one into the worker's image or environment (pip install vllm), name an environment that "
    f'has one in the variable {VARIABLE}, or set "vLLM Version" (General/vllm_version), which is '
    "then installed by the instance"
)


@dataclass(frozen=True)
class Place:
    """Where a vLLM may be: an interpreter, and the program that runs by it."""

    python: Path
    program: Path

    @property
    def exists(self) -> bool:
        """Whether both are there; the package alone may be something else's dependency."""
        return os.access(self.python, os.X_OK) and os.access(self.program, os.X_OK)


def worker_engine(environ: Mapping[str, str]) -> tuple[Place, InstalledVllm]:
    """The first vLLM of the worker's environment.

    Raises:
        EngineMissingError: There is none, or it is too old.
    """
    for place in _places(environ):
        found = installed_vllm(place.python, without_foreign_python(environ))
        if found is None:
            continue
        if Version(found.version) < OLDEST:
            raise EngineMissingError(
                f"vLLM {found.version} ({place.program}) is too old: this app runs vLLM {OLDEST} "
                'and later. Install a newer one, or set "vLLM Version" (General/vllm_version).'
            )
        return place, found
    raise EngineMissingError(f"No vLLM is installed for {sys.executable}: {_INSTALL}.")


def _places(environ: Mapping[str, str]) -> list[Place]:
    """Where a vLLM is, the nearest first."""
    own = Path(sys.executable)
    folders = (Path(sys.prefix) / "bin", Path(sysconfig.get_path("scripts")))
    places = [Place(own, folder / "vllm") for folder in folders]
    if given := environ.get(VARIABLE):
        path = Path(given).expanduser()
        python = path / "bin" / "python" if path.is_dir() else path
        named = Place(python, python.with_name("vllm"))
        if not named.exists:
            raise EngineMissingError(
                f"{VARIABLE} is {given!r}, which is neither an environment with a vLLM nor the "
                "interpreter of one."
            )
        places.append(named)
    on_path = shutil.which("vllm", path=environ.get("PATH"))
    if on_path is not None and (runs := _shebang(Path(on_path))) is not None:
        # In vLLM's own images the program and its interpreter are in two folders.
        places.append(Place(runs, Path(on_path)))
    return [place for place in dict.fromkeys(places) if place.exists]


def _shebang(program: Path) -> Path | None:
    """The interpreter that a script names in its first line, beside which the script's program is."""
    try:
        with program.open("rb") as file:
            lines = file.read(4096).decode("utf-8", "replace").splitlines()[:2]
    except OSError:
        return None
    if not lines or not lines[0].startswith("#!"):
        return None
    named = lines[0][2:].split()
    # Installers write a shell line where the path is too long for the kernel.
    if named and Path(named[0]).name == "sh" and len(lines) > 1 and lines[1].startswith("'''exec'"):
        named = [part.strip("\"'") for part in lines[1].split()[1:2]]
    if named and Path(named[0]).name == "env":
        return program.resolve().with_name("python")
    return Path(named[0]) if named else None
