"""The memory there is, on the host and on the GPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path


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
                left += _limits(base, path, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            left += _limits(
                root / "memory",
                path,
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_",
            )
    return min(left, default=None)


def _limits(base: Path, path: str, limit: str, usage: str, prefix: str) -> list[int]:
    """Bytes left in the group and in each above it; a container sees its own group as the root.

    Pages on the lists of active and of inactive file pages can be dropped, as the system's own
    "available" counts them; locked ones and those of shared memory are on other lists.
    """
    folder = base / path.lstrip("/")
    found = []
    while True:
        maximum = _number(folder / limit)
        used = _number(folder / usage)
        # v1 writes a number near 2**63 for "no limit".
        if maximum is not None and used is not None and maximum < 2**60:
            stat = folder / "memory.stat"
            files = sum(_stat(stat, f"{prefix}{name}") for name in ("active_file", "inactive_file"))
            found.append(max(maximum - used + files, 0))
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
        by_gpu: Of each, in the order of `AvailableMemory.gpus`; empty where the engine does not say.
        asleep_by_gpu: What stays on each while the engine sleeps, where it can.
    """

    host_bytes: int
    gpu_bytes: int
    by_gpu: tuple[int, ...] = ()
    asleep_by_gpu: tuple[int, ...] = ()
