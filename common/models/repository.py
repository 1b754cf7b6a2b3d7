"""A model's folder as engines for safetensors load it: its configuration and its weights, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import ModelFormatError
from common.models.safetensors import StoredTensor, read_safetensors
from common.models.selection import CONFIGS

ADAPTER_CONFIG = "adapter_config.json"
"""What a LoRA adapter has in place of a model's ``config.json``."""

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PICKLED = ("*.bin", "*.pt", "*.pth")
_SHOWN = 3


def read_json(path: Path, what: str = "") -> dict[str, Any]:
    """Read a file that must be a JSON object.

    Args:
        path: The file.
        what: Whose file it is, for the error; empty = its own path.

    Raises:
        ModelFormatError: It cannot be read, or is none.
    """
    name = f"{path.name} of {what}" if what else str(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFormatError(f"{name} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ModelFormatError(f"{name} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelFormatError(f"{name} is JSON, but no object with the model's settings.")
    return value


def check_folder(folder: Path, text: str) -> None:
    """Refuse a folder whose configuration or weights are damaged; weights may be missing.

    Args:
        folder: A repository, or an adapter.
        text: The model as the user named it.

    Raises:
        ModelFormatError: Not JSON; a file of weights that is truncated or not safetensors.
    """
    for name in CONFIGS:
        if (folder / name).is_file():
            read_json(folder / name, text)
    for path in sorted(folder.rglob("*.safetensors")):
        if not _is_hidden(path.relative_to(folder)):
            read_safetensors(path)


def check_weights(folder: Path, text: str) -> None:
    """Refuse a folder without weights, or with some of them only.

    Raises:
        ModelFormatError: No weights, or files that the index names are missing; says which.
    """
    for name in _INDEXES:
        index = folder / name
        if not index.is_file() or (name != _INDEXES[0] and any(folder.glob("*.safetensors"))):
            continue
        parts = read_json(index, text).get("weight_map")
        names = sorted(set(map(str, parts.values()))) if isinstance(parts, Mapping) else []
        missing = [part for part in names if not (folder / part).is_file()]
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise ModelFormatError(
                f"The weights of {text} are incomplete: {len(missing)} of the {len(names)} files that "
                f"{name} names are missing: {', '.join(missing[:_SHOWN])}{more}."
            )
    if not any(folder.glob("*.safetensors")) and not any(
        path for pattern in _PICKLED for path in folder.glob(pattern)
    ):
        found = sorted(item.name for item in folder.iterdir())[:8]
        raise ModelFormatError(
            f"{text} has no weights: no .safetensors (or .bin, .pt) file is in {folder}, which has "
            f"{', '.join(found)}."
        )


def read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Read the headers of a folder's safetensors files: its tensors by name; none for pickled weights.

    Raises:
        ModelFormatError: A file is truncated or damaged.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        # Mistral's repositories have the same weights a second time, in their own form.
        if path.name.startswith("consolidated") and any(folder.glob("model*.safetensors")):
            continue
        tensors |= read_safetensors(path)
    return tensors


def weights_bytes(folder: Path) -> int:
    """The bytes of a folder's weights, whichever their format."""
    tensors = read_tensors(folder)
    if tensors:
        return sum(tensor.size_bytes for tensor in tensors.values())
    return sum(path.stat().st_size for pattern in _PICKLED for path in folder.glob(pattern))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
