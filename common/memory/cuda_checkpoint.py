"""The CUDA driver's checkpoint as a way to put an engine aside: for engines that cannot sleep.

The driver copies what a process has on the GPUs to host memory and lets go of the GPUs, its context
included; the process stays, and its next CUDA call waits until it was brought back. Nothing is needed
of the engine. The calls are made by a short-lived process (`common.memory.checkpoint_process`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.memory.checkpoint_process import Outcome
from common.memory.engine_ways import MachineFacts
from common.memory.offload import OffloadError, RunningEngine

OLDEST_DRIVER = 570
"""The first driver with these functions: https://github.com/NVIDIA/cuda-checkpoint#570-features."""
MANAGED_MEMORY = "GGML_CUDA_ENABLE_UNIFIED_MEMORY"
"""Has llama.cpp allocate managed memory, which the driver cannot checkpoint; its value does not count."""
LIBRARY = "libcuda.so.1"

_HELPER = Path(__file__).with_name("checkpoint_process.py")
_X86_64 = ("x86_64", "amd64")
# What the dynamic loader, the interpreter and the driver may need.
_KEPT = re.compile(r"PATH|LD_LIBRARY_PATH|LANG|LC_ALL|CUDA_.*|NVIDIA_.*")
_SHOWN_CHARS = 300
_END_S = 1.0


@dataclass(frozen=True)
class CheckpointLimits:
    """How long the steps may take, in seconds.

    The driver copies several GiB/s; `step_s` is for what the largest GPUs hold over a slow bus.
    """

    lock_s: float = 10.0
    step_s: float = 180.0


def checkpoint_obstacle(
    machine: MachineFacts, environ: Mapping[str, str], *, processes: int = 1
) -> str | None:
    """Why the driver cannot checkpoint an engine, in words; None: it can.

    Args:
        machine: The worker.
        environ: The engine's environment: the worker's and what its command adds.
        processes: How many the engine is.
    """
    version = re.match(r"\d+", machine.driver)
    if version is None:
        return "the version of the NVIDIA driver is not known"
    if int(version[0]) < OLDEST_DRIVER:
        return f"the NVIDIA driver {machine.driver} cannot do it; {OLDEST_DRIVER} and later can"
    if machine.architecture.lower() not in _X86_64:
        return f"it is for x86-64, and this machine is {machine.architecture}"
    if machine.is_mig:
        return "it does not work on MIG slices"
    if MANAGED_MEMORY in environ:
        return f"it does not work with unified memory ({MANAGED_MEMORY})"
    if processes != 1:
        return f"it is for one process, and this engine is {processes}"
    return machine.checkpoint_problem or None


@dataclass(frozen=True)
class CudaCheckpoint:
    """Implements `Offload` for any engine of one process that uses CUDA.

    Attributes:
        library: Name or path of the driver's library.
        limits: How long the steps may take.
    """

    library: str = LIBRARY
    limits: CheckpointLimits = CheckpointLimits()

    @property
    def label(self) -> str:
        """``driver checkpoint``."""
        return "driver checkpoint"

    async def put_aside(self, engine: RunningEngine) -> None:
        """Have the driver take the engine's memory to the host.

        Raises:
            OffloadError: It failed; untouched where the driver says that the engine runs as before.
        """
        if not await asyncio.to_thread(_uses_cuda, engine.pid):
            raise OffloadError("the engine does not use CUDA", is_untouched=True)
        await self._do("aside", engine.pid)

    async def bring_back(self, engine: RunningEngine) -> None:
        """Have the driver give the engine its memory back.

        Raises:
            OffloadError: It failed, for want of memory for instance.
        """
        await self._do("back", engine.pid)

    async def _do(self, action: Literal["aside", "back"], pid: int) -> None:
        limit_s = self.limits.lock_s + self.limits.step_s
        arguments = ("--pid", str(pid), "--lock-ms", str(round(self.limits.lock_s * 1000)))
        outcome = await run_helper(action, *arguments, library=self.library, limit_s=limit_s)
        if outcome.outcome != "done":
            words = {"aside": "put aside", "back": "brought back"}[action]
            raise OffloadError(
                f"the CUDA driver could not have it {words}: {outcome.step}: {outcome.error}",
                is_untouched=outcome.outcome in ("untouched", "missing"),
            )


async def probe_problem(library: str = LIBRARY, limit_s: float = 30.0) -> str:
    """Why the driver's functions cannot be called on this machine; empty when they can.

    Args:
        library: Name or path of the driver's library.
        limit_s: How long the driver may take to start, in seconds.
    """
    outcome = await run_helper("probe", library=library, limit_s=limit_s)
    if outcome.outcome == "done":
        return ""
    return f"the CUDA driver cannot be used for it: {outcome.error}"


async def run_helper(
    action: Literal["aside", "back", "probe"],
    *arguments: str,
    library: str = LIBRARY,
    limit_s: float,
) -> Outcome:
    """Run the process that calls the driver; killed when it takes too long or this is cancelled.

    Args:
        action: What it is to do.
        arguments: Further arguments.
        library: Name or path of the driver's library.
        limit_s: How long it may take, in seconds.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(_HELPER), action, "--library", library, *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)},
    )
    talking = asyncio.ensure_future(process.communicate())
    try:
        done, _ = await asyncio.wait({talking}, timeout=limit_s)
        if not done:
            return Outcome("spoilt", action, f"the driver did not answer within {limit_s:g} s")
        output, errors = talking.result()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            # A call that hangs in the kernel ends when it may; nobody waits for that.
            await asyncio.wait({talking}, timeout=_END_S)
        talking.cancel()
    return _read(action, process.returncode, output, errors)


def _read(action: str, code: int | None, output: bytes, errors: bytes) -> Outcome:
    try:
        return Outcome(**json.loads(output))
    except (ValueError, TypeError):
        # The driver took the process with it.
        said = " ".join((errors or output).decode(errors="replace").split())[-_SHOWN_CHARS:]
        ended = f"its process ended with {code}"
        return Outcome("spoilt", action, f"{ended}: {said}" if said else ended)


def _uses_cuda(pid: int) -> bool:
    try:
        mapped = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # gone, or hidden from us: the driver tells
    return "/libcuda.so" in mapped
