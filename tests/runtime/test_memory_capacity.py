from __future__ import annotations

import pytest

from common.memory.contract import Tier
from common.models.memory import AvailableMemory, GpuMemory
from common.options.memory import MemorySettings
from common.runtime.memory_capacity import (
    as_whole,
    capacity,
    held_now,
    host_reserve,
    taken_by_others,
)

GIB = 2**30
X86 = "x86_64"
HOST = AvailableMemory(64 * GIB)
RESERVE = host_reserve(64 * GIB)


def machine(*cards: tuple[float, float], host: float = 64) -> AvailableMemory:
    """GPUs by free and total GiB."""
    gpus = (
        GpuMemory(f"H{number}", f"GPU-{number}", int(free * GIB), int(total * GIB))
        for number, (free, total) in enumerate(cards)
    )
    return AvailableMemory(int(host * GIB), tuple(gpus))


def test_without_a_budget_each_gpu_is_what_is_free_and_what_is_ours() -> None:
    found = capacity(MemorySettings(), machine((30, 80), (80, 80)), {"gpu0": 40 * GIB}, X86)
    assert found.pools == {
        "gpu0": 70 * GIB,
        "gpu1": 80 * GIB,
        "host": 64 * GIB - RESERVE,
    }
    assert (found.away, found.surplus, found.problems) == ((), {}, ())


def test_a_card_never_counts_for_more_than_it_has() -> None:
    held = {"gpu0": 50 * GIB}  # a model is being put aside, and the readings are not of one moment
    assert capacity(MemorySettings(), machine((60, 80)), held, X86).pools["gpu0"] == 80 * GIB


@pytest.mark.parametrize(
    ("cpu", "disk", "away"),
    [
        (True, False, (Tier.CPU, Tier.DISK)),
        (False, True, (Tier.DISK,)),
        (False, False, ()),
    ],
)
def test_tiers_that_models_may_be_put_aside_to(
    cpu: bool, disk: bool, away: tuple[Tier, ...]
) -> None:
    settings = MemorySettings(cpu_offloading=cpu, disk_swapping=disk)
    assert capacity(settings, HOST, {}, X86).away == away


def test_a_budget_is_divided_in_proportion_to_the_cards() -> None:
    found = capacity(MemorySettings(max_cuda_gib=30), machine((80, 80), (40, 40)), {}, "aarch64")
    assert (found.pools["gpu0"], found.pools["gpu1"]) == (20 * GIB, 10 * GIB)
    assert (found.surplus, found.problems) == ({}, ())


def test_a_budget_within_the_hardware_gives_no_surplus_for_what_others_take() -> None:
    found = capacity(MemorySettings(max_cuda_gib=60), machine((50, 80)), {}, X86)
    assert (found.pools["gpu0"], found.surplus) == (50 * GIB, {})


def test_what_a_budget_exceeds_the_hardware_by_is_surplus() -> None:
    memory = machine((70, 80), (40, 40))
    found = capacity(MemorySettings(max_cuda_gib=180), memory, {}, "AMD64")
    assert (found.pools["gpu0"], found.pools["gpu1"]) == (70 * GIB, 40 * GIB)
    assert found.surplus == {"gpu0": 50 * GIB, "gpu1": 20 * GIB}
    whole = as_whole(memory, found)
    assert [gpu.surplus_bytes for gpu in whole.gpus] == [50 * GIB, 20 * GIB]
    assert [gpu.free_bytes for gpu in whole.gpus] == [70 * GIB, 40 * GIB]


def test_a_budget_beyond_the_hardware_is_a_problem_on_other_processors() -> None:
    found = capacity(MemorySettings(max_cuda_gib=81), machine((80, 80)), {}, "aarch64")
    (problem,) = found.problems
    assert "x86-64 only" in str(problem)
    assert "Max CUDA Memory" in str(problem)
    assert (found.surplus, found.pools["gpu0"]) == ({}, 80 * GIB)
    assert capacity(MemorySettings(max_cuda_gib=80), machine((80, 80)), {}, "arm64").problems == ()


def test_without_gpus_the_budget_is_what_may_be_resident() -> None:
    found = capacity(MemorySettings(max_cuda_gib=4), HOST, {}, "aarch64")
    assert found.pools == {
        "resident": 4 * GIB,
        "host": 64 * GIB - RESERVE,
    }
    assert found.problems == ()
    assert as_whole(HOST, found) == AvailableMemory(4 * GIB)
    open_ended = capacity(MemorySettings(), HOST, {}, X86).pools
    assert open_ended["resident"] == open_ended["host"]
    beyond = capacity(MemorySettings(max_cuda_gib=1000), HOST, {}, X86)
    assert beyond.pools["resident"] == beyond.pools["host"]


def test_host_ram_counts_what_the_models_hold_of_it() -> None:
    one = capacity(MemorySettings(), AvailableMemory(50 * GIB), {"host": 14 * GIB}, X86)
    assert one.pools["host"] == 64 * GIB - RESERVE


def test_models_put_aside_hold_no_more_than_allowed() -> None:
    settings = MemorySettings(cpu_offloading=True, max_host_gib=10)
    found = capacity(settings, HOST, {}, X86)
    assert (found.pools["held"], found.pools["host"]) == (10 * GIB, 64 * GIB - RESERVE)
    assert found.counts_held
    assert not capacity(MemorySettings(), HOST, {}, X86).counts_held
    more = capacity(MemorySettings(max_host_gib=1000), HOST, {}, X86).pools
    assert more["held"] == more["host"]


@pytest.mark.parametrize(
    ("there", "kept"), [(GIB, GIB // 4), (40 * GIB, 2 * GIB), (1000 * GIB, 4 * GIB)]
)
def test_some_host_ram_is_for_no_model(there: int, kept: int) -> None:
    assert host_reserve(there) == kept
    assert capacity(MemorySettings(), AvailableMemory(2**20), {}, X86).pools["host"] == 0


def test_what_others_take_is_what_is_used_and_not_ours() -> None:
    memory = machine((30, 80), (80, 80))
    assert taken_by_others(memory, {"gpu0": 40 * GIB}) == {"gpu0": 10 * GIB, "gpu1": 0}
    # Ours may be read later, and larger.
    assert taken_by_others(memory, {"gpu0": 60 * GIB})["gpu0"] == 0


def test_where_the_driver_does_not_tell_a_model_holds_what_it_counts_as() -> None:
    measured = {"a": {"gpu0": 5, "host": 2}, "b": {"host": 3}, "asleep": {"host": 7}}
    counted = {"a": {"gpu0": 50, "host": 50}, "b": {"gpu0": 6, "gpu1": 1, "host": 60}}
    assert held_now(measured, counted) == {"gpu0": 11, "gpu1": 1, "host": 12}
    assert held_now({}, {"b": {"gpu0": 6}}) == {"gpu0": 6}
