"""What is known of the vLLM that will run and of its machine: all that a command depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from apps.vllm.catalogue import Catalogue

Build = Literal["gpu", "cpu"]


@dataclass(frozen=True)
class EngineFacts:
    """One vLLM on one machine.

    Attributes:
        program: What is executed, before ``serve``.
        catalogue: The flags that it has.
        build: Whether it was built for GPUs or for the CPU.
        gpus: GPUs (or MIG slices) that it may use; None when a command is only shown, for whatever
            machine.
        kv_cache_gib: Host memory in GiB for the KV cache of each model; of a CPU build only.
        env: Variables that it needs beside the worker's.
    """

    program: tuple[str, ...]
    catalogue: Catalogue
    build: Build = "gpu"
    gpus: int | None = None
    kv_cache_gib: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
