"""The machine that figures belong to."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

from common.engines.cpu import usable_cpus

ROOT = Path(__file__).resolve().parents[1]
# Of all processors; a machine at rest stays below a tenth.
_BUSY_SHARE = 0.25
_PACKAGES = ("aiohttp", "clearml", "clearml-agent", "xllamacpp")


def describe_machine() -> dict[str, str]:
    """Processor, memory, software and how busy the machine is now, for people to read."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return {
        "cpus": f"{os.cpu_count()} ({usable_cpus():g} usable), {_processor()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "commit": _commit(),
        "load average at start": load,
    }


def busy_warning(load_average: float, cpus: int) -> str | None:
    """What to tell the person before anything is measured; None on a quiet machine (pure)."""
    if load_average < _BUSY_SHARE * cpus:
        return None
    return (
        f"WARNING: the machine is busy (load average {load_average:.2f} on {cpus} processors): "
        "rates and times will vary by more than what is measured. Run again when it is quiet."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
