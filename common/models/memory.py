"""The memory there is, on the host and on the GPUs, and whether a model fits into it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import CapacityError
from common.models.footprint import (
    CONTEXT_STEP,
    CacheRequest,
    ModelShape,
    estimate_memory,
    kv_bytes_by_layer,
    with_context,
)
from common.models.progress import render_gib

# A context per GPU costs this before any tensor (CUDA kernels, cuBLAS workspaces).
_GPU_OVERHEAD_BYTES = 400 * 2**20
# The engine's program, its buffers and its tokenizer.
_HOST_OVERHEAD_BYTES = 150 * 2**20


@dataclass(frozen=True)
class GpuMemory:
    """One GPU, or one MIG slice, that the engine may use.

    Attributes:
        name: As the driver calls it.
        uuid: NVML's name for it.
        free_bytes: Memory that can be had.
        total_bytes: Memory that it has.
        surplus_bytes: Host RAM that stands for memory that it lacks, where a budget exceeds it.
    """

    name: str
    uuid: str
    free_bytes: int
    total_bytes: int
    surplus_bytes: int = 0


@dataclass(frozen=True)
class AvailableMemory:
    """What can be had now.

    Attributes:
        host_bytes: Free host memory and reclaimable page cache, within the container's limit.
        gpus: The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves.
    """

    host_bytes: int
    gpus: tuple[GpuMemory, ...] = ()


def without(memory: AvailableMemory, need: MemoryNeed) -> AvailableMemory:
    """What is left when `need` is taken: from the host, and from the GPUs.

    Where the need does not say of which GPU it takes what, those with the most free come first.
    """
    if need.by_gpu:
        shares = (*need.by_gpu, *[0] * len(memory.gpus))
        rest = tuple(
            replace(gpu, free_bytes=max(0, gpu.free_bytes - share))
            for gpu, share in zip(memory.gpus, shares, strict=False)
        )
        return AvailableMemory(max(0, memory.host_bytes - need.host_bytes), rest)
    left = need.gpu_bytes
    gpus: dict[int, GpuMemory] = dict(enumerate(memory.gpus))
    for index, gpu in sorted(gpus.items(), key=lambda item: -item[1].free_bytes):
        taken = min(left, gpu.free_bytes)
        gpus[index] = replace(gpu, free_bytes=gpu.free_bytes - taken)
        left -= taken
    host = max(0, memory.host_bytes - need.host_bytes)
    return AvailableMemory(host, tuple(gpus[index] for index in range(len(gpus))))


def available_memory(environ: Mapping[str, str] | None = None) -> AvailableMemory:
    """Measure what can be had now. Blocks for milliseconds; a machine without GPU is normal.

    Page cache counts as available (psutil's meaning): weights that are mapped from a file are page
    cache themselves, so memory that only holds other files is no reason to refuse a model.
    """
    import psutil

    host = int(psutil.virtual_memory().available)
    limit = cgroup_available()
    environ = os.environ if environ is None else environ
    gpus = visible_gpus(environ.get("CUDA_VISIBLE_DEVICES"), read_gpus())
    return AvailableMemory(host if limit is None else min(host, limit), gpus)


def cgroup_available(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Return the bytes left under the tightest memory limit of this process's cgroups.

    Reads cgroup v2 and v1. File pages that the kernel may drop count as left.

    Returns:
        None when no limit applies (or the system has no cgroups).
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    left: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            for base in (root, root / "unified"):
                left += _limits(base, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            left += _limits(
                root / "memory",
                path,
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
    return min(left, default=None)


def _limits(base: Path, path: str, limit: str, usage: str, reclaimable: str) -> list[int]:
    """Bytes left in the group and in each above it; a container sees its own group as the root."""
    folder = base / path.lstrip("/")
    found = []
    while True:
        maximum = _number(folder / limit)
        used = _number(folder / usage)
        # v1 writes a number near 2**63 for "no limit".
        if maximum is not None and used is not None and maximum < 2**60:
            found.append(max(maximum - used + _stat(folder / "memory.stat", reclaimable), 0))
        if folder == base or base not in folder.parents:
            return found
        folder = folder.parent


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _stat(path: Path, key: str) -> int:
    try:
        pairs = dict(line.partition(" ")[::2] for line in path.read_text().splitlines())
        return int(pairs.get(key, 0))
    except (OSError, ValueError):
        return 0


def read_gpus() -> tuple[GpuMemory, ...]:
    """Read every GPU of the machine from NVML, MIG slices in place of a sliced GPU.

    Returns:
        Nothing where there is no driver, no library or no GPU.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        gpus: list[GpuMemory] = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                gpus += _read_gpu(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index))
            except pynvml.NVMLError:
                continue  # a GPU that this container was not given, or that fell off the bus
        return tuple(gpus)
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _read_gpu(nvml, handle) -> list[GpuMemory]:  # type: ignore[no-untyped-def]
    try:
        is_sliced = nvml.nvmlDeviceGetMigMode(handle)[0] == 1
    except nvml.NVMLError:
        is_sliced = False  # a GPU without MIG answers "not supported"
    handles = [handle]
    if is_sliced:
        handles = []
        for slot in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                handles.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot))
            except nvml.NVMLError:
                continue  # slots need not be filled
    found = []
    for device in handles:
        memory = nvml.nvmlDeviceGetMemoryInfo(device)
        found.append(
            GpuMemory(
                name=_text(nvml.nvmlDeviceGetName(device)),
                uuid=_text(nvml.nvmlDeviceGetUUID(device)),
                free_bytes=int(memory.free),
                total_bytes=int(memory.total),
            )
        )
    return found


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def visible_gpus(visible: str | None, gpus: Sequence[GpuMemory]) -> tuple[GpuMemory, ...]:
    """Apply ``CUDA_VISIBLE_DEVICES`` to the GPUs of a machine.

    CUDA's rules: unset means all; empty means none; numbers, UUIDs (``GPU-...``, ``MIG-...``) or
    unambiguous beginnings of them, in this order, up to the first one that does not exist.
    """
    if visible is None:
        return tuple(gpus)
    chosen: list[GpuMemory] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdigit():
            matches = list(gpus[int(entry) : int(entry) + 1])
        else:
            matches = [gpu for gpu in gpus if entry and gpu.uuid.startswith(entry)]
        if len(matches) != 1:
            break
        if matches[0] not in chosen:
            chosen += matches
    return tuple(chosen)


