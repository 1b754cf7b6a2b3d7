from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import CapacityError, ModelFormatError
from common.models.footprint import (
    CacheRequest,
    ModelShape,
    estimate_memory,
    kv_bytes_by_layer,
    read_shape,
)
from common.models.gguf import read_model
from common.models.gpu_split import check_fits, plan_memory
from common.models.memory import AvailableMemory, GpuMemory

from .gguf_files import write_gguf

MIB = 2**20
GIB = 2**30
CARD = GpuMemory("card", "GPU-0", free_bytes=8 * GIB, total_bytes=8 * GIB)


def shape_of(path: Path, **options: Any) -> ModelShape:
    return read_shape(read_model([write_gguf(path / "m.gguf", **options)]))


@pytest.mark.parametrize(
    ("request_", "kv_mib", "compute_mib"),
    [
        (CacheRequest(1024), 22.5, 15.64),
        (CacheRequest(8192), 180, 16.64),
        (CacheRequest(16384), 360, 30.64),
        (CacheRequest(65536), 1440, 78.64),
        (CacheRequest(1024, slots=8), 180, 15.64),
        (CacheRequest(8192, ubatch=256), 180, 11.32),
        (CacheRequest(8192, ubatch=1024), 180, 45.29),
        (CacheRequest(8192, flash_attention=False), 180, 167.51),
    ],
)
def test_estimate_covers_what_llama_cpp_reserves(
    smollm2: Path, request_: CacheRequest, kv_mib: float, compute_mib: float
) -> None:
    """The figures are those of the engine's own log for this model ("... buffer size = ...")."""
    estimate = estimate_memory(read_shape(read_model([smollm2])), request_)
    assert estimate.weights_bytes == 98362432 - 1785664
    assert estimate.kv_bytes == kv_mib * MIB
    assert compute_mib * MIB <= estimate.compute_bytes < (compute_mib + 12) * MIB
    assert estimate.total_bytes == sum(vars(estimate).values())


@pytest.mark.parametrize(
    ("cache_type", "bits"),
    [("f32", 32), ("f16", 16), ("bf16", 16), ("q8_0", 8.5), ("q5_1", 6), ("q5_0", 5.5)]
    + [("q4_1", 5), ("q4_0", 4.5), ("iq4_nl", 4.5)],
)
def test_cache_types_count_by_their_blocks(tmp_path: Path, cache_type: str, bits: float) -> None:
    shape = shape_of(tmp_path)
    # 2 layers, 2 KV heads of 64 / 4 = 16.
    values = 1024 * 2 * 2 * 16
    both = estimate_memory(
        shape, CacheRequest(1024, cache_type_k=cache_type, cache_type_v=cache_type)
    )
    assert both.kv_bytes == values * 2 * bits / 8
    one = estimate_memory(shape, CacheRequest(1024, cache_type_k=cache_type))
    assert one.kv_bytes == values * bits / 8 + values * 2


def test_unknown_cache_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'q3_k'"):
        estimate_memory(shape_of(tmp_path), CacheRequest(1024, cache_type_k="q3_k"))


def test_context_counts_per_slot_and_in_steps(tmp_path: Path) -> None:
    shape = shape_of(tmp_path)
    whole = estimate_memory(shape, CacheRequest(4096)).kv_bytes
    assert estimate_memory(shape, CacheRequest(1024, slots=4)).kv_bytes == whole
    assert estimate_memory(shape, CacheRequest(3841)).kv_bytes == whole


def test_heads_may_differ_by_layer_and_lengths_be_given(tmp_path: Path) -> None:
    shape = shape_of(
        tmp_path,
        metadata={"llama.attention.key_length": 32, "llama.attention.value_length": 8},
    )
    assert kv_bytes_by_layer(shape, CacheRequest(256)) == (256 * 2 * 40 * 2,) * 2
    path = tmp_path / "hybrid"
    hybrid = shape_of(path, arch="jamba", metadata={"jamba.ssm.inner_size": 128})
    assert hybrid.kv_heads == (2, 2)


def test_recurrent_layers_hold_a_state_for_every_slot(tmp_path: Path) -> None:
    ssm = {"inner_size": 128, "state_size": 16, "conv_kernel": 4, "group_count": 0}
    shape = shape_of(
        tmp_path, arch="mamba", metadata={f"mamba.ssm.{key}": value for key, value in ssm.items()}
    )
    per_layer = (3 * 128 + 128 * 16) * 4
    assert shape.state_bytes_per_slot == 2 * per_layer
    one = estimate_memory(shape, CacheRequest(256)).kv_bytes
    two = estimate_memory(shape, CacheRequest(256, slots=2)).kv_bytes
    assert two - one == shape.state_bytes_per_slot + sum(
        kv_bytes_by_layer(shape, CacheRequest(256))
    )


