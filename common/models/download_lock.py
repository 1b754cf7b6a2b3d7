"""One download per model and machine: the others wait and watch.

The lock is the kernel's (through filelock), so that of a dead process is free at once. Whoever
holds it writes its progress beside it; whoever waits reads that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from common.models.progress import Progress, ProgressEvent, ProgressMeter, check_cancelled

_POLL_S = 0.25


def lock_path(state_folder: Path, key: str) -> Path:
    """Name the lock of one download; `key` tells what is downloaded and in which version."""
    return state_folder / "download" / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.lock"


@contextlib.contextmanager
def download_lock(
    path: Path,
    model: str,
    progress: Progress,
    cancel: threading.Event | None = None,
) -> Iterator[Progress]:
    """Hold the lock of one download. Blocks while another process has it.

    Args:
        path: From `lock_path`.
        model: The model as the user named it.
        progress: Told how far the other process is, meanwhile.
        cancel: Ends the waiting.

    Yields:
        The callback to report one's own progress with; it also tells those who wait.

    Raises:
        FetchCancelledError: `cancel` was set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".json")
    # Not thread-local: the thread that fetches need not be the one that cleans up.
    lock = FileLock(path, thread_local=False)
    meter = ProgressMeter(progress, "waiting", model, None)
    known_total: int | None = None
    while True:
        check_cancelled(cancel)
        try:
            lock.acquire(timeout=_POLL_S, poll_interval=_POLL_S / 2)
            break
        except Timeout:
            done, total = _read(beside)
            if total != known_total:
                meter, known_total = ProgressMeter(progress, "waiting", model, total), total
            meter.update(done)

    def tell(event: ProgressEvent) -> None:
        _write(beside, event)
        progress(event)

    try:
        yield tell
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        lock.release()


def is_downloading(path: Path) -> bool:
    """Whether some process holds this lock now."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _read(beside: Path) -> tuple[int, int | None]:
    try:
        content = json.loads(beside.read_text())
        return int(content["done"]), None if content["total"] is None else int(content["total"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, None


def _write(beside: Path, event: ProgressEvent) -> None:
    fresh = beside.with_name(f"{beside.name}.{os.getpid()}")
    # What those who wait see is a convenience: a full disk shows in the download itself.
    with contextlib.suppress(OSError):
        fresh.write_text(json.dumps({"done": event.done_bytes, "total": event.total_bytes}))
        os.replace(fresh, beside)
