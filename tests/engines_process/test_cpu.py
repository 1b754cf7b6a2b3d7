"""Processors, from made-up cgroup trees and from the system itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.engines.cpu import default_threads, usable_cpus


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/cpu,cpuacct"

CASES: dict[str, tuple[dict[str, str], float]] = {
    "no cgroups": ({}, 8),
    "v2 without quota": ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "max 100000"}, 8),
    "v2 quota in a container": (
        {"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "250000 100000"},
        2.5,
    ),
    "v2 quota of an ancestor": (
        {
            "proc/self/cgroup": "0::/pods/one/engine",
            f"{V2}/pods/one/engine/cpu.max": "max 100000",
            f"{V2}/pods/one/cpu.max": "300000 100000",
            f"{V2}/pods/cpu.max": "600000 100000",
        },
        3,
    ),
    "v2 quota above the affinity": (
        {"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "6400000 100000"},
        8,
    ),
    "v2 path of the host": (
        {"proc/self/cgroup": "0::/docker/abc", f"{V2}/cpu.max": "150000 100000"},
        1.5,
    ),
    "v1 without quota": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/\n0::/",
            f"{V1}/cpu.cfs_quota_us": "-1",
            f"{V1}/cpu.cfs_period_us": "100000",
        },
        8,
    ),
    "v1 quota of its group": (
        {
            "proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/jobs/one\n0::/",
            f"{V1}/jobs/one/cpu.cfs_quota_us": "50000",
            f"{V1}/jobs/one/cpu.cfs_period_us": "100000",
        },
        0.5,
    ),
    "v1 path of the host": (
        {
            "proc/self/cgroup": "4:cpu:/docker/abc",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        4,
    ),
}


@pytest.mark.parametrize(("files", "expected"), CASES.values(), ids=CASES)
def test_usable_cpus(tmp_path: Path, files: dict[str, str], expected: float) -> None:
    assert usable_cpus(write(tmp_path, files), affinity=8) == expected


def test_affinity_of_this_process_counts() -> None:
    allowed = os.sched_getaffinity(0)
    assert 0 < usable_cpus() <= len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cpus() <= 1
        assert default_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("usable", "engines", "threads"),
    [(8, 1, 7), (8, 2, 3), (8, 20, 1), (2, 1, 1), (1, 1, 1), (0.5, 3, 1), (2.5, 1, 1), (4, 0, 3)],
)
def test_threads_are_the_usable_less_one_shared(usable: float, engines: int, threads: int) -> None:
    assert default_threads(engines, usable) == threads
