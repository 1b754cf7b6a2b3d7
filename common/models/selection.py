"""Which files of a listing a reference means: patterns, folders, split models. Pure."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.errors import ModelError, ModelFormatError, ModelNotFoundError
from common.models.progress import render_bytes

_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.I)
# Files that are GGUF without being a model of their own.
_COMPANION = re.compile(r"(^|[-_./])(mmproj|imatrix)", re.I)
_OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx")
# Weights in formats that no engine for safetensors reads.
_FOREIGN = (".gguf", ".onnx", ".h5", ".msgpack", ".ot", ".tflite", ".mlmodel", ".onnx_data")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
# What makes a folder one that such an engine loads: a model's, Mistral's own form, an adapter's.
CONFIGS = ("config.json", "params.json", "adapter_config.json")
_TOKENIZERS = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "tekken.json"),
    *("vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "*.tiktoken"),
)
_SHOWN = 20


@dataclass(frozen=True)
class ListedFile:
    """One file of a repository or folder; `size_bytes` is None where the source does not say."""

    path: str
    size_bytes: int | None = None


def split_part(path: str) -> tuple[str, int, int] | None:
    """Take apart the name of a split file: stem, number from 1, count; None for a whole file."""
    found = _PART.fullmatch(path)
    if not found:
        return None
    return found["stem"], int(found["number"]), int(found["count"])


def sibling_parts(path: str) -> tuple[str, ...]:
    """Name every part of the model that `path` is a part of, itself alone when it is whole.

    Raises:
        ModelFormatError: The numbers in the name contradict each other.
    """
    found = _PART.fullmatch(path)
    if not found:
        return (path,)
    count = int(found["count"])
    if not 1 <= int(found["number"]) <= count <= 10_000:
        raise ModelFormatError(f"{path} is named as part {found['number']} of {found['count']}.")
    return tuple(
        f"{found['stem']}-{number:05d}-of-{found['count']}{found['suffix']}"
        for number in range(1, count + 1)
    )


def select_gguf(files: Sequence[ListedFile], wanted: str, where: str) -> tuple[ListedFile, ...]:
    """Choose the one GGUF model that `wanted` means, all its parts in order.

    Args:
        files: Everything there is.
        wanted: A path, a pattern (``*`` crosses ``/``), a folder, or empty for the only model.
        where: The repository or folder, for the errors.

    Raises:
        ModelNotFoundError: Nothing matches; lists the GGUF files there are.
        ModelFormatError: There is no GGUF file at all, or the file meant is another format, or a
            part of it is missing.
        ModelError: Several models match; lists them.
    """
    by_path = {file.path: file for file in files}
    models = _models(files)
    exact = by_path.get(wanted)
    if exact is not None:
        if not _is_gguf(wanted):
            raise ModelFormatError(
                f"{wanted!r} in {where} is not a GGUF file, which the engine needs. "
                + _there_are(models, files, where)
            )
        return _complete(wanted, by_path, where)
    matches = [first for first in models if _matches(models[first], wanted)]
    if not wanted:
        matches = [first for first in matches if not _COMPANION.search(first)]
    if len(matches) == 1:
        return _complete(matches[0], by_path, where)
    if matches:
        raise ModelError(
            f"{where} has {len(matches)} GGUF models"
            + (f" that match {wanted!r}" if wanted else "")
            + ". Name one of them: "
            + _list(matches, by_path)
        )
    if not models:
        raise ModelFormatError(_there_are(models, files, where))
    close = difflib.get_close_matches(wanted, list(models), n=1, cutoff=0.6)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ModelNotFoundError(
        f"No file matches {wanted!r} in {where}.{hint} {_there_are(models, files, where)}"
    )


def select_repository(
    files: Sequence[ListedFile], wanted: str, where: str
) -> tuple[ListedFile, ...]:
    """Choose the files of a whole repository that an engine for safetensors needs.

    Where a repository has its weights several times, safetensors are taken and the others left.

    Args:
        files: Everything there is.
        wanted: A folder in it, or empty for all.
        where: The repository or folder, for the errors.

    Raises:
        ModelNotFoundError: There is no such folder.
        ModelFormatError: It has no configuration; says what it is instead.
    """
    inside = _inside(files, wanted, where)
    names = {file.path for file in inside}
    if not any(_join(wanted, name) in names for name in CONFIGS):
        raise ModelFormatError(_no_config(inside, wanted, where))
    has_safetensors = any(file.path.endswith(".safetensors") for file in inside)
    skipped = _FOREIGN + (_PICKLED if has_safetensors else ())
    return tuple(
        file
        for file in inside
        if not file.path.lower().endswith(skipped)
        and not (has_safetensors and file.path.startswith("original/"))
    )


def select_tokenizer(
    files: Sequence[ListedFile], wanted: str, where: str
) -> tuple[ListedFile, ...]:
    """Choose the files of a repository without its weights: configuration, tokenizer, templates, code.

    Raises:
        ModelNotFoundError: There is no such folder.
        ModelFormatError: It has no tokenizer.
    """
    inside = _inside(files, wanted, where)
    weights = (*_FOREIGN, *_PICKLED, ".safetensors", ".npz")
    kept = tuple(file for file in inside if not file.path.lower().endswith(weights))
    depth = len(_join(wanted, ""))
    if not any(
        fnmatch.fnmatchcase(file.path[depth:], pattern) for file in kept for pattern in _TOKENIZERS
    ):
        raise ModelFormatError(
            f"{_place(wanted, where)} has no tokenizer: none of {', '.join(_TOKENIZERS[:4])} is there."
        )
    return kept


def has_weights(files: Sequence[ListedFile]) -> bool:
    """Whether weights are among the files that were chosen of a repository."""
    return any(file.path.lower().endswith((".safetensors", *_PICKLED)) for file in files)


def _inside(files: Sequence[ListedFile], wanted: str, where: str) -> list[ListedFile]:
    inside = [file for file in files if not wanted or _under(file.path, wanted)]
    if not inside and any(file.path == wanted for file in files):
        raise ModelFormatError(
            f"{wanted!r} in {where} is a file. The engine loads a whole folder: name the repository "
            "or a folder in it."
        )
    if not inside:
        raise ModelNotFoundError(f"{where} has no files{f' in {wanted!r}' if wanted else ''}.")
    return inside


def _no_config(inside: Sequence[ListedFile], wanted: str, where: str) -> str:
    place = _place(wanted, where)
    if any(_is_gguf(file.path) for file in inside):
        return (
            f"{place} has GGUF files and no config.json: a model for llama.cpp. Take the repository "
            'that it was converted from, or the app "llama.cpp Model Deployment".'
        )
    below = sorted({file.path.rpartition("/")[0] for file in inside if _is_config(file.path)})
    if below:
        return (
            f"{place} has no config.json of its own, but its folder "
            f"{', '.join(map(repr, below[:_SHOWN]))} has. Name that folder."
        )
    shown = ", ".join(file.path for file in inside[:8])
    return f"{place} has no config.json, which the engine needs. It has: {shown}."


def _is_config(path: str) -> bool:
    return "/" in path and path.rpartition("/")[2] in CONFIGS


def _place(wanted: str, where: str) -> str:
    return f"The folder {wanted!r} of {where}" if wanted else where


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder else name


def _is_gguf(path: str) -> bool:
    return path.lower().endswith(".gguf")


def _models(files: Iterable[ListedFile]) -> dict[str, tuple[str, ...]]:
    """GGUF files by model: the first path of each model and all its paths."""
    groups: dict[str, list[str]] = {}
    for path in sorted(file.path for file in files if _is_gguf(file.path)):
        part = split_part(path)
        key = f"{part[0]}-of-{part[2]:05d}" if part else path
        groups.setdefault(key, []).append(path)
    return {paths[0]: tuple(paths) for paths in groups.values()}


def _matches(paths: Sequence[str], wanted: str) -> bool:
    return any(
        not wanted or fnmatch.fnmatchcase(path, wanted) or _under(path, wanted) for path in paths
    )


def _under(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _complete(path: str, by_path: dict[str, ListedFile], where: str) -> tuple[ListedFile, ...]:
    names = sibling_parts(path)
    missing = [name for name in names if name not in by_path]
    if missing:
        raise ModelFormatError(
            f"{path!r} in {where} is one of {len(names)} parts, and {len(missing)} of them are "
            f"missing there, {missing[0]!r} among them."
        )
    return tuple(by_path[name] for name in names)


def _there_are(models: dict[str, tuple[str, ...]], files: Sequence[ListedFile], where: str) -> str:
    if models:
        return "Its GGUF models: " + _list(list(models), {file.path: file for file in files})
    weights = [file.path for file in files if file.path.lower().endswith(_OTHER_WEIGHTS)]
    if weights:
        kind = "safetensors" if weights[0].endswith(".safetensors") else "PyTorch or other"
        return (
            f"{where} has no GGUF file, only {kind} weights such as {weights[0]!r}. llama.cpp "
            "needs GGUF: look for a repository of the same model with GGUF in its name, or convert "
            "it."
        )
    return f"{where} has no GGUF file."


def _list(paths: Sequence[str], by_path: dict[str, ListedFile]) -> str:
    shown = []
    for path in paths[:_SHOWN]:
        part = split_part(path)
        names = [name for name in (sibling_parts(path) if part else (path,)) if name in by_path]
        size = sum(by_path[name].size_bytes or 0 for name in names)
        shown.append(f"{path} ({render_bytes(size)})" if size else path)
    more = f", and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(shown) + more + "."
