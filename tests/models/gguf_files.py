"""GGUF files for tests, written by the real writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np


def write_gguf(
    path: Path,
    *,
    arch: str = "llama",
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
    big_endian: bool = False,
) -> Path:
    """Write a small model; `metadata` is added by the value's type, under the architecture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    endian = gguf.GGUFEndian.BIG if big_endian else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(path, arch, endianess=endian)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_context_length(4096)
    writer.add_feed_forward_length(128)
    writer.add_token_list([f"token{number}" for number in range(300)])
    for key, value in (metadata or {}).items():
        add(writer, key, value)
    default = {
        "token_embd.weight": np.ones((300, 64), dtype=np.float32),
        "blk.0.attn_q.weight": np.ones((64, 64), dtype=np.float16),
        "blk.1.attn_q.weight": np.ones((64, 64), dtype=np.float16),
        "output.weight": np.ones((300, 64), dtype=np.float32),
    }
    for name, tensor in (default if tensors is None else tensors).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
