from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apps.llamacpp.app import app
from apps.llamacpp.asked_memory import read_request
from apps.llamacpp.memory_fit import Fitted, check_memory
from common.errors import CapacityError, ModelFormatError
from common.models.footprint import ModelShape, read_shape
from common.models.gguf import read_model
from common.models.gpu_split import GpuSplit
from common.models.memory import AvailableMemory, GpuMemory, available_memory
from tests.llamacpp.samples import load, plan_of
from tests.models.gguf_files import write_gguf

MIB = 2**20
GIB = 2**30


@pytest.fixture
def shape(tmp_path: Path) -> ModelShape:
    return read_shape(read_model([write_gguf(tmp_path / "m.gguf")]))


def inspect(path: Path, **parameters: Any) -> list[str]:
    settings = load(**parameters)
    files: Any = SimpleNamespace(all=(path,))
    memory = available_memory({})
    return list(app().inspect(plan_of(settings, files=(path,)), files, settings, memory).lines)


@pytest.mark.parametrize(
    ("parameters", "context", "slots"),
    [
        ({}, 4096, 1),
        ({"parallel": "8"}, 4096, 1),
        ({"context_size": "512"}, 512, 4),
        ({"context_size": "512", "parallel": "2"}, 512, 2),
        ({"cli": "--ctx-size 1024 --parallel 2"}, 1024, 1),
        ({"cli": "--temp 1"}, 4096, 1),
    ],
)
def test_request_is_what_the_command_asks_for(
    shape: ModelShape, parameters: dict[str, str], context: int, slots: int
) -> None:
    asked = read_request(load(**parameters).models[0], shape)
    assert (asked.request.context, asked.request.slots) == (context, slots)


def test_cache_types_batches_and_layers_are_read_from_cli(shape: ModelShape) -> None:
    cli = "-ctk q8_0 --cache-type-v q4_0 -ub 64 -ngl 9 --no-kv-offload"
    asked = read_request(load(cli=cli).models[0], shape)
    assert (asked.request.cache_type_k, asked.request.cache_type_v) == ("q8_0", "q4_0")
    assert (asked.request.ubatch, asked.gpu_layers, asked.offload_kv) == (64, 9, False)


def test_a_context_larger_than_memory_is_refused_with_one_that_fits(shape: ModelShape) -> None:
    options = load(context_size="100000000", parallel="1").models[0]
    with pytest.raises(CapacityError) as caught:
        check_memory(options, shape, AvailableMemory(GIB), model="tiny")
    words = str(caught.value).split('Set "Context Size" to ')[1]
    fitting = load(context_size=words.split()[0].replace(",", ""), parallel="1").models[0]
    check_memory(fitting, shape, AvailableMemory(GIB), model="tiny")


def test_layers_left_open_are_split_between_gpu_and_host(shape: ModelShape) -> None:
    gpu = GpuMemory("g", "GPU-1", free_bytes=600 * 2**20, total_bytes=GIB)
    memory = AvailableMemory(GIB, (gpu,))
    big = load(context_size="262144", parallel="1")
    fitted = check_memory(big.models[0], shape, memory, model="tiny")
    assert 0 <= fitted.need.gpu_bytes <= gpu.free_bytes
    assert (fitted.flags, fitted.lines) == ({}, ())  # the engine does it by itself
    pinned = load(context_size="2621440", parallel="1", number_of_gpu_layers="9999")
    with pytest.raises(CapacityError):
        check_memory(pinned.models[0], shape, memory, model="tiny")


def card(free_mib: float, surplus_mib: float = 0) -> GpuMemory:
    return GpuMemory("g", "GPU", int(free_mib * MIB), 80 * GIB, int(surplus_mib * MIB))


# Eight layers of 100 MiB, 8 KiB of cache per token in each.
LARGE = ModelShape(
    architecture="llama",
    layer_bytes=(100 * MIB,) * 8,
    output_bytes=50 * MIB,
    input_bytes=50 * MIB,
    tied_bytes=0,
    kv_heads=(16,) * 8,
    windows=(0,) * 8,
    key_length=128,
    value_length=128,
    state_bytes_per_slot=0,
    heads=16,
    embedding_length=2048,
    feed_forward_length=4096,
    vocabulary=32_000,
    trained_context=32_768,
    has_cache=True,
)


def fit(memory: AvailableMemory, *, is_bound: bool = True, **parameters: Any) -> Fitted:
    options = load(**{"parallel": "1", **parameters}).models[0]
    return check_memory(options, LARGE, memory, model="large", is_bound=is_bound)


def test_a_bound_model_is_told_what_it_was_counted_with() -> None:
    memory = AvailableMemory(64 * GIB, (card(40_000),))
    fitted = fit(memory)
    assert fitted.flags == {"--ctx-size": "32768", "--gpu-layers": "9999"}
    assert fitted.lines == ()
    assert fit(memory, context_size="1024").flags == {"--gpu-layers": "9999"}
    assert fit(memory, context_size="1024", number_of_gpu_layers="4").flags == {}
    assert fit(memory, is_bound=False).flags == {}


