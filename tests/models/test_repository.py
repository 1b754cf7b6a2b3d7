from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from common.errors import ModelFormatError
from common.models.repository import check_folder, check_weights, read_tensors, weights_bytes
from common.models.safetensors import count_parameters, read_safetensors
from tests.vllm.tiny_models import make_adapter, make_model, model_tensors, split_weights


def test_header_tells_tensors_and_sizes(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    tensors = read_safetensors(model / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == model_tensors()
    count, kind = count_parameters(tensors.values())
    assert kind == "BF16"
    assert weights_bytes(model) == 2 * count


def test_every_cut_of_a_file_is_noticed(tmp_path: Path) -> None:
    path = make_model(tmp_path / "m") / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for length in (0, 7, 8, header // 2, header, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFormatError, match=r"model\.safetensors is truncated"):
            read_safetensors(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(ModelFormatError, match="1 bytes longer than its header says"):
        read_safetensors(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "a web page"),
        (b"PK\x03\x04 an archive of PyTorch, not safetensors", "is not a safetensors file"),
        (struct.pack("<Q", 4) + b"[12]", "its header is not safetensors'"),
        (struct.pack("<Q", 10) + b'{"a": {}} ', "its header is not safetensors'"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=words):
        read_safetensors(path)


def test_shards_must_all_be_there(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    whole = set(read_tensors(model))
    shards = split_weights(model, parts=3)
    assert set(read_tensors(model)) == whole
    check_weights(model, "org/repo")
    shards[1].unlink()
    with pytest.raises(
        ModelFormatError, match=f"org/repo are incomplete: 1 of the 3 .*: {shards[1].name}"
    ):
        check_weights(model, "org/repo")


def test_weights_must_be_there(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    (model / "model.safetensors").unlink()
    check_folder(model, "org/repo")
    with pytest.raises(ModelFormatError, match="org/repo has no weights"):
        check_weights(model, "org/repo")
    (model / "pytorch_model.bin").write_bytes(b"x" * 10)
    check_weights(model, "org/repo")
    assert weights_bytes(model) == 10


def test_weights_of_mistral_are_counted_once(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    size = weights_bytes(model)
    (model / "consolidated.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    assert weights_bytes(model) == size


def test_adapter_is_checked_like_a_model(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a")
    check_folder(adapter, "a")
    check_weights(adapter, "a")
    (adapter / "adapter_config.json").write_text(json.dumps([1]))
    with pytest.raises(ModelFormatError, match="adapter_config.json of a is JSON, but no object"):
        check_folder(adapter, "a")
