"""The weights of a stopped model, kept in RAM: its files, mapped and locked there.

What holds them is the system's page cache, so an engine that maps or reads the files finds them
there. A plain cache entry would do as much until something else needs the memory; `mlock`_ keeps it.

A mapping of a file that somebody cuts short ends the process that touches it (SIGBUS). Nothing here
touches one: the pages are filled by reading the files and by system calls, which return an error.

.. _mlock: https://man7.org/linux/man-pages/man2/mlock.2.html
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import mmap
import os
import resource
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import CapacityError, DeployError
from common.memory.attempts import on_a_thread
from common.memory.file_pages import FilePages
from common.memory.pools import gib

CHUNK_BYTES = 16 << 20
"""Bytes between two looks at whether it is to go on: some 20 ms from a fast disk."""
CANCEL_WAIT_S = 5.0
"""What a cancelled call waits for its thread, in seconds."""

Progress = Callable[[int, int], None]
"""Bytes done and bytes in all."""


class HoldError(DeployError):
    """A file cannot be kept in RAM: it is gone, was changed, or cannot be read."""

    code = "hold"


@dataclass(frozen=True)
class _Identity:
    """What tells that a file is still the one that was mapped."""

    device: int
    inode: int
    size: int
    changed_ns: int


@dataclass
class _Kept:
    """Mappings, by address and size, and why they are not locked."""

    pages: FilePages
    mappings: list[tuple[int, int]] = field(default_factory=list)
    why_unlocked: str = ""

    @property
    def size(self) -> int:
        return sum(size for _, size in self.mappings)

    def give_up_locks(self, why: str) -> None:
        """Unlock what is locked: a lock on a part is no promise, and uses up the limit."""
        self.why_unlocked = why
        for address, size in self.mappings:
            self.pages.unlock(address, size)

    def give_back(self) -> None:
        mappings, self.mappings = self.mappings, []
        for address, size in mappings:
            self.pages.unmap(address, size)


class HeldFiles:
    """Keeps files in RAM, all of them or none.

    Args:
        files: What to keep; one that comes twice, also under two names, counts once.
        available: Bytes of host RAM that can be had now. Page cache counts as to be had: what this
            keeps no longer does. Called in a thread.
        on_progress: Called from that thread after each 16 MiB. Must not block.
        reserve_bytes: So much must be left to others.
        lock: Locks bytes from an address on; None is `mlock`.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        available: Callable[[], int],
        on_progress: Progress | None = None,
        reserve_bytes: int = 256 << 20,
        lock: Callable[[int, int], None] | None = None,
    ) -> None:
        self._files = tuple(files)
        self._available = available
        self._on_progress = on_progress
        self._reserve_bytes = reserve_bytes
        self._pages = FilePages()
        self._lock = lock or self._pages.lock
        self._kept: _Kept | None = None

    @property
    def is_held(self) -> bool:
        """Whether the files are kept, all of them."""
        return self._kept is not None

    @property
    def held_bytes(self) -> int:
        """How much is kept now; 0 unless all is."""
        return self._kept.size if self._kept else 0

    @property
    def is_locked(self) -> bool:
        """Whether the system must keep them: else it may drop them when memory runs short."""
        return self._kept is not None and not self._kept.why_unlocked

    @property
    def why_unlocked(self) -> str:
        """Why they are kept without a lock, a sentence with what to do; empty if they are locked."""
        return self._kept.why_unlocked if self._kept else ""

    async def hold(self) -> None:
        """Read the files and keep them in RAM; does nothing if they are.

        A call that is cancelled keeps nothing; it waits until all is given back, but not for a disk
        that does not answer.

        Raises:
            CapacityError: There is not the RAM, with the numbers.
            HoldError: A file is gone, was changed meanwhile, or cannot be read.
        """
        if self._kept is not None:
            return
        is_cancelled = threading.Event()
        working = on_a_thread(lambda: self._fill(is_cancelled))
        try:
            await asyncio.wait({working})
        except asyncio.CancelledError:
            is_cancelled.set()
            working.add_done_callback(_give_back)
            await _ended(working, CANCEL_WAIT_S)
            raise
        self._kept = working.result()

    def release(self) -> None:
        """Let the system have the RAM; until it needs it the pages stay in its cache."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.give_back()

    # What follows runs in the thread.

    def _fill(self, is_cancelled: threading.Event) -> _Kept:
        kept = _Kept(self._pages)
        try:
            with contextlib.ExitStack() as opened:
                self._fill_from(self._open(opened), kept, is_cancelled)
        except BaseException:
            kept.give_back()
            raise
        if is_cancelled.is_set():
            kept.give_back()  # here too, since the loop may have ended
        return kept

    def _open(self, opened: contextlib.ExitStack) -> list[tuple[Path, int, _Identity]]:
        """Open each file once."""
        found: dict[_Identity, tuple[Path, int, _Identity]] = {}
        for path in self._files:
            with _told(path):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                opened.callback(os.close, fd)
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    raise HoldError(f"{path} is no file.")
                identity = _identity(status)
                found.setdefault(identity, (path, fd, identity))
        if not found:
            raise HoldError("There is no file to keep in host RAM.")
        return list(found.values())

    def _fill_from(
        self,
        files: Sequence[tuple[Path, int, _Identity]],
        kept: _Kept,
        is_cancelled: threading.Event,
    ) -> None:
        total = sum(identity.size for _, _, identity in files)
        done = 0
        scratch = memoryview(mmap.mmap(-1, CHUNK_BYTES))  # page-aligned, and given back at the end
        for path, fd, identity in files:
            if identity.size == 0:
                continue  # nothing to keep, and nothing that could be mapped
            with _told(path):
                address = self._pages.map(fd, identity.size)
            kept.mappings.append((address, identity.size))
            for start in range(0, identity.size, CHUNK_BYTES):
                if is_cancelled.is_set():
                    return
                size = min(CHUNK_BYTES, identity.size - start)
                self._check_room(total - done, total)
                with _told(path):
                    _read(path, fd, start, scratch[:size])
                    self._keep(kept, address + start, size)
                done += size
                if self._on_progress is not None:
                    self._on_progress(done, total)
            with _told(path):
                # Also a file that was cut short behind the part that was read last.
                if _identity(os.stat(path)) != identity:
                    raise HoldError(f"{path} was changed while it was read.")

    def _check_room(self, needed: int, total: int) -> None:
        available = self._available()
        if available < needed + self._reserve_bytes:
            raise CapacityError(
                f"The weights ({gib(total)}) cannot be kept in host RAM: another {gib(needed)} are "
                f"needed and {gib(self._reserve_bytes)} left to others, and {gib(available)} can "
                "be had."
            )

    def _keep(self, kept: _Kept, address: int, size: int) -> None:
        if not kept.why_unlocked:
            try:
                self._lock(address, size)
                return
            except OSError as error:
                kept.give_up_locks(_why_unlocked(error))
        self._pages.populate(address, size)


def _give_back(working: asyncio.Future[_Kept]) -> None:
    if working.exception() is None:
        working.result().give_back()


async def _ended(working: asyncio.Future[_Kept], timeout_s: float) -> None:
    """Wait until the thread has ended or the time is over, however often the wait is cancelled."""
    deadline = time.monotonic() + timeout_s
    while not working.done() and (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({working}, timeout=left)


def _identity(status: os.stat_result) -> _Identity:
    return _Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _read(path: Path, fd: int, start: int, into: memoryview) -> None:
    """Have the system read a part of a file into its cache."""
    done = 0
    while done < len(into):
        count = os.preadv(fd, [into[done:]], start + done)
        if count == 0:
            raise HoldError(f"{path} was cut short while it was read.")
        done += count


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HoldError(f"{path} cannot be read: {error.strerror or error}.") from None


def _why_unlocked(error: OSError) -> str:
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if error.errno in (errno.ENOMEM, errno.EPERM, errno.EAGAIN) and limit != resource.RLIM_INFINITY:
        return (
            f"This process may lock {gib(limit)} only, so the weights in host RAM are not locked and "
            'the system may drop them when memory runs short: raise "ulimit -l" (of a container: '
            "--ulimit memlock=-1)."
        )
    return (
        f"The weights in host RAM cannot be locked ({error.strerror}), so the system may drop them "
        "when memory runs short."
    )
