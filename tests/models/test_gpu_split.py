from __future__ import annotations

from dataclasses import replace

import pytest

from common.models.footprint import CacheRequest, ModelShape, estimate_memory, kv_bytes_by_layer
from common.models.gpu_split import GpuSplit, check_fits, fits, plan_memory
from common.models.memory import AvailableMemory, GpuMemory, without

MIB = 2**20
GIB = 2**30
REQUEST = CacheRequest(1024)

# Layers of different sizes, so that it shows where each is.
SHAPE = ModelShape(
    architecture="llama",
    layer_bytes=(1 * GIB, 2 * GIB, 4 * GIB),
    output_bytes=8 * GIB,
    input_bytes=3 * MIB,
    tied_bytes=0,
    kv_heads=(8, 8, 8),
    windows=(0, 0, 0),
    key_length=64,
    value_length=64,
    state_bytes_per_slot=0,
    heads=8,
    embedding_length=512,
    feed_forward_length=1024,
    vocabulary=1000,
    trained_context=1024,
    has_cache=True,
)
EACH = estimate_memory(SHAPE, REQUEST).compute_bytes + 400 * MIB
KV = kv_bytes_by_layer(SHAPE, REQUEST)[0]


def card(free_gib: float, total_gib: float = 80) -> GpuMemory:
    return GpuMemory("card", "GPU", int(free_gib * GIB), int(total_gib * GIB))


def weights(
    gpus: list[GpuMemory], split: GpuSplit, layers: int = 9999, *, offload_kv: bool = False
) -> list[int]:
    """Bytes on each GPU without what each has for itself; -1 where a GPU is not used."""
    need = plan_memory(SHAPE, REQUEST, layers, gpus, offload_kv=offload_kv, split=split)
    assert need.gpu_bytes == sum(need.by_gpu)
    return [size - EACH if size else -1 for size in need.by_gpu]


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        # Four slots, the output is the last; a slot goes where its part of the way lies.
        ((1, 1), [3, 12]),
        ((3, 1), [7, 8]),
        ((1, 3), [1, 14]),
        ((0.1, 0.9), [1, 14]),
        ((1,), [15, 0]),
        ((0, 1), [0, 15]),
        ((1, 1, 5), [3, 12]),
    ],
)
def test_layers_are_divided_by_the_tensor_split(
    shares: tuple[float, ...], expected: list[int]
) -> None:
    found = weights([card(40), card(40)], GpuSplit("layer", 0, shares))
    assert found == [size * GIB for size in expected]


@pytest.mark.parametrize("shares", [(), (0, 0)])
def test_without_a_tensor_split_layers_follow_the_free_memory(shares: tuple[float, ...]) -> None:
    split = GpuSplit("layer", 1, shares)
    assert weights([card(30), card(10)], split) == [7 * GIB, 8 * GIB]
    assert weights([card(10), card(30)], split) == [1 * GIB, 14 * GIB]
    assert weights([card(0), card(0)], split) == [3 * GIB, 12 * GIB]


def test_the_last_layers_are_the_ones_on_gpus_and_the_output_is_first_of_them() -> None:
    split = GpuSplit("layer", 0, (1, 1))
    gpus = [card(40), card(40)]
    assert weights(gpus, split, 1) == [8 * GIB, 0]
    assert weights(gpus, split, 2) == [4 * GIB, 8 * GIB]
    assert weights(gpus, split, 3) == [6 * GIB, 8 * GIB]


def test_a_layers_cache_is_where_the_layer_is() -> None:
    split = GpuSplit("layer", 0, (1, 1))
    gpus = [card(40), card(40)]
    assert weights(gpus, split, offload_kv=True) == [3 * GIB + 2 * KV, 12 * GIB + KV]
    recurrent = replace(SHAPE, state_bytes_per_slot=3 * MIB, kv_heads=(0, 0, 0))
    need = plan_memory(recurrent, REQUEST, 9999, gpus, split=split)
    assert [size - EACH for size in need.by_gpu] == [3 * GIB + 2 * MIB, 12 * GIB + MIB]


def test_rows_are_divided_and_caches_are_not() -> None:
    gpus = [card(40, 60), card(40, 20)]
    given = weights(gpus, GpuSplit("row", 0, (1, 2)), offload_kv=True)
    assert given == [pytest.approx(5 * GIB + 2 * KV, abs=8), pytest.approx(10 * GIB + KV, abs=8)]
    # Without shares: rows by the size of the cards, caches by what is free of them.
    found = weights(gpus, GpuSplit("row"), offload_kv=True)
    assert found == [int(11.25 * GIB) + 2 * KV, int(3.75 * GIB) + KV]


def test_split_none_uses_the_main_gpu_alone() -> None:
    gpus = [card(40), card(40), card(40)]
    assert weights(gpus, GpuSplit("none", 1, (1, 0, 0))) == [-1, 15 * GIB, -1]
    assert weights(gpus, GpuSplit("none")) == [15 * GIB, -1, -1]


def test_each_gpu_has_to_hold_its_own_part() -> None:
    memory = AvailableMemory(8 * GIB, (card(40), card(12)))
    need = plan_memory(SHAPE, REQUEST, 9999, memory.gpus, split=GpuSplit("layer", 0, (1, 1)))
    assert need.gpu_bytes < 52 * GIB
    assert not fits(need, memory)
    assert fits(need, AvailableMemory(8 * GIB, (card(40), card(13))))
    with_default = check_fits(SHAPE, REQUEST, memory, model="m", gpu_layers=9999)
    left = without(memory, with_default)
    assert [gpu.free_bytes for gpu in left.gpus] == [
        gpu.free_bytes - size for gpu, size in zip(memory.gpus, with_default.by_gpu, strict=True)
    ]
