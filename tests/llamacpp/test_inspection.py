from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apps.llamacpp.app import app
from apps.llamacpp.inspection import check_memory, read_request
from common.errors import CapacityError, ModelFormatError
from common.models.footprint import ModelShape, read_shape
from common.models.gguf import read_model
from common.models.memory import AvailableMemory, GpuMemory, available_memory
from tests.llamacpp.samples import load, plan_of
from tests.models.gguf_files import write_gguf

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
    need = check_memory(big.models[0], shape, memory, model="tiny")
    assert 0 <= need.gpu_bytes <= gpu.free_bytes
    pinned = load(context_size="2621440", parallel="1", number_of_gpu_layers="9999")
    with pytest.raises(CapacityError):
        check_memory(pinned.models[0], shape, memory, model="tiny")


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
