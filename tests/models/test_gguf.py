from __future__ import annotations

import pickle
import random
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES

from common.errors import ModelFormatError, ModelNotFoundError
from common.models.gguf import TENSOR_TYPES, SkippedArray, read_header, read_model

from .gguf_files import write_gguf


def test_reads_the_real_model_as_the_reference_reader_does(smollm2: Path) -> None:
    ours = read_header(smollm2)
    theirs = gguf.GGUFReader(smollm2)

    assert ours.data_offset == theirs.data_offset
    assert [
        (item.name, item.shape, item.type_name, item.n_bytes, ours.data_offset + item.offset)
        for item in ours.tensors
    ] == [
        (item.name, tuple(item.shape), item.tensor_type.name, item.n_bytes, item.data_offset)
        for item in theirs.tensors
    ]
    names = [name for name in theirs.fields if not name.startswith("GGUF.")]
    assert set(ours.metadata) == set(names)
    for name in names:
        value = ours.metadata[name]
        if isinstance(value, SkippedArray):
            assert value.count == len(theirs.fields[name].data)
        else:
            assert value == pytest.approx(theirs.fields[name].contents())
    assert ours.architecture == "llama"
    assert ours.context_length == 8192


def test_reading_takes_little_time_and_memory(smollm2: Path) -> None:
    tracemalloc.start()
    started = time.monotonic()
    read_header(smollm2)
    elapsed = time.monotonic() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The reference reader needs 2 s and 170 MB for this file.
    assert elapsed < 1.5
    assert peak < 3 * 2**20


def test_block_sizes_are_those_of_ggml() -> None:
    assert {number: (name, *sizes) for number, (name, *sizes) in TENSOR_TYPES.items()} == {
        int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()
    }


