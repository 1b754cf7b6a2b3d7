from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from common.models.memory import (
    GpuMemory,
    available_memory,
    cgroup_available,
    read_gpus,
    visible_gpus,
)

GIB = 2**30


def gpu(uuid: str) -> GpuMemory:
    return GpuMemory("gpu", uuid, GIB, GIB)


GPUS = (gpu("GPU-aaaa-1"), gpu("GPU-bbbb-2"), gpu("MIG-cccc-3"), gpu("MIG-GPU-dddd/1/0"))


@pytest.mark.parametrize(
    ("visible", "chosen"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("none", []),
        ("NoDevFiles", []),
        ("1", [1]),
        ("1,0", [1, 0]),
        (" 0 , 2 ", [0, 2]),
        ("0,-1,1", [0]),
        ("0,9,1", [0]),
        ("GPU-bbbb-2", [1]),
        ("GPU-b", [1]),
        ("GPU", []),
        ("MIG-cccc-3,GPU-aaaa-1", [2, 0]),
        ("MIG-GPU-dddd/1/0", [3]),
        ("0,0", [0]),
    ],
)
def test_cuda_visible_devices(visible: str | None, chosen: list[int]) -> None:
    assert visible_gpus(visible, GPUS) == tuple(GPUS[index] for index in chosen)


def test_available_memory_of_this_machine() -> None:
    found = available_memory({})
    assert 0 < found.host_bytes <= psutil.virtual_memory().total
    assert found.gpus == read_gpus()
    assert available_memory({"CUDA_VISIBLE_DEVICES": ""}).gpus == ()


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content + "\n")


def test_cgroup_v2_takes_the_tightest_limit_and_counts_file_pages_as_free(tmp_path: Path) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    membership.write_text("0::/pod/worker\n")
    stat = "anon 1\nactive_file 600\ninactive_file 400\nunevictable 7\n"
    write(root / "pod/worker", memory__max="max", memory__current="1", memory__stat=stat)
    write(root / "pod", memory__max="9000", memory__current="5000", memory__stat=stat)
    assert cgroup_available(root, membership) == 5000
    write(root / "pod/worker", memory__max="4000", memory__current="3500")
    assert cgroup_available(root, membership) == 1500


def test_cgroup_v2_in_a_container_sees_its_group_as_the_root(tmp_path: Path) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    membership.write_text("0::/\n")
    write(root, memory__max="9000", memory__current="10000", memory__stat="inactive_file 0")
    assert cgroup_available(root, membership) == 0


def test_cgroup_v1(tmp_path: Path) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    membership.write_text("5:cpu:/a\n4:hugetlb,memory:/a\n0::/\n")
    write(
        root / "memory/a",
        memory__limit_in_bytes="8000",
        memory__usage_in_bytes="6000",
        memory__stat="total_inactive_file 500\nactive_file 9",
    )
    write(
        root / "memory",
        memory__limit_in_bytes="9223372036854771712",
        memory__usage_in_bytes="6000",
    )
    assert cgroup_available(root, membership) == 2500


def test_no_cgroup_is_no_limit(tmp_path: Path) -> None:
    assert cgroup_available(tmp_path, tmp_path / "none") is None
    membership = tmp_path / "membership"
    membership.write_text("0::/\n")
    assert cgroup_available(tmp_path, membership) is None
