"""Memory that models took when they were loaded before: measured, and kept beside the model cache.

A model's memory is estimated from its files before its first load. After a load it is measured, and the
figures are kept per model, device and options: a small JSON file each, in the folder of ours beside the
cache. Of the last measurements the largest of each pool counts, so that one which came too late or too
early is forgotten after some loads.

Files are replaced as a whole; of two instances that write at the same time the last one wins, which
loses one measurement. A damaged file is as good as none. The newest files are kept, a fixed number.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.models.files import ModelFiles
from common.models.hub import HubSettings

KEPT_FILES = 256
"""So many footprints are kept in one cache; those not written for the longest time go."""
KEPT_MEASUREMENTS = 5
"""So many measurements of one footprint count."""

_FORMAT = 1
_LARGEST_FILE = 64 * 2**10
# A figure beyond this is damage: no machine has an exbibyte.
_LARGEST_SIZE = 2**60
# Flags with one value that says nothing about memory, or another at each start.
_NO_MEMORY_FLAGS = frozenset(
    {
        *("--uds", "--host", "--port", "--alias", "--served-model-name", "--api-key"),
        *("--threads", "--threads-batch", "--model", "-m", "--slot-save-path", "--log-file"),
    }
)


@dataclass(frozen=True)
class FootprintKey:
    """What a measurement holds for.

    Attributes:
        model: The reference, as the user gave it.
        files: Name and size in bytes of each file.
        devices: Names of the GPUs that the instance may use, in their order; empty: host RAM.
        options: `options_digest` of the engine's command.
        engine: The engine and its version.
    """

    model: str
    files: tuple[tuple[str, int], ...]
    devices: tuple[str, ...]
    options: str
    engine: str = ""

    @property
    def asleep(self) -> FootprintKey:
        """The key of what the same engine was measured to hold while it slept."""
        return replace(self, options=f"{self.options} asleep")

    @property
    def digest(self) -> str:
        """The name of its file."""
        text = json.dumps([self.model, self.files, self.devices, self.options, self.engine])
        return hashlib.sha256(text.encode()).hexdigest()[:40]


def learned_folder(files: ModelFiles) -> Path:
    """The folder of ours for a model: beside its cache, or beside the hub's for files in neither cache."""
    return files.state_folder or HubSettings.from_environment().state_folder


def footprint_key(
    reference: str,
    files: ModelFiles,
    devices: Sequence[str],
    options: str,
    engine: str = "",
) -> FootprintKey:
    """The key of a model's measurements. Blocks for the sizes of its files.

    Args:
        reference: As the user gave it.
        files: The model's files.
        devices: See `FootprintKey`.
        options: See `FootprintKey`.
        engine: See `FootprintKey`.
    """
    sizes = []
    for path in files.all:
        with contextlib.suppress(OSError):
            sizes.append((path.name, path.stat().st_size))
    return FootprintKey(reference, tuple(sorted(sizes)), tuple(devices), options, engine)


def options_digest(argv: Sequence[str], private: Collection[str] = ()) -> str:
    """A digest of an engine's command that is the same at its next start. Pure.

    Left out are addresses, keys, names and paths: flags that are known for it, and the words of
    `private`.

    Args:
        argv: The command; its first word, the program, is left out.
        private: Words that differ between starts, or that are nobody's business: the files' paths,
            the socket, a key.
    """
    hidden = frozenset(private)
    kept: list[str] = []
    skip = False
    for word in argv[1:]:
        name, equals, _ = word.partition("=")
        if skip or word in hidden:
            skip = False
        elif name in _NO_MEMORY_FLAGS:
            skip = not equals
        else:
            kept.append(word)
    return hashlib.sha256("\0".join(kept).encode()).hexdigest()[:16]


class LearnedFootprints:
    """The measurements that are kept in one folder. Every call blocks for milliseconds.

    A folder that cannot be read or written is one in which nothing is learned.

    Args:
        state_folder: The folder of ours beside a model cache (`ModelFiles.state_folder`).
        kept: So many files stay.
    """

    def __init__(self, state_folder: Path, kept: int = KEPT_FILES) -> None:
        self._folder = state_folder / "footprints"
        self._kept = kept

    def find(self, key: FootprintKey) -> dict[str, int] | None:
        """Bytes by pool of an engine that answers; None: it was never measured."""
        largest: dict[str, int] = {}
        for measured in self._read(key):
            for pool, size in measured.items():
                largest[pool] = max(size, largest.get(pool, 0))
        return largest or None

    def learn(self, key: FootprintKey, measured: Mapping[str, int]) -> None:
        """Keep a measurement.

        Args:
            key: What it holds for.
            measured: Bytes by pool; nothing is kept of a measurement without any.
        """
        sizes = {pool: int(size) for pool, size in measured.items() if 0 < size < _LARGEST_SIZE}
        if not sizes:
            return
        content = {
            "format": _FORMAT,
            "model": key.model,
            "devices": list(key.devices),
            "engine": key.engine,
            "measured": [*self._read(key), sizes][-KEPT_MEASUREMENTS:],
        }
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            _replace(self._path(key), json.dumps(content))
            self._forget()

    def _path(self, key: FootprintKey) -> Path:
        return self._folder / f"{key.digest}.json"

    def _read(self, key: FootprintKey) -> list[dict[str, int]]:
        try:
            with self._path(key).open("rb") as file:
                content = json.loads(file.read(_LARGEST_FILE))
        except (OSError, ValueError, RecursionError):
            return []
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            return []
        measured = content.get("measured")
        if not isinstance(measured, list):
            return []
        return [item for item in measured if _is_measurement(item)][-KEPT_MEASUREMENTS:]

    def _forget(self) -> None:
        found = []
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(found)[: -self._kept or None]:
            with contextlib.suppress(OSError):
                path.unlink()


def best_estimate(estimate: Mapping[str, int], learned: Mapping[str, int] | None) -> dict[str, int]:
    """What a model is expected to take, bytes by pool. Pure.

    On GPUs what was measured counts, where the driver told anything: engines take their memory there
    at the start. In host RAM it is the larger of both: pages of a KV cache are touched as late as the
    first long request.
    """
    told = learned or {}
    of_gpus = {pool: size for pool, size in told.items() if pool.startswith("gpu")}
    best = dict(of_gpus or {p: s for p, s in estimate.items() if p.startswith("gpu")})
    for pool, size in estimate.items():
        if not pool.startswith("gpu"):
            best[pool] = max(size, told.get(pool, 0))
    return best


def _is_measurement(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and bool(item)
        and all(
            isinstance(pool, str)
            and isinstance(size, int)
            and not isinstance(size, bool)
            and 0 < size < _LARGEST_SIZE
            for pool, size in item.items()
        )
    )


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
