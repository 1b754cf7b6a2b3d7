"""A small reader of GGUF headers: metadata and tensor list, never the weights.

Layout (the GGUF specification of ggml, versions 2 and 3): the magic ``GGUF``, a u32 version, the
u64 counts of tensors and of metadata pairs, the pairs, one record per tensor, padding to
``general.alignment``, the tensor data. Version 3 also exists in big-endian.

The ``gguf`` package could read this too, but materialises every token of the vocabulary: two
seconds and 170 MB for 49,000 tokens, where this reader steps over arrays in milliseconds and
keeps a few kilobytes. Its `GGUFWriter` and `GGUFReader` are what the tests compare with.

Every length is checked against the size of the file before it is used, so that a damaged or
hostile file costs neither memory nor time.
"""

from __future__ import annotations

import math
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from common.errors import ModelFormatError, ModelNotFoundError
from common.models.progress import render_bytes

# ggml_type -> (name, elements per block, bytes per block), from ggml's type traits.
TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}

# Metadata value types: number -> struct format of one value.
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING = 8
_ARRAY = 9

# Far above any real model (the largest have some 2,000 tensors and 100 pairs); they bound memory.
_MAX_PAIRS = 65_536
_MAX_TENSORS = 262_144
_MAX_KEY_BYTES = 65_535
_MAX_STRING_BYTES = 16 * 2**20
_MAX_ARRAY_STRINGS = 16_000_000
# Per-layer settings are arrays of one number per layer; vocabularies are longer and skipped.
_MAX_KEPT_ARRAY = 4_096
_MAX_ARRAY_DEPTH = 3
_MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class SkippedArray:
    """An array of metadata that was stepped over (vocabularies): only its length is known."""

    count: int


Value: TypeAlias = "int | float | bool | str | tuple[int | float | bool, ...] | SkippedArray"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: `n_bytes` is None for a type this table does not know yet."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int
    n_bytes: int | None

    @property
    def type_name(self) -> str:
        """The type in ggml's words."""
        known = TENSOR_TYPES.get(self.type_id)
        return known[0] if known else f"type {self.type_id}"


