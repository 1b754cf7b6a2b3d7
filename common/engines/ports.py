"""Where engines listen: Unix sockets in a private directory, or loopback TCP ports."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

from common.errors import ConfigurationError, Problem

# Linux's sun_path holds 108 bytes with the closing NUL.
MAX_SOCKET_PATH_BYTES = 107
SOCKET_DIR_PREFIX = "clearml-deploy-"
# A directory younger than this may be about to be locked by its owner.
_SETTLING_S = 10.0
_LISTEN = "0A"


def pick_port(host: str = "127.0.0.1") -> int:
    """A TCP port that is free now.

    Nothing keeps another program from taking it before the engine does: check with `is_listening`
    that the one who answers is ours, and pick again if the engine found it taken.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int, pids: Collection[int], proc: Path = Path("/proc")) -> bool:
    """Tell whether one of `pids` holds a listening TCP socket on `port`.

    Also true where the system does not let us see who listens (no /proc, another user's process).
    """
    inodes = _listening_inodes(port, proc)
    if not inodes:
        return True
    for pid in pids:
        try:
            descriptors = list((proc / str(pid) / "fd").iterdir())
        except PermissionError:
            return True
        except OSError:
            continue
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                if os.readlink(descriptor) in inodes:
                    return True
    return False


def _listening_inodes(port: int, proc: Path) -> set[str]:
    """Sockets that listen on `port`, as the links in /proc/PID/fd name them."""
    inodes = set()
    for table in ("net/tcp", "net/tcp6"):
        try:
            rows = (proc / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, rows):
            # sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    return inodes


class SocketDirectory:
    """A directory with mode 0700 for the engines' Unix sockets; a context manager.

    It is removed at the end. What a killed process left is removed by the next one that is made
    under the same `base`: a lock, which ends with its owner, tells whether the owner lives, also
    from another container that shares the directory.

    Args:
        base: Parent directory; None is the temporary directory, or ``/tmp`` if that is too long.

    Raises:
        ConfigurationError: `base` is so long that a socket's path would not fit.
    """

    def __init__(self, base: Path | None = None) -> None:
        self._base = base or Path(tempfile.gettempdir())
        if base is None and not _fits(self._base):
            self._base = Path("/tmp")
        if not _fits(self._base):
            raise ConfigurationError(
                [
                    Problem(
                        f'the directory "{self._base}" is too long for Unix sockets, whose path'
                        f" may have {MAX_SOCKET_PATH_BYTES} bytes; set TMPDIR to a shorter one"
                    )
                ]
            )
        self._base.mkdir(parents=True, exist_ok=True)
        remove_stale(self._base)
        self.path = Path(tempfile.mkdtemp(prefix=SOCKET_DIR_PREFIX, dir=self._base))
        self._lock = _lock(self.path)
        self._count = 0

    def new_socket(self) -> Path:
        """A path for one engine's socket; short, and ends in ``.sock`` as llama-server wants it."""
        self._count += 1
        return self.path / f"{self._count}.sock"

    def close(self) -> None:
        """Remove the directory and what is in it; may be called again."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> SocketDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def remove_stale(base: Path) -> None:
    """Remove the socket directories of ours under `base` whose owner is gone."""
    for path in base.glob(f"{SOCKET_DIR_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _SETTLING_S:
                continue
            lock = _lock(path)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _lock(path: Path) -> int | None:
    """Lock a directory; None when another process holds it. The lock ends with the descriptor."""
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _fits(base: Path) -> bool:
    longest = base / f"{SOCKET_DIR_PREFIX}12345678" / "9999.sock"
    return len(os.fsencode(longest)) <= MAX_SOCKET_PATH_BYTES
