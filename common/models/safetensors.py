"""The header of a safetensors file: which tensors it has, and whether it is whole.

The format: eight bytes with the header's length (little endian), the header (a JSON object, tensor
name to ``{"dtype", "shape", "data_offsets": [begin, end]}``), and the tensors' bytes. The file ends
where the last tensor does, so that a download that broke off is seen without reading the weights.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ModelFormatError, ModelNotFoundError
from common.models.progress import render_bytes

# The format's own limit.
_LARGEST_HEADER = 100 * 10**6
_STRANGERS = {
    b"version https://git-lfs": "a git-lfs pointer, not the file: run `git lfs pull`",
    b"<!doctype": "a web page, not the file",
    b"<html": "a web page, not the file",
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: its type in the format's words (``BF16``), its shape, its bytes."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it has; packed types hold several of the model's in one."""
        return math.prod(self.shape)


def read_safetensors(path: Path) -> Mapping[str, StoredTensor]:
    """Read a file's header and compare the file's length with it.

    Raises:
        ModelNotFoundError: The file cannot be opened.
        ModelFormatError: Not safetensors, damaged, or truncated; names the file and the lengths.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise ModelFormatError(f"{path} is truncated: it has {size} bytes and no header.")
            length = struct.unpack("<Q", start)[0]
            if length > min(_LARGEST_HEADER, size - 8):
                raise ModelFormatError(_not_safetensors(path, start + file.read(24), length, size))
            header = file.read(length)
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        entries: dict[str, Any] = json.loads(header)
        tensors = {
            name: _tensor(entry) for name, entry in entries.items() if name != "__metadata__"
        }
        end = max(
            (entry["data_offsets"][1] for name, entry in entries.items() if name in tensors),
            default=0,
        )
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ModelFormatError(f"{path} is damaged: its header is not safetensors'.") from error
    _check_length(path, size, 8 + length + end)
    return tensors


def count_parameters(tensors: Iterable[StoredTensor]) -> tuple[int, str]:
    """Count the numbers of tensors, and tell the type that most of their bytes have."""
    total = 0
    by_type: Counter[str] = Counter()
    for tensor in tensors:
        total += tensor.elements
        by_type[tensor.dtype] += tensor.size_bytes
    return total, by_type.most_common(1)[0][0] if by_type else ""


def _tensor(entry: Mapping[str, Any]) -> StoredTensor:
    begin, end = entry["data_offsets"]
    return StoredTensor(str(entry["dtype"]), tuple(map(int, entry["shape"])), int(end) - int(begin))


def _check_length(path: Path, size: int, expected: int) -> None:
    if size < expected:
        raise ModelFormatError(
            f"{path} is truncated: it has {render_bytes(size)} ({size:,} bytes) of "
            f"{render_bytes(expected)} ({expected:,}). Fetch or copy the file again."
        )
    if size > expected:
        raise ModelFormatError(
            f"{path} is damaged: it is {size - expected:,} bytes longer than its header says. Fetch "
            "or copy the file again."
        )


def _not_safetensors(path: Path, begin: bytes, length: int, size: int) -> str:
    for mark, words in _STRANGERS.items():
        if begin.lower().startswith(mark):
            return f"{path} is {words}."
    if length <= _LARGEST_HEADER and begin[8:9] in (b"{", b""):
        return (
            f"{path} is truncated: its header alone has {length:,} bytes, the file {size:,}. Fetch "
            "or copy the file again."
        )
    return f"{path} is not a safetensors file."
