"""Whether a download fits on the disk it goes to, asked before the first byte."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from common.errors import CapacityError
from common.models.progress import render_bytes

# Room left for everything else on that disk: logs, the engine's own files, the ClearML SDK.
RESERVE_BYTES = 256 * 10**6
_HINT = (
    "Free some space (`clearml-deploy cache prune --keep-gib N` removes models that were not used "
    "for longest) or put the cache on a larger disk (HF_HOME, CLEARML_CACHE_DIR)."
)


def existing_parent(path: Path) -> Path:
    """Return `path` or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def check_disk_space(needed_bytes: int, folder: Path, model: str) -> None:
    """Refuse a download that cannot end.

    Args:
        needed_bytes: What is still to be written.
        folder: Where it goes; need not exist yet.
        model: The model as the user named it.

    Raises:
        CapacityError: Less is free; says needed, free, where, and how to make room.
    """
    if needed_bytes <= 0:
        return
    free = shutil.disk_usage(existing_parent(folder)).free
    if free < needed_bytes + RESERVE_BYTES:
        raise CapacityError(
            f"Not enough disk space for {model}: it needs {render_bytes(needed_bytes)} "
            f"(and {render_bytes(RESERVE_BYTES)} in reserve), and {render_bytes(free)} are free "
            f"at {folder}. {_HINT}"
        )


def is_disk_full(error: OSError) -> bool:
    """Tell whether a write failed because the disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full_error(folder: Path, model: str) -> CapacityError:
    """Make the error of a disk that filled up during the download."""
    free = shutil.disk_usage(existing_parent(folder)).free
    return CapacityError(
        f"The disk filled up while {model} was downloaded to {folder} "
        f"({render_bytes(free)} are free). {_HINT}"
    )
