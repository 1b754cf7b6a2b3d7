"""What models are cached on this machine, and which of them to remove.

Two caches: the Hugging Face hub's, shared with every other program that uses it, and the folder of
the ClearML SDK's cache that is ours alone. An entry is one model: a GGUF file with all its parts,
or the rest of a repository at one commit.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.models.hub import HubSettings, library
from common.models.selection import split_part
from common.models.use import exclusive, last_use, use_file


@dataclass(frozen=True)
class CachedModel:
    """One model in a cache.

    Attributes:
        name: ``org/repo/file.gguf``, or the file's name in the ClearML cache.
        origin: ``Hugging Face`` or ``ClearML``.
        revision: Commit on Hugging Face, empty otherwise.
        size_bytes: On disk; what other entries share with it is counted with each.
        last_used_at: Unix time: of the last use by this program, else of the download.
        is_ours: Whether this program ever used it. Others' models are removed on request only,
            since nothing tells whether another program uses them now.
        is_in_use: Whether an instance serves it now.
        paths: The entries of the cache to remove (links, files, folders).
        files: The real files behind them.
        state_folder: Where their use is recorded.
    """

    name: str
    origin: str
    revision: str
    size_bytes: int
    last_used_at: float
    is_ours: bool
    is_in_use: bool
    paths: tuple[Path, ...]
    files: tuple[Path, ...]
    state_folder: Path


@dataclass(frozen=True)
class PruneResult:
    """What a prune did, or would do.

    Attributes:
        removed: In the order of removal, least recently used first.
        kept_in_use: Would have gone but for an instance that serves them.
        freed_bytes: Of the removed.
        left_bytes: Of what stays, others' models left out unless asked for.
    """

    removed: tuple[CachedModel, ...]
    kept_in_use: tuple[CachedModel, ...]
    freed_bytes: int
    left_bytes: int


def list_cached(
    settings: HubSettings | None = None, clearml_cache: Path | None = None
) -> tuple[CachedModel, ...]:
    """List every model in both caches, most recently used first. Blocks: it walks the folders.

    Args:
        settings: Of the hub cache; None = from the environment.
        clearml_cache: Our folder of the SDK's cache; None = as the SDK is configured.
    """
    settings = settings or HubSettings.from_environment()
    found = [*_hub_models(settings), *_clearml_models(clearml_cache)]
    return tuple(sorted(found, key=lambda model: -model.last_used_at))


def plan_prune(
    models: Iterable[CachedModel], keep_bytes: int, *, all_programs: bool = False
) -> tuple[CachedModel, ...]:
    """Choose what to remove so that the most recently used `keep_bytes` stay. Pure.

    A model in use stays and counts; what was used after a removed one may stay if it still fits.
    """
    candidates = [model for model in models if model.is_ours or all_programs]
    left = keep_bytes - sum(model.size_bytes for model in candidates if model.is_in_use)
    removed = []
    for model in sorted(candidates, key=lambda item: -item.last_used_at):
        if model.is_in_use:
            continue
        left -= model.size_bytes
        if left < 0:
            removed.append(model)
    return tuple(reversed(removed))


def prune(
    keep_bytes: int,
    *,
    dry_run: bool = False,
    all_programs: bool = False,
    settings: HubSettings | None = None,
    clearml_cache: Path | None = None,
) -> PruneResult:
    """Remove the least recently used models until the rest fits `keep_bytes`.

    Never one that an instance serves: removal needs the exclusive lock of all its files, and
    holds it meanwhile. Interrupted downloads count as models.
    """
    settings = settings or HubSettings.from_environment()
    models = list_cached(settings, clearml_cache)
    considered = [model for model in models if model.is_ours or all_programs]
    removed: list[CachedModel] = []
    in_use = [model for model in considered if model.is_in_use]
    for model in plan_prune(models, keep_bytes, all_programs=all_programs):
        if dry_run:
            removed.append(model)
            continue
        with exclusive(model.state_folder, model.files) as is_free:
            if not is_free:
                in_use.append(model)
                continue
            _remove(model, settings)
            removed.append(model)
    freed = sum(model.size_bytes for model in removed)
    total = sum(model.size_bytes for model in considered)
    return PruneResult(tuple(removed), tuple(in_use), freed, total - freed)


def _entry(
    name: str,
    origin: str,
    revision: str,
    paths: Sequence[Path],
    files: Sequence[Path],
    state_folder: Path,
) -> CachedModel:
    real = tuple(dict.fromkeys(Path(os.path.realpath(file)) for file in files))
    stats = [file.stat() for file in real]
    used = [last_use(state_folder, file) for file in real]
    ours = [time for time in used if time is not None]
    with exclusive(state_folder, real) if ours else contextlib.nullcontext(True) as is_free:
        in_use = not is_free
    return CachedModel(
        name=name,
        origin=origin,
        revision=revision,
        size_bytes=sum(stat.st_size for stat in stats),
        last_used_at=max(ours or [stat.st_mtime for stat in stats]),
        is_ours=bool(ours),
        is_in_use=in_use,
        paths=tuple(paths),
        files=real,
        state_folder=state_folder,
    )


def _hub_models(settings: HubSettings) -> Iterator[CachedModel]:
    if not settings.cache_dir.is_dir():
        return
    found = _scan(settings)
    for repo in found.repos:
        if repo.repo_type != "model":
            continue
        for revision in repo.revisions:
            groups: dict[str, list[Any]] = {}
            for file in revision.files:
                path = file.file_path.relative_to(revision.snapshot_path).as_posix()
                groups.setdefault(_group(path), []).append(file)
            for group, files in groups.items():
                files.sort(key=lambda file: str(file.file_path))
                yield _entry(
                    f"{repo.repo_id}/{group}" if group else repo.repo_id,
                    "Hugging Face",
                    revision.commit_hash,
                    [file.file_path for file in files],
                    [file.blob_path for file in files],
                    settings.state_folder,
                )
    for partial in sorted(settings.cache_dir.glob("models--*/blobs/*.incomplete")):
        repo_id = partial.parts[-3].removeprefix("models--").replace("--", "/")
        # It may be finished at this moment.
        with contextlib.suppress(FileNotFoundError):
            name = f"{repo_id} (interrupted download)"
            state = settings.state_folder
            yield _entry(name, "Hugging Face", "", [partial], [partial], state)


def _scan(settings: HubSettings) -> Any:
    library()
    from huggingface_hub import scan_cache_dir

    return scan_cache_dir(settings.cache_dir)


def _group(path: str) -> str:
    """The model that a file of a repository belongs to: its GGUF, or (empty) the rest."""
    if not path.lower().endswith(".gguf"):
        return ""
    part = split_part(path)
    return f"{part[0]}-00001-of-{part[2]:05d}.gguf" if part else path


def _clearml_models(folder: Path | None) -> Iterator[CachedModel]:
    from common.models.clearml_registry import cache_folder, state_folder

    folder = folder or cache_folder()
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        # Locks and partial files are the SDK's; `split` has links to files listed themselves.
        if path.name.startswith(".") or ".partially" in path.name or path.name == "split":
            continue
        files = [item for item in path.rglob("*") if item.is_file()] if path.is_dir() else [path]
        if files:
            # The SDK puts a hash before the name of the file.
            name = path.name.partition(".")[2] or path.name
            yield _entry(name, "ClearML", "", [path], files, state_folder(folder))


def _remove(model: CachedModel, settings: HubSettings) -> None:
    """Delete one entry; the caller holds its files."""
    if model.origin == "ClearML" or not model.revision:
        for path in model.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    else:
        # The library knows which blobs other revisions still need.
        found = _scan(settings)
        wanted = set(model.paths)
        files = [
            file
            for repo in found.repos
            for revision in repo.revisions
            for file in revision.files
            if file.file_path in wanted
        ]
        found.delete_files(*files).execute()
    for file in model.files:
        if not file.exists():
            use_file(model.state_folder, file).unlink(missing_ok=True)
