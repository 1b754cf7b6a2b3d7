"""The machine's figures: with GPUs or without, in the server's units, and never two readings at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.telemetry.machine import (
    GpuUsage,
    MachineReader,
    MachineUsage,
    read_gputil,
    read_nvml,
    server_units,
)

ROOT = Path(__file__).parents[2]
MIB = 2**20
# The wire's schema (`machine_stats` of the server): whole numbers, and lists per processor or GPU.
WHOLE = {
    "memory_used",
    "memory_free",
    "disk_free_home",
    "disk_read",
    "disk_write",
    "network_rx",
    "network_tx",
}


def gpu(uuid: str, used_mib: int = 1000, **more: object) -> GpuUsage:
    return GpuUsage(uuid, used_mib * MIB, 500 * MIB, **more)  # type: ignore[arg-type]


def test_this_machine_is_measured_in_the_servers_units() -> None:
    stats = server_units(MachineReader(sources=()).read())
    assert WHOLE | {"cpu_usage"} == set(stats)
    assert all(type(stats[name]) is int for name in WHOLE)
    assert stats["memory_free"] > 0
    assert stats["memory_used"] > 0
    assert all(0 <= percent <= 100 for percent in stats["cpu_usage"])
    assert len(stats["cpu_usage"]) >= len(os.sched_getaffinity(0))
    json.dumps(stats)


def test_gpus_are_lists_in_mb_and_what_none_tells_is_left_out() -> None:
    usage = MachineUsage(gpus=(gpu("a", utilization=50.0, temperature=40.0), gpu("b", 2000)))
    stats = server_units(usage)
    assert stats["gpu_memory_used"] == [1000, 2000]
    assert stats["gpu_memory_free"] == [500, 500]
    assert stats["gpu_usage"] == [50.0]
    assert stats["gpu_temperature"] == [40.0]
    assert "gpu_usage" not in server_units(MachineUsage(gpus=(gpu("b"),)))


def test_gpu_memory_of_a_process_tree_is_summed_over_the_gpus() -> None:
    usage = MachineUsage(gpus=(gpu("a", by_pid={1: 5, 2: 7}), gpu("b", by_pid={2: 11, 3: 100})))
    assert usage.gpu_bytes([1, 2, 9]) == 23
    assert MachineUsage().gpu_bytes([1]) == 0


def test_the_second_source_is_asked_where_the_first_gives_none() -> None:
    reader = MachineReader(sources=(list, lambda: [gpu("smi")]))
    assert [each.uuid for each in reader.read().gpus] == ["smi"]


def test_only_the_gpus_of_the_instance_are_shown() -> None:
    both = [gpu("mine"), gpu("others")]
    assert [g.uuid for g in MachineReader(["mine"], sources=(lambda: both,)).read().gpus] == [
        "mine"
    ]
    assert len(MachineReader(None, sources=(lambda: both,)).read().gpus) == 2


def test_an_instance_without_gpus_asks_no_driver() -> None:
    asked: list[int] = []
    reader = MachineReader([], sources=(lambda: asked.append(1) or [],))
    assert reader.read().gpus == ()
    assert not asked


def test_a_machine_without_gpus_is_not_searched_for_ever() -> None:
    asked: list[int] = []
    reader = MachineReader(sources=(lambda: asked.append(1) or [],))
    for _ in range(10):
        assert reader.read().gpus == ()
    assert len(asked) == 3


def test_rates_are_per_second_since_the_reading_before() -> None:
    now = [100.0]
    reader = MachineReader(sources=(), clock=lambda: now[0])
    reader._counters = tuple(each - 10 * MIB for each in reader._counters)  # type: ignore[assignment]
    now[0] = 102.0
    assert 5 * MIB <= reader.read().received < 50 * MIB


def test_while_a_driver_hangs_the_last_figures_are_given() -> None:
    hang, entered = threading.Event(), threading.Event()

    def hanging() -> list[GpuUsage]:
        entered.set()
        hang.wait(30)
        return [gpu("late")]

    reader = MachineReader(sources=(hanging,))
    first = threading.Thread(target=reader.read)
    first.start()
    assert entered.wait(10)
    assert reader.read() == MachineUsage()
    hang.set()
    first.join(10)
    assert [each.uuid for each in reader.read().gpus] == ["late"]


SMI = """#!/bin/sh
echo "{line}"
"""
LINE = "0, GPU-1234, 37, 24576, 1024, 23552, 550.1, Card, [N/A], Disabled, Disabled, 41"


def by_gputil(folder: Path, line: str | None) -> list[dict[str, object]]:
    """What GPUtil reads with an ``nvidia-smi`` that prints a line; None: there is no such program."""
    if line is not None:
        program = folder / "nvidia-smi"
        program.write_text(SMI.format(line=line))
        program.chmod(0o755)
    code = (
        "import json; from common.telemetry.machine import read_gputil;"
        "print(json.dumps([[g.uuid, g.used_bytes, g.free_bytes, g.utilization, g.temperature]"
        " for g in read_gputil()]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PATH": f"{folder}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def test_gputil_reads_what_nvidia_smi_prints(tmp_path: Path) -> None:
    assert by_gputil(tmp_path, LINE) == [["GPU-1234", 1024 * MIB, 23552 * MIB, 37.0, 41.0]]


@pytest.mark.parametrize(
    "line", ["NVIDIA-SMI has failed because it could not talk to the driver", ""]
)
def test_an_nvidia_smi_that_fails_is_no_gpu(tmp_path: Path, line: str) -> None:
    assert by_gputil(tmp_path, line) == []


def test_a_figure_that_nvidia_smi_does_not_have_is_left_out(tmp_path: Path) -> None:
    (only,) = by_gputil(tmp_path, LINE.replace(" 37,", " [N/A],"))
    assert only[3] is None  # type: ignore[index]


def test_gputil_without_nvidia_smi_or_distutils_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert by_gputil(tmp_path, None) == []
    monkeypatch.setitem(sys.modules, "GPUtil", None)  # as where its own import fails
    assert read_gputil() == []


def test_nvml_without_a_driver_is_no_gpu(tmp_path: Path) -> None:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert read_nvml() == []
    else:
        pynvml.nvmlShutdown()
        assert read_nvml()


class Library:
    """What of NVML is read, for a divided GPU and one that keeps its temperature to itself."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index == 2:
            raise self.NVMLError("fell off the bus")
        return ("whole", "divided")[index]

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if handle == "whole":
            raise self.NVMLError("not supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, slot: int) -> str:
        if slot != 3:
            raise self.NVMLError("no slice")
        return "slice"

    def nvmlDeviceGetUUID(self, handle: str) -> str | bytes:
        return {"whole": b"GPU-1", "slice": "MIG-1"}[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> object:
        return SimpleNamespace(used=7, free=11)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> object:
        if handle == "slice":
            raise self.NVMLError("not supported")
        return SimpleNamespace(gpu=30)

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        raise self.NVMLError("no sensor")

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[object]:
        hidden = SimpleNamespace(pid=2, usedGpuMemory=None)
        return [SimpleNamespace(pid=1, usedGpuMemory=5), hidden]


def test_nvml_reads_gpus_and_slices_and_what_they_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setitem(sys.modules, "pynvml", library)  # type: ignore[arg-type]
    assert read_nvml() == [
        GpuUsage("GPU-1", 7, 11, utilization=30.0, by_pid={1: 5}),
        GpuUsage("MIG-1", 7, 11, by_pid={1: 5}),
    ]
    assert library.open == 0


@pytest.mark.gpu
def test_a_real_gpu_is_read_alike_by_both() -> None:
    by_nvml, by_smi = read_nvml(), read_gputil()
    assert by_nvml
    assert all(gpu.used_bytes >= 0 and gpu.free_bytes > 0 for gpu in by_nvml)
    assert {gpu.uuid for gpu in by_smi} == {g.uuid for g in by_nvml if g.uuid.startswith("GPU-")}