def test_reads_every_kind_of_value(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -3)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -300)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -5)
    writer.add_uint64("u64", 2**63)
    writer.add_int64("i64", -(2**62))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "größer")
    writer.add_array("few", [1, 2, 3])
    writer.add_array("flags", [True, False])
    writer.add_array("many", list(range(5000)))
    writer.add_array("words", ["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    found = read_header(path).metadata
    assert {key: found[key] for key in found if not key.startswith(("general.", "split."))} == {
        "u8": 200,
        "i8": -3,
        "u16": 60000,
        "i16": -300,
        "u32": 4_000_000_000,
        "i32": -5,
        "u64": 2**63,
        "i64": -(2**62),
        "f32": 0.5,
        "f64": 0.1,
        "yes": True,
        "text": "größer",
        "few": (1, 2, 3),
        "flags": (True, False),
        "many": SkippedArray(5000),
        "words": SkippedArray(2),
    }


def test_split_model_needs_all_its_parts(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
    writer.add_block_count(1)
    for number in range(5):
        writer.add_tensor(f"blk.0.t{number}", np.ones((32, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) == 3

    headers = read_model([parts[2], parts[0], parts[1]])
    assert [(item.split_no, item.split_count) for item in headers] == [(0, 3), (1, 3), (2, 3)]
    assert sum(len(item.tensors) for item in headers) == 5
    with pytest.raises(ModelFormatError, match="split into 3 files, and 2 of them are there"):
        read_model(parts[:2])
    with pytest.raises(ModelFormatError, match="Part 2 of the split model"):
        read_model([parts[0], parts[2], parts[2]])


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"nothing\.gguf does not exist"):
        read_header(tmp_path / "nothing.gguf")
    with pytest.raises(ModelFormatError, match="is a folder"):
        read_header(tmp_path)


def zip_bytes(folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr("data.pkl", b"x")
    return (folder / "x.zip").read_bytes()


def test_other_formats_are_named(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    contents = {
        "is empty": b"",
        "safetensors": struct.pack("<Q", len(header)) + header + b"\0" * 4,
        "ZIP archive": zip_bytes(tmp_path),
        "pickle": pickle.dumps({"a": 1}, protocol=2),
        "web page": b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
        "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "GGML format": b"tjgg" + b"\0" * 100,
        "gzip": b"\x1f\x8b\x08\x00" + b"\0" * 20,
        "JSON": b'{"error": "not found"}',
        "full of zeros": b"\0" * 5000,
        "begins with b'hello wo'": b"hello world, this is no model",
    }
    for words, content in contents.items():
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        with pytest.raises(ModelFormatError) as caught:
            read_header(path)
        assert words in str(caught.value)
        assert str(path) in str(caught.value)


def test_truncated_in_the_weights_is_told_with_the_numbers(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    content = path.read_bytes()
    needed = read_header(path)
    end = needed.data_offset + max(item.offset + (item.n_bytes or 0) for item in needed.tensors)
    for size in (end - 1, end // 2, needed.data_offset):
        path.write_bytes(content[:size])
        with pytest.raises(ModelFormatError) as caught:
            read_header(path)
        assert "is truncated" in str(caught.value)
        assert f"{end:,}" in str(caught.value)
        assert f"{size:,}" in str(caught.value)


def test_truncated_in_the_header_at_every_length(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    content = path.read_bytes()
    end = read_header(path).data_offset
    for size in [*range(1, 400), *range(400, end, 97)]:
        path.write_bytes(content[:size])
        with pytest.raises(ModelFormatError):
            read_header(path)


def test_unsupported_versions(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    content = bytearray(path.read_bytes())
    for version in (0, 1, 4):
        content[4:8] = struct.pack("<I", version)
        path.write_bytes(content)
        with pytest.raises(ModelFormatError, match=f"GGUF version {version};"):
            read_header(path)


def test_big_endian_is_read_and_refused_by_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", big_endian=True)
    header = read_header(path)
    assert header.is_big_endian
    assert header.architecture == "llama"
    assert header.context_length == 4096
    with pytest.raises(ModelFormatError, match="big-endian GGUF file"):
        read_model([path])


def test_architecture_is_checked_against_the_engine(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", arch="mamba9")
    assert read_model([path])[0].architecture == "mamba9"
    with pytest.raises(ModelFormatError, match="'mamba9', which the engine"):
        read_model([path], known_architectures=frozenset({"llama"}))


def gguf_head(tensors: int, pairs: int, rest: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + rest


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def test_hostile_lengths_cost_nothing(tmp_path: Path) -> None:
    huge = 2**63 - 1
    nested = text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 60
    contents = {
        "pairs": gguf_head(0, huge, b""),
        "tensors": gguf_head(huge, 0, b""),
        "key": gguf_head(0, 1, text(b"k", huge)),
        "string": gguf_head(0, 1, text(b"k") + struct.pack("<I", 8) + text(b"x", huge)),
        "array": gguf_head(0, 1, text(b"k") + struct.pack("<IIQ", 9, 4, huge)),
        "strings": gguf_head(0, 1, text(b"k") + struct.pack("<IIQ", 9, 8, huge)),
        "one long": gguf_head(0, 1, text(b"k") + struct.pack("<IIQQ", 9, 8, 1, huge)),
        "nested": gguf_head(0, 1, nested),
        "type": gguf_head(0, 1, text(b"k") + struct.pack("<I", 99)),
        "dimensions": gguf_head(1, 0, text(b"t") + struct.pack("<I", 10**6)),
        "offset": gguf_head(1, 0, text(b"t") + struct.pack("<IQIQ", 1, 1, 0, huge)),
        "shape": gguf_head(1, 0, text(b"t") + struct.pack("<IQQIQ", 2, huge, huge, 0, 0)),
        "alignment": gguf_head(0, 1, text(b"general.alignment") + struct.pack("<II", 4, 0)),
    }
    path = tmp_path / "a.gguf"
    tracemalloc.start()
    for content in contents.values():
        path.write_bytes(content + b"\0" * 64)
        with pytest.raises(ModelFormatError):
            read_header(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * 2**20


def test_damaged_files_only_ever_raise_our_error(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    content = path.read_bytes()
    end = read_header(path).data_offset
    chance = random.Random(7)
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(4, end)] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            read_header(path)
        except ModelFormatError:
            refused += 1
    assert refused > 50