@dataclass(frozen=True)
class MemoryNeed:
    """What one start needs on each side, in bytes.

    Attributes:
        host_bytes: Of the host.
        gpu_bytes: Of all GPUs together.
        by_gpu: Of each, in the order of `AvailableMemory.gpus`, where the engine takes it so.
    """

    host_bytes: int
    gpu_bytes: int
    by_gpu: tuple[int, ...] = ()


def plan_memory(
    shape: ModelShape, request: CacheRequest, gpu_layers: int, gpu_count: int, *, offload_kv: bool
) -> MemoryNeed:
    """Split a model's need between host and GPUs as llama.cpp places it. Pure.

    The last `gpu_layers` layers go to the GPUs with their part of the cache, the output tensors
    after all of them; the token embeddings stay in host memory.
    """
    estimate = estimate_memory(shape, request)
    if gpu_count == 0 or gpu_layers <= 0:
        return MemoryNeed(estimate.total_bytes + _HOST_OVERHEAD_BYTES, 0)
    first = max(shape.layers - gpu_layers, 0)
    gpu = sum(shape.layer_bytes[first:])
    copied = 0
    if gpu_layers > shape.layers:
        gpu += shape.output_bytes
        copied = shape.tied_bytes
    if offload_kv:
        gpu += sum(kv_bytes_by_layer(shape, request)[first:])
        state = shape.state_bytes_per_slot * request.slots
        gpu += state * (shape.layers - first) // shape.layers
    host = estimate.weights_bytes + estimate.kv_bytes - gpu + _HOST_OVERHEAD_BYTES
    # Each GPU holds its own compute buffer and context.
    per_gpu = estimate.compute_bytes + _GPU_OVERHEAD_BYTES
    return MemoryNeed(host, gpu + copied + per_gpu * gpu_count)


def check_fits(
    shape: ModelShape,
    request: CacheRequest,
    memory: AvailableMemory,
    *,
    model: str,
    gpu_layers: int = 0,
    offload_kv: bool = True,
) -> MemoryNeed:
    """Refuse a model that the memory cannot hold. Pure.

    Args:
        shape: The model's numbers.
        request: Context, slots, cache types.
        memory: What there is.
        model: The model as the user named it.
        gpu_layers: Layers that go to the GPUs; more than the model has means all.
        offload_kv: Whether the cache of those layers goes there as well.

    Returns:
        What it needs.

    Raises:
        CapacityError: With the numbers and the largest context that would fit, or that none does.
    """
    gpus = memory.gpus if gpu_layers > 0 else ()

    def need_at(context: int) -> MemoryNeed:
        asked = with_context(request, context)
        return plan_memory(shape, asked, gpu_layers, len(gpus), offload_kv=offload_kv)

    def fits(need: MemoryNeed) -> bool:
        free = sum(gpu.free_bytes for gpu in gpus)
        return need.host_bytes <= memory.host_bytes and need.gpu_bytes <= free

    need = need_at(request.context)
    if fits(need):
        return need
    low, high = 0, request.context // CONTEXT_STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(need_at(middle * CONTEXT_STEP)) else (low, middle - 1)
    raise CapacityError(_refusal(shape, request, memory, need, gpus, model, low * CONTEXT_STEP))


def _refusal(
    shape: ModelShape,
    request: CacheRequest,
    memory: AvailableMemory,
    need: MemoryNeed,
    gpus: Sequence[GpuMemory],
    model: str,
    largest: int,
) -> str:
    estimate = estimate_memory(shape, request)
    slots = f" for each of {request.slots} parallel requests" if request.slots > 1 else ""
    lines = [
        f"{model} with a context of {request.context:,} tokens{slots} does not fit into memory: "
        f"weights {render_gib(estimate.weights_bytes)}, KV cache {render_gib(estimate.kv_bytes)}, "
        f"compute buffers {render_gib(estimate.compute_bytes)}."
    ]
    if gpus:
        free = sum(gpu.free_bytes for gpu in gpus)
        lines.append(
            f"It needs {render_gib(need.gpu_bytes)} on {len(gpus)} GPU{'s' * (len(gpus) > 1)}, "
            f"where {render_gib(free)} are free."
        )
    lines.append(
        f"It needs {render_gib(need.host_bytes)} of host memory, where "
        f"{render_gib(memory.host_bytes)} can be had."
    )
    if largest >= CONTEXT_STEP:
        lines.append(
            f'Set "Context Size" to {largest:,} or less, or choose fewer parallel requests or a '
            "smaller cache type."
        )
    else:
        lines.append(
            "No context fits: choose a smaller quantisation or a machine with more memory."
        )
    return " ".join(lines)
