"""Models at a path of this machine."""

from __future__ import annotations

from pathlib import Path

from common.errors import ModelFormatError, ModelNotFoundError
from common.models.files import ModelFiles
from common.models.selection import (
    ListedFile,
    select_gguf,
    select_repository,
    select_tokenizer,
    sibling_parts,
)


def find_local(path: Path, *, want: str = "gguf", text: str = "") -> ModelFiles:
    """Check a local path and find the files of the model at it.

    Args:
        path: A file (any part of a split model), a pattern in its last part, or a folder with one
            model.
        want: ``gguf``, ``repository`` (a folder with a configuration) or ``tokenizer``.
        text: The path as the user gave it, for the errors.

    Raises:
        ModelNotFoundError: Nothing there; names the nearest folder that exists.
        ModelFormatError: A folder without GGUF, a part is missing, an empty file; a file where a
            folder is needed, a folder without configuration or tokenizer.
        ModelError: Several models there.
    """
    text = text or str(path)
    if not path.exists():
        if want == "gguf" and any(mark in path.name for mark in "*?[") and path.parent.is_dir():
            return _choose(path.parent, path.name, text)
        raise ModelNotFoundError(
            f"There is no {'file' if want == 'gguf' else 'folder'} {text} on this machine. "
            f"{_nearest(path, want)} In a container, the folder must be mounted."
        )
    if want != "gguf":
        return _result(_folder_files(path, want, text), first=path)
    if path.is_dir():
        return _choose(path, "", text)
    if path.suffix.lower() != ".gguf" and path.stat().st_size == 0:
        raise ModelFormatError(f"The model file {text} is empty (0 bytes).")
    parts = tuple(path.with_name(name) for name in sibling_parts(path.name))
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise ModelFormatError(
            f"{text} is one of {len(parts)} parts, and {len(missing)} of them are missing in its "
            f"folder, {missing[0]} among them."
        )
    return _result(parts)


def _folder_files(path: Path, want: str, text: str) -> tuple[Path, ...]:
    if not path.is_dir():
        raise ModelFormatError(
            f"{text} is a single file. The engine loads a folder: with config.json, the weights "
            f"(safetensors) and the tokenizer.{_beside(path)}"
        )
    choose = select_tokenizer if want == "tokenizer" else select_repository
    chosen = choose(_listed(path), "", f"The folder {text}")
    return tuple(path / file.path for file in chosen)


def _beside(path: Path) -> str:
    """The hint that the file's own folder is such a one."""
    return f" Give its folder: {path.parent}." if (path.parent / "config.json").exists() else ""


def _listed(folder: Path) -> list[ListedFile]:
    return [
        ListedFile(item.relative_to(folder).as_posix(), item.stat().st_size)
        for item in sorted(folder.rglob("*"))
        if item.is_file() and ".git" not in item.relative_to(folder).parts
    ]


def _choose(folder: Path, wanted: str, text: str) -> ModelFiles:
    chosen = select_gguf(
        _listed(folder), wanted, f"the folder {text}" if not wanted else str(folder)
    )
    return _result(tuple(folder / file.path for file in chosen))


def _result(paths: tuple[Path, ...], first: Path | None = None) -> ModelFiles:
    absolute = tuple(path.absolute() for path in paths)
    return ModelFiles(
        first=(first or paths[0]).absolute(),
        all=absolute,
        size_bytes=sum(path.stat().st_size for path in absolute),
        origin="local",
    )


def _nearest(path: Path, want: str) -> str:
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if parent != path.absolute().parent:
        return f"Only {parent} of its path exists."
    if want == "gguf":
        others = sorted(item.name for item in parent.glob("*.gguf"))[:10]
        return f"Its folder has: {', '.join(others)}." if others else "Its folder has no GGUF file."
    folders = sorted(item.name for item in parent.iterdir() if item.is_dir())[:10]
    return f"{parent} has the folders: {', '.join(folders)}." if folders else f"{parent} has none."
