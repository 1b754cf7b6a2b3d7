"""What is read of a machine once."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from common.memory import machine_facts
from common.memory.engine_ways import MachineFacts
from common.memory.machine_facts import read_driver_version, read_machine_facts

CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 02:21:33 UTC 2025\n"
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build  (root@)\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
)


@pytest.mark.parametrize(("text", "version"), [(CLOSED, "570.86.15"), (OPEN, "580.82.07")])
def test_the_kernel_tells_the_version(tmp_path: Path, text: str, version: str) -> None:
    told = tmp_path / "version"
    told.write_text(text)
    assert read_driver_version(told) == version


def test_without_a_driver_there_is_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_facts, "_ask_nvml", lambda: "571.2")
    assert read_driver_version(tmp_path / "version") == "571.2"
    (tmp_path / "version").write_text("something else")
    assert read_driver_version(tmp_path / "version") == "571.2"


async def test_without_a_gpu_nothing_is_tried() -> None:
    facts = await read_machine_facts({"A": "b"}, [], library="/nowhere")
    assert facts == MachineFacts(platform.machine(), environ={"A": "b"})


@pytest.mark.parametrize(
    ("driver", "gpus", "problem"),
    [
        ("570.1", ["GPU-1", "GPU-2"], "cannot be used for it"),
        ("565.1", ["GPU-1"], ""),
        ("570.1", ["MIG-1"], ""),
    ],
)
async def test_the_driver_is_tried_where_it_may_work(
    monkeypatch: pytest.MonkeyPatch, driver: str, gpus: list[str], problem: str
) -> None:
    monkeypatch.setattr(machine_facts, "read_driver_version", lambda: driver)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    facts = await read_machine_facts({}, gpus, library="/nowhere/libcuda.so.1")
    assert (facts.driver, facts.gpus, facts.is_mig) == (driver, len(gpus), gpus == ["MIG-1"])
    assert problem in facts.checkpoint_problem
    assert bool(facts.checkpoint_problem) == bool(problem)