def test_a_bound_model_gets_a_smaller_context_before_fewer_layers() -> None:
    fitted = fit(AvailableMemory(64 * GIB, (card(2500),)))
    context = int(fitted.flags["--ctx-size"])
    assert 4096 < context < 32_768
    assert fitted.flags["--gpu-layers"] == "9999"
    assert f"{context:,} tokens instead of 32,768" in fitted.lines[0]
    assert fitted.need.by_gpu[0] <= 2500 * MIB
    assert fitted.request.context == context
    # What was asked for stays, and so do the layers then go.
    kept = fit(AvailableMemory(64 * GIB, (card(2500),)), context_size="32768")
    assert int(kept.flags["--gpu-layers"]) < 8
    assert "--ctx-size" not in kept.flags


def test_a_bound_model_whose_layers_were_said_gets_a_smaller_context() -> None:
    said = {"number_of_gpu_layers": "9999"}
    fitted = fit(AvailableMemory(64 * GIB, (card(2500),)), **said)
    assert list(fitted.flags) == ["--ctx-size"]
    assert 4096 < int(fitted.flags["--ctx-size"]) < 32_768
    with pytest.raises(CapacityError, match="context of 4,096 tokens does not fit"):
        fit(AvailableMemory(64 * GIB, (card(1000),)), **said)
    with pytest.raises(CapacityError, match="context of 32,768 tokens does not fit"):
        fit(AvailableMemory(64 * GIB, (card(2500),)), is_bound=False, **said)


def test_a_bound_model_gets_fewer_layers_at_the_smallest_context() -> None:
    fitted = fit(AvailableMemory(64 * GIB, (card(1000),)))
    assert fitted.flags["--ctx-size"] == "4096"
    layers = int(fitted.flags["--gpu-layers"])
    assert 0 < layers < 9
    assert f"{layers} of 9 layers" in fitted.lines[1]
    assert fitted.need.by_gpu[0] <= 1000 * MIB


def test_a_budget_beyond_the_card_takes_layers_off_it_that_were_asked_for() -> None:
    asked = {"context_size": "1024", "number_of_gpu_layers": "9999"}
    with pytest.raises(CapacityError, match=r"on 1 GPU, where 1000\.0 MiB are free"):
        fit(AvailableMemory(64 * GIB, (card(1000),)), **asked)
    fitted = fit(AvailableMemory(64 * GIB, (card(1000, 1000),)), **asked)
    assert 0 < int(fitted.flags["--gpu-layers"]) < 9
    assert fitted.need.by_gpu[0] <= 1000 * MIB
    (line,) = fitted.lines
    assert "Max CUDA Memory" in line
    # Together with the surplus it has to fit; and the host has to have what is moved there.
    with pytest.raises(CapacityError, match="1.10 GiB are free"):
        fit(AvailableMemory(64 * GIB, (card(1000, 130),)), **asked)
    with pytest.raises(CapacityError, match="of host memory"):
        fit(AvailableMemory(250 * MIB, (card(1000, 1000),)), **asked)


@pytest.mark.parametrize(
    "parameters",
    [
        {"split_mode": "row", "main_gpu": "1", "tensor_split": "3, 2"},
        {"cli": "--split-mode row -mg 1 -ts 3/2"},
    ],
)
def test_the_split_is_read_from_the_form_and_from_cli(
    shape: ModelShape, parameters: dict[str, str]
) -> None:
    asked = read_request(load(**parameters).models[0], shape)
    assert asked.split == GpuSplit("row", 1, (3.0, 2.0))


@pytest.mark.parametrize(
    ("parameters", "maps"),
    [
        ({}, True),
        ({"no_mmap": "true"}, False),
        ({"cli": "--no-mmap"}, False),
        ({"cli": "--load-mode mlock"}, False),
        ({"cli": "--load-mode mmap+mlock"}, True),
        ({"cli": "--temp 1"}, True),
    ],
)
def test_whether_the_engine_maps_the_file(
    shape: ModelShape, parameters: dict[str, str], maps: bool
) -> None:
    assert read_request(load(**parameters).models[0], shape).maps_files is maps


def test_inspection_tells_what_the_planner_needs(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    settings = load(**{"General/enable_disk_swapping": "true", "parallel": "1"})
    files: Any = SimpleNamespace(all=(path,))
    memory = AvailableMemory(GIB, (card(4000), card(4000)))
    found = app().inspect(plan_of(settings, files=(path,)), files, settings, memory)
    assert found.fitted == {"--ctx-size": "4096", "--gpu-layers": "9999"}
    assert all(size > 400 * MIB for size in found.need.by_gpu)
    assert (found.weights_bytes, found.maps_files) == (2 * 8192 + 2 * 76_800, True)


def test_inspect_describes_the_model(tmp_path: Path) -> None:
    lines = inspect(write_gguf(tmp_path / "m.gguf"), context_size="1024", parallel="2")
    assert "llama, 2 layers" in lines[0]
    assert "context 1,024 tokens x 2 slots" in lines[1]
    assert len(lines) == 2


def test_inspect_warns_of_a_context_beyond_the_trained_one(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    lines = inspect(path, context_size="8192", parallel="1")
    assert "trained with 4,096 tokens" in lines[-1]
    stretched = inspect(path, context_size="8192", parallel="1", rope_scaling="2")
    assert not any("trained with" in line for line in stretched)


def test_inspect_notes_an_embedding_model_that_would_chat(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "e.gguf", arch="bert", metadata={"bert.pooling_type": 1})
    assert "embedding model" in inspect(path)[-1]
    assert not any("embedding model" in line for line in inspect(path, embedding="true"))


def test_inspect_refuses_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"<html>not a model</html>")
    with pytest.raises(ModelFormatError):
        inspect(path)
