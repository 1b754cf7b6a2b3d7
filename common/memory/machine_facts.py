"""Reads what the ways to put an engine aside depend on: once per instance, before the first engine."""

from __future__ import annotations

import asyncio
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from common.memory.cuda_checkpoint import LIBRARY, checkpoint_obstacle, probe_problem
from common.memory.engine_ways import MachineFacts

_VERSION = re.compile(r"NVRM version:.*?\s(\d+(?:\.\d+)+)\s")


async def read_machine_facts(
    environ: Mapping[str, str], gpus: Sequence[str], *, library: str = LIBRARY
) -> MachineFacts:
    """Read the facts; a machine without GPU takes no time.

    Where the driver is new enough, a short process tries its checkpoint functions (up to seconds on
    a machine with many GPUs). This process never loads the driver.

    Args:
        environ: The worker's environment.
        gpus: UUIDs of the GPUs, or MIG slices, that the instance may use.
        library: Name or path of the driver's library.
    """
    facts = MachineFacts(
        architecture=platform.machine(),
        driver=await asyncio.to_thread(read_driver_version) if gpus else "",
        gpus=len(gpus),
        is_mig=any(uuid.startswith("MIG") for uuid in gpus),
        environ=dict(environ),
    )
    if not gpus or checkpoint_obstacle(facts, environ) is not None:
        return facts
    return replace(facts, checkpoint_problem=await probe_problem(library))


def read_driver_version(told: Path = Path("/proc/driver/nvidia/version")) -> str:
    """The version of the NVIDIA driver, as the kernel tells it, or else NVML; empty where neither does.

    Args:
        told: The kernel's file.
    """
    try:
        found = _VERSION.search(told.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    return found[1] if found else _ask_nvml()


def _ask_nvml() -> str:
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ""
    try:
        version = nvml.nvmlSystemGetDriverVersion()
    except nvml.NVMLError:
        return ""
    finally:
        nvml.nvmlShutdown()
    # Older bindings return bytes.
    return version.decode() if isinstance(version, bytes) else str(version)
