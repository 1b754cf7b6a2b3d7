"""What an engine offers to those who move it between the tiers, and what that depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from common.memory.offload import Offload, RunningEngine


@dataclass(frozen=True)
class MachineFacts:
    """What the ways to put an engine aside depend on beside the engine; read once per instance.

    Attributes:
        architecture: Of the processor, as ``platform.machine()`` says it: ``x86_64``, ``aarch64``.
        driver: Version of the NVIDIA driver, such as ``570.86.15``; empty where there is none.
        gpus: GPUs, or MIG slices, that the instance may use.
        is_mig: Whether they are slices.
        environ: The worker's environment, which engines inherit.
        checkpoint_problem: Why the driver's checkpoint functions cannot be called; empty: they can,
            or that was not tried.
    """

    architecture: str
    driver: str = ""
    gpus: int = 0
    is_mig: bool = False
    environ: Mapping[str, str] = field(default_factory=dict)
    checkpoint_problem: str = ""


@dataclass(frozen=True)
class EngineOffloads:
    """The ways of one model's engine, each list with the best first.

    Attributes:
        asleep: For the CPU tier: the process stays and its weights are in host RAM.
        emptied: For the disk tier: the process stays without its weights, which are read from the
            files again when it is brought back. Faster than a new process; stopping it frees more.
        notes: Ways that one would expect where models go to on this instance, and that are missing,
            with the reason, for the console.
    """

    asleep: tuple[Offload, ...] = ()
    emptied: tuple[Offload, ...] = ()
    notes: tuple[str, ...] = ()


class CacheHooks(Protocol):
    """Carries what an engine has computed over the end of its process.

    Nothing here fails a move: what goes wrong is told on the console and costs no more than the
    cache. One call at a time.
    """

    async def save(self, engine: RunningEngine) -> None:
        """Write the engine's caches to files: before it is stopped, with no request in flight."""

    async def restore(self, engine: RunningEngine) -> None:
        """Give a new process what the last one saved: after it is ready, before its first request."""

    def discard(self) -> None:
        """Remove the files: when the instance ends, or the model's files change. Blocks briefly."""
