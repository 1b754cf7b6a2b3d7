"""From a reference to files on this machine, whatever the reference names."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from common.errors import ConfigurationError, Problem
from common.models.clearml_registry import fetch_from_clearml
from common.models.files import ModelFiles
from common.models.hub import HubSettings, fetch_from_hub, peek_at_hub
from common.models.local import find_local
from common.models.progress import Progress, ignore_progress
from common.models.reference import ModelReference, ReferenceKind, parse_reference
from common.models.repository import check_folder
from common.models.use import InUse

__all__ = ["ModelFiles", "fetch", "peek"]


def fetch(
    reference_text: str,
    *,
    token: str | None = None,
    revision: str | None = None,
    progress: Progress = ignore_progress,
    want: str = "gguf",
    cancel: threading.Event | None = None,
    in_use: InUse | None = None,
) -> ModelFiles:
    """Bring a model's files to this machine, or find them there. Blocks; call it in a thread.

    Processes that fetch the same model on one machine download it once.

    Args:
        reference_text: As the user gave it; `common.models.reference` has the forms.
        token: Hugging Face token; None = that of the environment or of the log-in.
        revision: Branch, tag or commit on Hugging Face, as ``@revision`` in the reference.
        progress: Called from this thread, once a second at most, besides the first and the last.
        want: ``gguf`` (one GGUF model, all its parts), ``repository`` (all that an engine for
            safetensors needs; `first` is then a folder, whose configuration and weights are whole)
            or ``tokenizer`` (a repository without its weights).
        cancel: Set it to end the fetch; what was received stays.
        in_use: Takes hold of the files, so that no prune removes them while they are served.

    Raises:
        ModelError: The reference, the model, the access or the format; see its subclasses.
        ConfigurationError: Two revisions that differ, or a ClearML ID without a server.
        CapacityError: No space.
        ModelUnavailableError: The server that has the model is away.
        ControlPlaneError: The ClearML server is away.
        FetchCancelledError: `cancel` was set.
    """
    if want not in ("gguf", "repository", "tokenizer"):
        raise ValueError(f"want is 'gguf', 'repository' or 'tokenizer', not {want!r}")
    reference = _parse(reference_text, revision)
    files = _bring(reference, token, progress, want, cancel, in_use)
    if want == "repository":
        check_folder(files.first, reference.text)
    return files


def peek(
    reference_text: str,
    *,
    token: str | None = None,
    revision: str | None = None,
    names: Sequence[str] = ("config.json",),
    progress: Progress = ignore_progress,
    cancel: threading.Event | None = None,
) -> Mapping[str, Path]:
    """Bring a few small files of a repository before the rest, to judge it by them. Blocks.

    Args:
        reference_text: As for `fetch`.
        token: As for `fetch`.
        revision: As for `fetch`.
        names: Files at the top of the repository, or of the folder that the reference names.
        progress: As for `fetch`.
        cancel: As for `fetch`.

    Returns:
        Those that it has, by name; nothing for a ClearML model, whose files come together.

    Raises: as `fetch` for a ``repository``; what it lacks is told before its weights come.
    """
    reference = _parse(reference_text, revision)
    if reference.kind is ReferenceKind.CLEARML:
        return {}
    if reference.kind is ReferenceKind.LOCAL and reference.local is not None:
        folder = find_local(reference.local, want="repository", text=reference.text).first
        return {name: folder / name for name in names if (folder / name).is_file()}
    settings = HubSettings.from_environment(token)
    return peek_at_hub(reference, settings, names, progress=progress, cancel=cancel)


def _parse(text: str, revision: str | None) -> ModelReference:
    """Parse a reference; the revision of the settings counts where it names none."""
    reference = parse_reference(text)
    if revision and reference.revision and revision != reference.revision:
        raise ConfigurationError(
            [
                Problem(
                    f"the model {reference.text!r} names the revision {reference.revision!r}, and "
                    f"the settings name {revision!r}. Give one of them"
                )
            ]
        )
    return replace(reference, revision=reference.revision or revision)


def _bring(
    reference: ModelReference,
    token: str | None,
    progress: Progress,
    want: str,
    cancel: threading.Event | None,
    in_use: InUse | None,
) -> ModelFiles:
    if reference.kind is ReferenceKind.LOCAL and reference.local is not None:
        return find_local(reference.local, want=want, text=reference.text)
    if reference.kind is ReferenceKind.CLEARML:
        return fetch_from_clearml(
            reference, want=want, progress=progress, cancel=cancel, in_use=in_use
        )
    return fetch_from_hub(
        reference,
        HubSettings.from_environment(token),
        want=want,
        progress=progress,
        cancel=cancel,
        in_use=in_use,
    )
