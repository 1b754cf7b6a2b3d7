"""What a model reference means: a ClearML ID, a Hugging Face repository or file, a local path.

The forms, tried in this order::

    0123456789abcdef0123456789abcdef           a ClearML model ID (32 hexadecimal digits)
    /models/a.gguf   ~/a.gguf   ./a.gguf       a local path, whether it exists or not
    models/a.gguf                              a local path, when it exists
    provider/repo                              a Hugging Face repository
    provider/repo/path/to/file.gguf            a file in it; * ? [] match within the path
    provider/repo@revision/path/to/file.gguf   the same at a branch, tag or commit

The revision ends at the next ``/``; one that has a slash itself (``refs/pr/3``) is written with
``%2F``. A path that ends in ``/`` or names a folder means the GGUF files in that folder.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from common.errors import ModelError

_CLEARML_ID = re.compile(r"[0-9a-fA-F]{32}")
_ALMOST_ID = re.compile(r"[0-9a-fA-F]{28,40}")
# The Hub's rule for both halves of a repository's name.
_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,254}")
_GLOB = re.compile(r"[*?\[]")
_FORMS = (
    "Give a ClearML model ID (32 hexadecimal digits), a Hugging Face repository or a file in it "
    "(provider/repo, provider/repo/path/to/file), or a path that exists on this machine."
)


class ReferenceKind(str, enum.Enum):
    """Where a model comes from."""

    CLEARML = "clearml"
    HUB = "hub"
    LOCAL = "local"


@dataclass(frozen=True)
class ModelReference:
    """A parsed reference; the fields of the other kinds are empty.

    Attributes:
        text: As given, without surrounding space.
        kind: Which of the fields below apply.
        model_id: ClearML model ID, lower case.
        repo: ``provider/repo`` on Hugging Face.
        revision: Branch, tag or commit; None = the repository's ``main``.
        path: File, pattern or folder within the repository; empty = the repository.
        local: The local path, ``~`` expanded.
    """

    text: str
    kind: ReferenceKind
    model_id: str = ""
    repo: str = ""
    revision: str | None = None
    path: str = ""
    local: Path | None = None

    @property
    def is_pattern(self) -> bool:
        """Whether the path has wildcards."""
        return bool(_GLOB.search(self.path))


def parse_reference(text: str, *, exists: Callable[[str], bool] = os.path.exists) -> ModelReference:
    """Parse a reference as a user types it.

    Pure but for `exists`, which decides whether a relative path is one on this machine.

    Raises:
        ModelError: The text is none of the forms; says why and what would be.
    """
    text = text.strip()
    if not text:
        raise ModelError(f"No model is given. {_FORMS}")
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise ModelError(f"The model reference {text!r} has a control character in it. {_FORMS}")
    if _CLEARML_ID.fullmatch(text):
        return ModelReference(text, ReferenceKind.CLEARML, model_id=text.lower())
    if text.startswith(("/", "~", "./", "../")) or text in (".", ".."):
        return _local(text)
    if "://" in text:
        return _from_url(text)
    if exists(text):
        return _local(text)
    return _hub(text)


def _local(text: str) -> ModelReference:
    return ModelReference(text, ReferenceKind.LOCAL, local=Path(text).expanduser())


def _from_url(text: str) -> ModelReference:
    if text.startswith("file:///"):
        return _local(unquote(text[len("file://") :]))
    found = re.match(
        r"(?:https?://(?:huggingface\.co|hf\.co)/|hf://)([^/]+/[^/@]+)"
        r"(?:/(?:blob|resolve|tree|raw)/([^/]+))?(?:/([^?]+))?",
        text,
    )
    if found:
        repo, revision, path = found.group(1, 2, 3)
        at = f"@{revision}" if revision and revision != "main" else ""
        meant = "/".join(part for part in (repo + at, path) if part)
        raise ModelError(f"The model {text!r} is a URL. Give it as {meant!r}.")
    raise ModelError(
        f"The model {text!r} is a URL, which is no model reference. To use a file at a URL, "
        "register it as a ClearML model and give its ID."
    )


def _hub(text: str) -> ModelReference:
    parts = text.split("/")
    if len(parts) < 2:
        hint = ""
        if _ALMOST_ID.fullmatch(text):
            hint = f" (it has {len(text)} hexadecimal digits; a ClearML ID has 32)"
        raise ModelError(
            f"The model {text!r} is no existing path and no model reference{hint}. {_FORMS}"
        )
    name, at, revision = parts[1].partition("@")
    for part in (parts[0], name):
        if not _REPO_PART.fullmatch(part) or "--" in part or ".." in part:
            raise ModelError(
                f"The model {text!r} is no existing path, and {part!r} cannot be part of a "
                f"repository's name on Hugging Face. {_FORMS}"
            )
    revision = unquote(revision)
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ModelError(
            f"The model {text!r} names the revision {revision!r}, which cannot be one."
        )
    path = "/".join(parts[2:]).rstrip("/")
    if any(part in ("", ".", "..") for part in path.split("/")) and path:
        raise ModelError(
            f"The model {text!r} has an empty, '.' or '..' part in the path {path!r}, "
            "which no file of a repository has."
        )
    if "\\" in text:
        raise ModelError(f"The model {text!r} has a backslash. Separate the parts by '/'.")
    return ModelReference(
        text,
        ReferenceKind.HUB,
        repo=f"{parts[0]}/{name}",
        revision=revision or None,
        path=path,
    )


def default_endpoint_name(reference: str | ModelReference, clearml_name: str | None = None) -> str:
    """Name the endpoint of a model whose endpoint name is not set.

    The reference as given with ``*`` removed, the file's stem for a local path, the model's name
    on the server for a ClearML ID (the ID until `clearml_name` is known).
    """
    if isinstance(reference, str):
        reference = parse_reference(reference)
    if reference.kind is ReferenceKind.CLEARML:
        return clearml_name or reference.model_id
    if reference.kind is ReferenceKind.LOCAL:
        path = PurePosixPath(reference.text.rstrip("/"))
        return path.stem if path.suffix.lower() == ".gguf" else path.name
    return reference.text.replace("*", "").rstrip("/")
