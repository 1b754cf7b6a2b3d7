"""From a reference to files on this machine, whatever the reference names."""

from __future__ import annotations

import threading
from dataclasses import replace

from common.errors import ConfigurationError, Problem
from common.models.clearml_registry import fetch_from_clearml
from common.models.files import ModelFiles
from common.models.hub import HubSettings, fetch_from_hub
from common.models.local import find_local
from common.models.progress import Progress, ignore_progress
from common.models.reference import ReferenceKind, parse_reference
from common.models.use import InUse

__all__ = ["ModelFiles", "fetch"]


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
        want: ``gguf`` (one GGUF model, all its parts) or ``repository`` (all that an engine for
            safetensors needs; `first` is then a folder).
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
    if want not in ("gguf", "repository"):
        raise ValueError(f"want is 'gguf' or 'repository', not {want!r}")
    reference = parse_reference(reference_text)
    if revision and reference.revision and revision != reference.revision:
        raise ConfigurationError(
            [
                Problem(
                    f"the model {reference.text!r} names the revision {reference.revision!r}, and "
                    f"the settings name {revision!r}. Give one of them"
                )
            ]
        )
    if reference.kind is ReferenceKind.LOCAL and reference.local is not None:
        return find_local(reference.local, want=want, text=reference.text)
    if reference.kind is ReferenceKind.CLEARML:
        return fetch_from_clearml(
            reference, want=want, progress=progress, cancel=cancel, in_use=in_use
        )
    return fetch_from_hub(
        replace(reference, revision=reference.revision or revision),
        HubSettings.from_environment(token),
        want=want,
        progress=progress,
        cancel=cancel,
        in_use=in_use,
    )
