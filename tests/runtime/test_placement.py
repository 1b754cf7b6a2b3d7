from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apps.llamacpp.app import app
from common.engines.contract import EngineAddress
from common.errors import CapacityError, ConfigurationError
from common.models.memory import AvailableMemory, GpuMemory, MemoryNeed
from common.options.loading import load_settings
from common.runtime.app import ModelPlan
from common.runtime.placement import Placed, Placement, together
from tests.models.gguf_files import write_gguf

MIB = 2**20
GIB = 2**30
CARD = GpuMemory("card", "GPU-0", GIB, GIB)
MEMORY = AvailableMemory(16 * GIB, (CARD,))
OFFLOADING = {"General/enable_automatic_cpu_offloading": "true"}
# With its context of CUDA each takes some 400 MiB of a GPU: two of them fit on a card of 1 GiB.
LAYERS = {"number_of_gpu_layers": "9999", "context_size": "256", "parallel": "1"}


class Instance:
    """Models of the llama.cpp app that are placed on a machine of the test's."""

    def __init__(
        self,
        folder: Path,
        memory: AvailableMemory,
        models: int = 2,
        machine: str = "x86_64",
        **general: str,
    ) -> None:
        self.path = write_gguf(folder / "m.gguf")
        given = {"Model/model": str(self.path), **{f"Model/{k}": v for k, v in LAYERS.items()}}
        settings = load_settings(app().settings, {**given, **general}).settings
        self.settings = settings.model_copy(update={"models": settings.models * models})
        self.readings = 0
        self.memory = memory
        self.placement = Placement(app(), self.settings, {}, measure=self.measure, machine=machine)

    def measure(self, environ: Mapping[str, str]) -> AvailableMemory:
        self.readings += 1
        return self.memory

    async def place(self, name: str) -> Placed:
        address = EngineAddress(port=1)
        plan = ModelPlan(name, self.settings.models[0], self.path, (self.path,), address, 1)
        files: Any = SimpleNamespace(all=(self.path,))
        return await self.placement.place(plan, files)


async def test_models_that_stay_loaded_are_placed_beside_each_other(tmp_path: Path) -> None:
    instance = Instance(tmp_path, AvailableMemory(16 * GIB, (CARD, CARD)))
    first = await instance.place("a")
    assert (first.plan.fitted, first.found.need.gpu_bytes > 800 * MIB) == ({}, True)
    await instance.place("b")
    assert list(instance.placement.placed) == ["a", "b"]
    assert instance.readings == 1


async def test_models_that_do_not_fit_together_are_refused_with_the_sum(tmp_path: Path) -> None:
    instance = Instance(tmp_path, MEMORY, models=4)
    await instance.place("a")
    await instance.place("b")
    with pytest.raises(CapacityError) as caught:
        await instance.place("c")
    first, *needs, total, there, unknown, advice = str(caught.value).splitlines()
    assert "do not fit into memory together" in first
    assert [line.split()[0] for line in needs] == ["a", "b", "c"]
    need = instance.placement.placed["a"].found.need
    each = f"{need.gpu_bytes / MIB:.1f} MiB of GPU memory"
    assert all(each in line for line in needs)
    assert f"{3 * need.gpu_bytes / GIB:.2f} GiB of GPU memory" in total
    assert "1.00 GiB of GPU memory and 16.00 GiB of host memory" in there
    assert "1 more model" in unknown
    assert '"Enable Automatic CPU Offloading" (General/enable_automatic_cpu' in advice
    assert '"Enable Disk Swapping" (General/enable_disk_swapping)' in advice


async def test_a_model_that_fits_nowhere_is_told_its_own_numbers(tmp_path: Path) -> None:
    small = GpuMemory("card", "GPU-0", 100 * MIB, 100 * MIB)
    for general in ({}, OFFLOADING):
        instance = Instance(tmp_path, AvailableMemory(16 * GIB, (small,)), **general)
        with pytest.raises(CapacityError, match=r"^a with .* 100\.0 MiB are free") as caught:
            await instance.place("a")
        assert "together" not in str(caught.value)
        assert "Max CUDA Memory" not in str(caught.value)


async def test_models_that_take_turns_have_the_whole_machine_each(tmp_path: Path) -> None:
    instance = Instance(tmp_path, MEMORY, models=3, **OFFLOADING)
    for name in ("a", "b", "c"):
        await instance.place(name)
    needs = [placed.found.need for placed in instance.placement.placed.values()]
    assert sum(need.gpu_bytes for need in needs) > GIB
    assert instance.readings == 1


async def test_a_budget_bounds_each_of_them(tmp_path: Path) -> None:
    budget = {**OFFLOADING, "General/max_cuda_memory_gib": "0.1"}
    with pytest.raises(CapacityError, match=r'"Max CUDA Memory \(GiB\)" is 0\.1\.$'):
        await Instance(tmp_path, MEMORY, **budget).place("a")
    # Without a GPU it is what may be resident; the rest of host RAM is for others.
    with pytest.raises(CapacityError, match=r"where 102\.4 MiB can be had"):
        await Instance(tmp_path, AvailableMemory(16 * GIB), **budget).place("a")
    del budget["General/enable_automatic_cpu_offloading"]
    with pytest.raises(CapacityError, match=r"where 102\.4 MiB can be had"):
        await Instance(tmp_path, AvailableMemory(16 * GIB), **budget).place("a")


async def test_a_model_larger_than_the_card_goes_partly_to_host_memory(tmp_path: Path) -> None:
    whole = (await Instance(tmp_path, MEMORY).place("a")).found.need
    room = AvailableMemory(16 * GIB, (GpuMemory("card", "GPU", whole.gpu_bytes - 1, GIB),))
    with pytest.raises(CapacityError):
        await Instance(tmp_path, room).place("a")
    surplus = {"General/max_cuda_memory_gib": "1.5"}
    placed = await Instance(tmp_path, room, **surplus).place("a")
    layers = int(placed.plan.fitted["--gpu-layers"])
    assert 0 < layers < 3
    assert placed.found.need.gpu_bytes < whole.gpu_bytes
    assert any("Max CUDA Memory" in line for line in placed.lines)


async def test_a_budget_beyond_the_hardware_is_refused_on_other_processors(
    tmp_path: Path,
) -> None:
    general = {"General/max_cuda_memory_gib": "1.5"}
    with pytest.raises(ConfigurationError, match="x86-64 only"):
        await Instance(tmp_path, MEMORY, machine="aarch64", **general).placement.check()
    await Instance(tmp_path, MEMORY, **general).placement.check()
    await Instance(tmp_path, MEMORY, machine="aarch64").placement.check()


def test_needs_are_told_by_gpu() -> None:
    whole = AvailableMemory(10 * GIB, (CARD, CARD))
    needs = {"a": MemoryNeed(GIB, GIB, (GIB, 0)), "b": MemoryNeed(GIB, 2 * GIB)}
    assert together(needs, whole)[1:] == [
        "  a needs 1.00 GiB of GPU 0 and 1.00 GiB of host memory",
        "  b needs 1.00 GiB of GPU 0, 1.00 GiB of GPU 1 and 1.00 GiB of host memory",
        "  together they need 2.00 GiB of GPU 0, 1.00 GiB of GPU 1 and 2.00 GiB of host memory",
        "  there is 1.00 GiB of GPU 0, 1.00 GiB of GPU 1 and 10.00 GiB of host memory",
    ]
    alone = together({"a": MemoryNeed(GIB, 0)}, AvailableMemory(GIB))
    assert alone[1] == "  a needs 1.00 GiB of host memory"
