"""What the machine offers a vLLM: its GPUs, or memory for the cache of a CPU build."""

from __future__ import annotations

import glob
from collections.abc import Mapping

from common.models.memory import available_memory

CPU_CACHE = "VLLM_CPU_KVCACHE_SPACE"
"""The variable in which a worker may say how much memory, in GiB, each model's cache gets."""

# The rest is for the weights, which are read later, and for the engine itself.
_CACHE_SHARE = 0.4
# The engine fills its cache with zeros at its start: more would only make that slow.
_MOST_GIB = 32

# Devices of other makers, which NVML does not see: AMD, Gaudi, Neuron, Ascend, TPU.
_OTHER_DEVICES = (
    "/dev/kfd",
    "/dev/accel*",
    "/dev/hl[0-9]*",
    "/dev/neuron*",
    "/dev/davinci[0-9]*",
    "/dev/vfio/[0-9]*",
)


def visible_gpu_count(environ: Mapping[str, str]) -> int | None:
    """Count the GPUs, or MIG slices, that an engine may use. Blocks for milliseconds.

    Returns:
        None where there are devices that cannot be counted, of another maker than NVIDIA.
    """
    count = len(available_memory(environ).gpus)
    if count == 0 and any(glob.glob(pattern) for pattern in _OTHER_DEVICES):
        return None
    return count


def cpu_cache_gib(environ: Mapping[str, str], models: int) -> float | None:
    """Choose the memory for the KV cache of each model of a CPU build, in whole GiB.

    Args:
        environ: The worker's environment; what it says counts.
        models: How many models share the machine.

    Returns:
        None where the worker's environment says it.
    """
    if environ.get(CPU_CACHE):
        return None
    free_gib = available_memory(environ).host_bytes / 2**30
    return float(max(1, min(int(free_gib * _CACHE_SHARE / models), _MOST_GIB)))