def test_sliding_window_counts_where_the_layers_are_known(tmp_path: Path) -> None:
    window = {"gemma2.attention.sliding_window": 512}
    shape = shape_of(tmp_path, arch="gemma2", metadata=window)
    assert shape.windows == (512, 0)
    windowed, whole = kv_bytes_by_layer(shape, CacheRequest(8192))
    assert windowed == whole * 1024 // 8192
    unknown = shape_of(
        tmp_path / "b", arch="newarch", metadata={"newarch.attention.sliding_window": 512}
    )
    assert unknown.windows == (0, 0)
    told = shape_of(
        tmp_path / "c",
        arch="newarch",
        metadata={
            "newarch.attention.sliding_window": 512,
            "newarch.attention.sliding_window_pattern": [False, True],
        },
    )
    assert told.windows == (0, 512)


def test_encoders_keep_no_cache(tmp_path: Path) -> None:
    shape = shape_of(tmp_path, arch="bert", metadata={"bert.attention.causal": False})
    assert estimate_memory(shape, CacheRequest(8192)).kv_bytes == 0


def test_file_without_layers_is_no_language_model(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", metadata={"llama.block_count": 0})
    with pytest.raises(ModelFormatError, match="how many layers"):
        read_shape(read_model([path]))


def test_plan_places_layers_as_the_engine_does(tmp_path: Path) -> None:
    layer, table = 64 * 64 * 2, 300 * 64 * 4
    shape = shape_of(tmp_path)
    assert (shape.layer_bytes, shape.output_bytes, shape.input_bytes) == (
        (layer, layer),
        table,
        table,
    )
    request = CacheRequest(1024)
    estimate = estimate_memory(shape, request)
    kv_layer = estimate.kv_bytes // 2
    none = plan_memory(shape, request, 0, [CARD])
    assert (none.gpu_bytes, none.by_gpu) == (0, ())
    # The output counts as the last layer.
    one, two = (plan_memory(shape, request, layers, [CARD]) for layers in (1, 2))
    all_of_it = plan_memory(shape, request, 9999, [CARD])
    kept = plan_memory(shape, request, 9999, [CARD], offload_kv=False)
    assert one.gpu_bytes == table + estimate.compute_bytes + 400 * MIB
    assert two.gpu_bytes - one.gpu_bytes == layer + kv_layer
    assert all_of_it.gpu_bytes - two.gpu_bytes == layer + kv_layer
    assert one.host_bytes - all_of_it.host_bytes == 2 * (layer + kv_layer)
    assert all_of_it.gpu_bytes - kept.gpu_bytes == 2 * kv_layer
    assert plan_memory(shape, request, 3, [CARD]) == all_of_it


def test_tied_embeddings_are_on_the_gpu_a_second_time(tmp_path: Path) -> None:
    table = np.ones((300, 64), dtype=np.float32)
    tied = shape_of(tmp_path, tensors={"token_embd.weight": table})
    request = CacheRequest(256)
    estimate = estimate_memory(tied, request)
    need = plan_memory(tied, request, 1, [CARD], offload_kv=False)
    assert need.gpu_bytes == table.nbytes + estimate.compute_bytes + 400 * MIB
    assert need.host_bytes == table.nbytes + estimate.kv_bytes + 150 * MIB


def test_context_larger_than_memory_is_refused_with_one_that_fits(smollm2: Path) -> None:
    shape = read_shape(read_model([smollm2]))
    memory = AvailableMemory(host_bytes=2 * GIB)
    request = CacheRequest(1_000_000, slots=2)
    with pytest.raises(CapacityError) as caught:
        check_fits(shape, request, memory, model="SmolLM2")
    message = str(caught.value)
    assert "SmolLM2 with a context of 1,000,000 tokens for each of 2 parallel requests" in message
    assert "2.00 GiB can be had" in message
    largest = int(message.split('"Context Size" to ')[1].split(" or less")[0].replace(",", ""))
    assert largest >= 8192
    check_fits(shape, CacheRequest(largest, slots=2), memory, model="SmolLM2")
    with pytest.raises(CapacityError):
        check_fits(shape, CacheRequest(largest + 256, slots=2), memory, model="SmolLM2")


def test_model_too_large_for_any_context_is_told(smollm2: Path) -> None:
    shape = read_shape(read_model([smollm2]))
    with pytest.raises(CapacityError, match="No context fits"):
        check_fits(shape, CacheRequest(4096), AvailableMemory(100 * MIB), model="SmolLM2")


def test_gpu_memory_limits_only_what_goes_there(smollm2: Path) -> None:
    shape = read_shape(read_model([smollm2]))
    small = GpuMemory("small", "GPU-1", free_bytes=600 * MIB, total_bytes=GIB)
    memory = AvailableMemory(8 * GIB, (small,))
    request = CacheRequest(8192)
    with pytest.raises(CapacityError, match="on 1 GPU, where 600.0 MiB are free"):
        check_fits(shape, request, memory, model="m", gpu_layers=9999)
    check_fits(shape, request, memory, model="m", gpu_layers=0)
    check_fits(shape, request, memory, model="m", gpu_layers=9999, offload_kv=False)
    two = AvailableMemory(8 * GIB, (small, small))
    check_fits(shape, request, two, model="m", gpu_layers=9999)
    # A machine without GPU runs on the host whatever the number of layers.
    check_fits(shape, request, AvailableMemory(8 * GIB), model="m", gpu_layers=9999)