@dataclass(frozen=True)
class GgufHeader:
    """What one GGUF file says of itself.

    Attributes:
        path: The file.
        version: 2 or 3.
        is_big_endian: Byte order of the file.
        metadata: Pairs by key; long arrays are `SkippedArray`.
        tensors: In the file's order.
        data_offset: Where tensor data begins, in bytes.
        file_size: Size on disk, in bytes.
    """

    path: Path
    version: int
    is_big_endian: bool
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int

    @property
    def architecture(self) -> str:
        """``general.architecture``, empty where missing."""
        return self.text("general.architecture")

    @property
    def split_count(self) -> int:
        """Number of files the model is split into; 1 for a whole one."""
        return max(self.number("split.count") or 1, 1)

    @property
    def split_no(self) -> int:
        """Number of this part, from 0."""
        return self.number("split.no") or 0

    @property
    def context_length(self) -> int | None:
        """The context the model was trained for, in tokens."""
        return self.number(f"{self.architecture}.context_length")

    @property
    def data_bytes(self) -> int:
        """Bytes of tensor data in this file."""
        return self.file_size - self.data_offset if self.tensors else 0

    def text(self, key: str) -> str:
        """Return a string of the metadata, empty where it is missing or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """Return an integer of the metadata, None where it is missing or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of one GGUF file. Blocks for milliseconds.

    Raises:
        ModelNotFoundError: No such file.
        ModelFormatError: Not a file, empty, not GGUF (says what it is instead), an unknown
            version, damaged, or shorter than its own tensor list says.
    """
    try:
        if path.is_dir():
            raise ModelFormatError(f"{path} is a folder; a GGUF model is a file.")
        with path.open("rb") as stream:
            return _Reader(stream, path).read()
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"The model file {path} does not exist.") from error
    except OSError as error:
        raise ModelFormatError(
            f"The model file {path} cannot be read: {error.strerror}."
        ) from error


def read_model(
    paths: Sequence[Path], *, known_architectures: frozenset[str] | None = None
) -> tuple[GgufHeader, ...]:
    """Read the headers of all parts of one model, the first part first, and check them together.

    Args:
        paths: The file, or every part of a split model.
        known_architectures: What the engine can load; None when that is not known beforehand.

    Raises:
        ModelNotFoundError: A file is missing.
        ModelFormatError: As `read_header`; also a part too few, a byte order this machine does
            not have, no architecture, or one the engine does not know.
    """
    headers = tuple(sorted((read_header(path) for path in paths), key=lambda part: part.split_no))
    first = headers[0]
    if first.split_count != len(headers):
        raise ModelFormatError(
            f"{first.path.name} is part {first.split_no + 1} of a model split into "
            f"{first.split_count} files, and {len(headers)} of them "
            f"{'is' if len(headers) == 1 else 'are'} there. Put all parts into one folder."
        )
    for number, part in enumerate(headers):
        if part.split_no != number and len(headers) > 1:
            raise ModelFormatError(
                f"Part {number + 1} of the split model {first.path.name} is missing: "
                f"{part.path.name} says that it is part {part.split_no + 1}."
            )
        if part.is_big_endian != (sys.byteorder == "big"):
            order = "big" if part.is_big_endian else "little"
            raise ModelFormatError(
                f"{part.path} is a {order}-endian GGUF file, and this machine is "
                f"{sys.byteorder}-endian. Get the file converted for this machine."
            )
    if not first.architecture:
        raise ModelFormatError(
            f"{first.path} does not name its architecture, so no engine can load it."
        )
    if known_architectures is not None and first.architecture not in known_architectures:
        raise ModelFormatError(
            f"{first.path.name} is a model of the architecture {first.architecture!r}, which the "
            "engine in use does not know. Use a newer engine or another model."
        )
    return headers


class _Reader:
    """Reads one header; a class only to carry the position's bounds and the byte order."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._size = os.fstat(stream.fileno()).st_size
        self._order = "<"

    def read(self) -> GgufHeader:
        self._check_magic()
        version = self._read_version()
        tensor_count, pair_count = self._unpack("QQ")
        # A pair has at least 8 + 4 + 1 bytes, a tensor 8 + 4 + 4 + 8.
        self._check_count("metadata pairs", pair_count, 13, _MAX_PAIRS)
        self._check_count("tensors", tensor_count, 24, _MAX_TENSORS)
        metadata: dict[str, Value] = {}
        for _ in range(pair_count):
            key = self._string("a key", _MAX_KEY_BYTES)
            (kind,) = self._unpack("I")
            metadata[key] = self._value(kind, key)
        tensors = tuple(self._tensor() for _ in range(tensor_count))
        data_offset = self._data_offset(metadata)
        self._check_end(tensors, data_offset)
        return GgufHeader(
            path=self._path,
            version=version,
            is_big_endian=self._order == ">",
            metadata=metadata,
            tensors=tensors,
            data_offset=data_offset,
            file_size=self._size,
        )

    def _check_magic(self) -> None:
        head = self._stream.read(256)
        self._stream.seek(4)
        if head[:4] == b"GGUF":
            return
        if not head:
            raise ModelFormatError(f"The model file {self._path} is empty (0 bytes).")
        found = recognise(head)
        raise ModelFormatError(
            f"{self._path} is not a GGUF file: {found or f'it begins with {head[:8]!r}'}. "
            "llama.cpp loads GGUF files only."
        )

    def _read_version(self) -> int:
        (version,) = self._unpack("I")
        if version & 0xFFFF == 0 and version:
            self._order = ">"
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise ModelFormatError(
                f"{self._path} has GGUF version {version}; versions 2 and 3 can be loaded. "
                "Convert the model again."
            )
        return int(version)

    def _value(self, kind: int, key: str) -> Value:
        if kind == _STRING:
            return self._string(key, _MAX_STRING_BYTES)
        if kind == _ARRAY:
            return self._array(key, 1)
        return self._scalar(kind, key)

    def _scalar(self, kind: int, key: str) -> int | float | bool:
        code = self._code(kind, key)
        value: int | float | bool = self._unpack(code)[0]
        return value

    def _code(self, kind: int, key: str) -> str:
        code = _SCALARS.get(kind)
        if code is None:
            raise self._damaged(f"{key!r} has the unknown type {kind}")
        return code

    def _array(self, key: str, depth: int) -> Value:
        kind, count = self._unpack("IQ")
        if kind == _ARRAY:
            if depth >= _MAX_ARRAY_DEPTH:
                raise self._damaged(f"{key!r} has arrays nested deeper than {_MAX_ARRAY_DEPTH}")
            self._check_count(f"arrays in {key!r}", count, 12, _MAX_PAIRS)
            for _ in range(count):
                self._array(key, depth + 1)
            return SkippedArray(count)
        if kind == _STRING:
            self._check_count(f"strings in {key!r}", count, 8, _MAX_ARRAY_STRINGS)
            self._skip_strings(count)
            return SkippedArray(count)
        code = self._code(kind, key)
        width = struct.calcsize(code)
        self._check_count(f"values in {key!r}", count, width, self._size)
        if count > _MAX_KEPT_ARRAY:
            self._stream.seek(count * width, os.SEEK_CUR)
            return SkippedArray(count)
        return tuple(self._unpack(f"{count}{code}"))

    def _skip_strings(self, count: int) -> None:
        # The hot loop of the reader (a vocabulary has 100,000 entries and more), hence the locals.
        stream, unpack = self._stream, struct.Struct(f"{self._order}Q").unpack
        try:
            for _ in range(count):
                (length,) = unpack(stream.read(8))
                if length > _MAX_STRING_BYTES:
                    raise self._damaged(f"it has a string of {length} bytes")
                stream.seek(length, os.SEEK_CUR)
        except struct.error as error:
            raise self._truncated_header() from error
        if stream.tell() > self._size:
            raise self._truncated_header()

    def _string(self, what: str, limit: int) -> str:
        (length,) = self._unpack("Q")
        if length > limit:
            raise self._damaged(f"{what!r} has {length} bytes, more than the {limit} allowed")
        return self._take(length).decode("utf-8", "replace")

    def _tensor(self) -> TensorInfo:
        name = self._string("a tensor's name", _MAX_KEY_BYTES)
        (dimensions,) = self._unpack("I")
        if dimensions > _MAX_DIMENSIONS:
            raise self._damaged(f"the tensor {name[:80]!r} has {dimensions} dimensions")
        shape = self._unpack(f"{dimensions}Q")
        type_id, offset = self._unpack("IQ")
        known = TENSOR_TYPES.get(type_id)
        n_bytes = None
        if known:
            _, block, size = known
            n_bytes = -(-math.prod(shape) // block) * size
        return TensorInfo(name, tuple(shape), type_id, offset, n_bytes)

    def _data_offset(self, metadata: Mapping[str, Value]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise self._damaged(f"its alignment is {alignment!r}, not a power of two")
        return -(-self._stream.tell() // alignment) * alignment

    def _check_end(self, tensors: tuple[TensorInfo, ...], data_offset: int) -> None:
        # A tensor of an unknown type reaches at least to its own start.
        end = max((item.offset + (item.n_bytes or 0) for item in tensors), default=0)
        needed = data_offset + end
        if tensors and needed > self._size:
            raise ModelFormatError(
                f"{self._path} is truncated: its tensors need {needed:,} bytes "
                f"({render_bytes(needed)}) and the file has {self._size:,}. Delete it and download "
                "it again."
            )

    def _check_count(self, what: str, count: int, least_bytes: int, limit: int) -> None:
        if count > limit:
            raise self._damaged(f"it claims {count} {what}")
        if count * least_bytes > self._size - self._stream.tell():
            raise self._truncated_header(f" it claims {count} {what}, for which it is too short;")

    def _unpack(self, code: str) -> tuple[int, ...]:
        # Standard sizes without padding, because the order is always given.
        layout = struct.Struct(self._order + code)
        return layout.unpack(self._take(layout.size))

    def _take(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise self._truncated_header()
        return data

    def _truncated_header(self, detail: str = "") -> ModelFormatError:
        return ModelFormatError(
            f"{self._path} is truncated within its header (the file has {self._size:,} bytes):"
            f"{detail or ' the metadata goes on behind its end;'} delete it and get it again."
        )

    def _damaged(self, what: str) -> ModelFormatError:
        return ModelFormatError(f"{self._path} is a damaged GGUF file: {what}. Get it again.")


def recognise(head: bytes) -> str | None:
    """Say what a file is from its first bytes, None when they tell nothing."""
    start = head.lstrip()[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, as servers send instead of a file (a log-in or an error page)"
    if head.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer; the file itself was not fetched (run `git lfs pull`)"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**28:
        return "it is a safetensors file; it must be converted to GGUF first"
    if head.startswith(b"PK\x03\x04"):
        return "it is a ZIP archive (PyTorch writes its checkpoints as one)"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "it is a Python pickle (an older PyTorch checkpoint)"
    if head[:4] in (b"lmgg", b"tjgg", b"fmgg", b"algg"):
        return "it is a file of the GGML format that came before GGUF; convert the model again"
    if head.startswith(b"\x1f\x8b"):
        return "it is compressed with gzip"
    if start.startswith((b"{", b"[")):
        return "it is JSON text"
    if not head.strip(b"\0"):
        return "it is full of zeros, as an interrupted copy leaves it"
    return None
