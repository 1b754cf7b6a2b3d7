"""Generated keys of instances without a server, where their user alone can read them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def key_folder() -> Path:
    """The folder, with mode 0700 once something is in it."""
    return Path.home() / ".clearml-deploy" / "instance-keys"


def keep_key(task_id: str, key: str) -> Path:
    """Write an instance's key into a file of its own with mode 600; returns the file."""
    folder = key_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / task_id
    partial = path.with_suffix(".new")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(key)
    partial.replace(path)
    return path


def read_key(task_id: str) -> str | None:
    """The key of a running offline instance; None when there is none."""
    if not task_id.startswith("offline-") or "/" in task_id:
        return None
    try:
        return (key_folder() / task_id).read_text(encoding="utf-8")
    except OSError:
        return None


def forget_key(task_id: str) -> None:
    """Remove the key's file when its instance ends; there is none for a task of a server."""
    if task_id.startswith("offline-"):
        with contextlib.suppress(OSError):
            (key_folder() / task_id).unlink()
