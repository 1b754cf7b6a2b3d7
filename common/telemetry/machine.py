"""What the machine does: processors, memory, disk, network and GPUs, as a server's tables want it.

The SDK's resource monitor reports the same to the task's scalars; this is for the Model Endpoints
table, and for the GPU memory of an engine's processes, which the SDK does not tell.

GPUs are read by NVML. Where its library does not work, GPUtil asks ``nvidia-smi``, a process of its
own that may hang with the driver: read in a thread. A machine without a GPU is normal.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

_MIB = 2**20
# A driver is not installed while an instance runs: where there was no GPU, none is looked for again.
_NO_GPU_TRIES = 3


@dataclass(frozen=True)
class GpuUsage:
    """One GPU, or one MIG slice; utilization and temperature are None where it cannot tell.

    Attributes:
        uuid: NVML's name for it.
        used_bytes: Memory in use by anybody.
        free_bytes: Memory that is free.
        utilization: Percent of the last second in which it worked.
        temperature: Degrees Celsius.
        by_pid: Memory in bytes by process, as far as the driver tells this container.
    """

    uuid: str
    used_bytes: int
    free_bytes: int
    utilization: float | None = None
    temperature: float | None = None
    by_pid: Mapping[int, int] = field(default_factory=dict)

    def bytes_of(self, pids: Collection[int]) -> int:
        """Memory that these processes hold here; 0 where the driver does not tell."""
        return sum(used for pid, used in self.by_pid.items() if pid in pids)


@dataclass(frozen=True)
class MachineUsage:
    """The machine at one moment; rates are means since the reading before.

    Attributes:
        cpu_percent: Use of each processor in percent.
        memory_used_bytes: Host memory in use.
        memory_free_bytes: Host memory that can be had.
        disk_free_percent: Free space of the home directory's disk.
        disk_read: Bytes read per second.
        disk_written: Bytes written per second.
        received: Bytes received per second, by all interfaces.
        sent: Bytes sent per second.
        gpus: The GPUs of this instance.
    """

    cpu_percent: tuple[float, ...] = ()
    memory_used_bytes: int = 0
    memory_free_bytes: int = 0
    disk_free_percent: float = 0.0
    disk_read: float = 0.0
    disk_written: float = 0.0
    received: float = 0.0
    sent: float = 0.0
    gpus: tuple[GpuUsage, ...] = ()

    def gpu_bytes(self, pids: Iterable[int]) -> int:
        """GPU memory that these processes hold; 0 where the driver does not tell."""
        wanted = frozenset(pids)
        return sum(gpu.bytes_of(wanted) for gpu in self.gpus)


ReadGpus = Callable[[], Sequence[GpuUsage]]


class MachineReader:
    """Reads the machine; keeps what rates are counted from. `read` may run in any thread.

    Args:
        visible: UUIDs of the GPUs that the instance may use; None: all.
        sources: Ways to read the GPUs, the next one where one gives none.
        clock: Seconds of a monotonic clock.
    """

    def __init__(
        self,
        visible: Iterable[str] | None = None,
        *,
        sources: Sequence[ReadGpus] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._visible = None if visible is None else frozenset(visible)
        self._sources = (read_nvml, read_gputil) if sources is None else tuple(sources)
        self._clock = clock
        self._reading = threading.Lock()
        self._tries_without = 0
        self._counters = _counters()
        self._at = clock()
        self._last = MachineUsage()

    def read(self) -> MachineUsage:
        """Measure now; blocks for milliseconds, or for as long as a GPU's driver hangs.

        Returns the last measurement while another thread is at it, so that hanging ones are never two.
        """
        if not self._reading.acquire(blocking=False):
            return self._last
        try:
            self._last = self._measure()
            return self._last
        finally:
            self._reading.release()

    def _measure(self) -> MachineUsage:
        memory = psutil.virtual_memory()
        now, counters = self._clock(), _counters()
        elapsed = max(now - self._at, 1e-3)
        rates = [
            max(0, late - early) / elapsed
            for early, late in zip(self._counters, counters, strict=True)
        ]
        self._at, self._counters = now, counters
        return MachineUsage(
            cpu_percent=tuple(psutil.cpu_percent(percpu=True)),
            memory_used_bytes=int(memory.total - memory.available),
            memory_free_bytes=int(memory.available),
            disk_free_percent=_disk_free_percent(),
            disk_read=rates[0],
            disk_written=rates[1],
            received=rates[2],
            sent=rates[3],
            gpus=tuple(self._read_gpus()),
        )

    def _read_gpus(self) -> list[GpuUsage]:
        if self._visible is not None and not self._visible:
            return []
        if self._tries_without >= _NO_GPU_TRIES:
            return []
        for source in self._sources:
            if found := source():
                self._tries_without = 0
                return [g for g in found if self._visible is None or g.uuid in self._visible]
        self._tries_without += 1
        return []


def server_units(usage: MachineUsage) -> dict[str, Any]:
    """`machine_stats` as the ClearML server has it: percent, MB and MB/s in whole numbers.

    Lists have a value per processor or GPU; what no GPU tells is left out.
    """
    stats: dict[str, Any] = {
        "cpu_usage": [round(percent, 1) for percent in usage.cpu_percent],
        "memory_used": usage.memory_used_bytes // _MIB,
        "memory_free": usage.memory_free_bytes // _MIB,
        "disk_free_home": round(usage.disk_free_percent),
        "disk_read": round(usage.disk_read / _MIB),
        "disk_write": round(usage.disk_written / _MIB),
        "network_rx": round(usage.received / _MIB),
        "network_tx": round(usage.sent / _MIB),
    }
    if usage.gpus:
        stats["gpu_memory_used"] = [gpu.used_bytes // _MIB for gpu in usage.gpus]
        stats["gpu_memory_free"] = [gpu.free_bytes // _MIB for gpu in usage.gpus]
        utilization = [g.utilization for g in usage.gpus if g.utilization is not None]
        temperature = [g.temperature for g in usage.gpus if g.temperature is not None]
        stats |= {"gpu_usage": utilization} if utilization else {}
        stats |= {"gpu_temperature": temperature} if temperature else {}
    return stats


def read_nvml() -> list[GpuUsage]:
    """Read the GPUs, and the slices of those that are divided, by NVML; none where it does not work."""
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        found: list[GpuUsage] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                found += _read_device(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            except nvml.NVMLError:
                continue  # a GPU that this container was not given, or that fell off the bus
        return found
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def read_gputil() -> list[GpuUsage]:
    """Read the GPUs by GPUtil, which runs ``nvidia-smi``; none where it does not work."""
    try:
        import GPUtil

        gpus = GPUtil.getGPUs()
    # Its output is taken as it comes: text of an error where figures are expected, and more.
    except Exception:  # noqa: BLE001
        return []
    return [
        GpuUsage(
            uuid=str(gpu.uuid),
            used_bytes=int(gpu.memoryUsed * _MIB),
            free_bytes=int(gpu.memoryFree * _MIB),
            utilization=_finite(gpu.load * 100),
            temperature=_finite(gpu.temperature),
        )
        for gpu in gpus
        if math.isfinite(gpu.memoryUsed) and math.isfinite(gpu.memoryFree)
    ]


def _finite(value: float) -> float | None:
    return round(value, 1) if math.isfinite(value) else None


def _read_device(nvml: Any, handle: Any) -> list[GpuUsage]:
    try:
        is_sliced = nvml.nvmlDeviceGetMigMode(handle)[0] == 1
    except nvml.NVMLError:
        is_sliced = False  # a GPU without MIG answers "not supported"
    if not is_sliced:
        return [_read_handle(nvml, handle)]
    found = []
    for slot in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            found.append(_read_handle(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot)))
        except nvml.NVMLError:
            continue  # slots need not be filled
    return found


def _read_handle(nvml: Any, handle: Any) -> GpuUsage:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    uuid = nvml.nvmlDeviceGetUUID(handle)

    def told(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except nvml.NVMLError:
            return None  # a MIG slice has no utilization of its own, some cards no sensor

    processes = told(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or ()
    return GpuUsage(
        uuid=uuid.decode() if isinstance(uuid, bytes) else uuid,
        used_bytes=int(memory.used),
        free_bytes=int(memory.free),
        utilization=told(lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
        temperature=told(
            lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        ),
        by_pid={p.pid: int(p.usedGpuMemory) for p in processes if p.usedGpuMemory},
    )


def _counters() -> tuple[int, int, int, int]:
    """Bytes since the machine's start: read, written, received, sent; 0 where it does not tell."""
    try:
        disk = psutil.disk_io_counters()
    except (OSError, RuntimeError, NotImplementedError):
        disk = None
    try:
        network = psutil.net_io_counters()
    except (OSError, RuntimeError, NotImplementedError):
        network = None
    return (
        disk.read_bytes if disk else 0,
        disk.write_bytes if disk else 0,
        network.bytes_recv if network else 0,
        network.bytes_sent if network else 0,
    )


def _disk_free_percent() -> float:
    try:
        return 100.0 - float(psutil.disk_usage(str(Path.home())).percent)
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        return 0.0
