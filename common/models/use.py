"""Which cached files are in use, and when each was used last.

An instance holds a shared kernel lock (``flock``) on a small file per model file for as long as it
serves; whoever wants to delete needs the exclusive lock. The kernel frees the lock when the process
ends, however it ends, so no marker is ever stale. The small file's own modification time is the
time of last use, since the access times of file systems are not kept reliably.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.errors import ModelNotFoundError
from common.models.files import ModelFiles


def use_file(state_folder: Path, path: Path) -> Path:
    """Name the file that stands for the use of `path`, whichever link leads to it."""
    real = os.path.realpath(path)
    return state_folder / "use" / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:40]}.lock"


def last_use(state_folder: Path, path: Path) -> float | None:
    """Return when `path` was last put to use (Unix time), None when this program never did."""
    try:
        # Zero: made by `exclusive`, not by a use.
        return use_file(state_folder, path).stat().st_mtime or None
    except OSError:
        return None


class InUse:
    """The models that this process serves; as a context manager, until its end.

    Not for several threads at once.
    """

    def __init__(self) -> None:
        self._held: list[int] = []

    def __enter__(self) -> InUse:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def add(self, files: ModelFiles) -> None:
        """Hold the files of a model, and note now as their last use.

        Files outside our caches and caches that are mounted read-only need no holding.

        Raises:
            ModelNotFoundError: A file was pruned in between; fetching again brings it back.
        """
        if files.state_folder is None:
            return
        for path in files.all:
            if self.hold(files.state_folder, path) and not path.exists():
                self.release()
                raise ModelNotFoundError(
                    f"The model file {path} was removed from the cache just now. Start again."
                )

    def hold(self, state_folder: Path, path: Path) -> bool:
        """Hold one path, which need not exist yet; returns False in a read-only cache."""
        marker = use_file(state_folder, path)
        try:
            marker.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(marker, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return False  # nobody can delete there either
        self._held.append(handle)
        # Blocks only while a prune deletes this very file.
        fcntl.flock(handle, fcntl.LOCK_SH)
        os.utime(handle)
        return True

    def release(self) -> None:
        """Let go of everything; the time of last use is now."""
        for handle in self._held:
            with contextlib.suppress(OSError):
                os.utime(handle)
            os.close(handle)
        self._held.clear()


@contextlib.contextmanager
def exclusive(state_folder: Path, paths: Iterable[Path]) -> Iterator[bool]:
    """Try to get all of `paths` for deletion; yields whether nobody uses any of them."""
    handles: list[int] = []
    try:
        free = True
        for path in paths:
            marker = use_file(state_folder, path)
            try:
                marker.parent.mkdir(parents=True, exist_ok=True)
                is_new = not marker.exists()
                handles.append(os.open(marker, os.O_RDWR | os.O_CREAT, 0o666))
                fcntl.flock(handles[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_new:
                    os.utime(handles[-1], (0, 0))
            except OSError:
                free = False
                break
        yield free
    finally:
        for handle in handles:
            os.close(handle)


def note_use(files: ModelFiles, in_use: InUse | None) -> None:
    """Record a use of a model's files now, and have `in_use` hold them if there is one."""
    if in_use is not None:
        in_use.add(files)
        return
    with InUse() as momentary:
        momentary.add(files)
