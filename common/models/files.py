"""The files of one model on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelFiles:
    """What a fetch brings.

    Attributes:
        first: What the engine is given: the GGUF file, the first part of a split one, or the
            folder of a repository.
        all: Every file of the model, in order.
        size_bytes: Their sizes together.
        origin: Where it came from, in words: ``Hugging Face``, ``ClearML``, ``local``.
        name: The model's own name (of a ClearML model), where it has one.
        state_folder: Where use of these files is recorded; None for files outside our caches.
    """

    first: Path
    all: tuple[Path, ...]
    size_bytes: int
    origin: str
    name: str | None = None
    state_folder: Path | None = None
