"""A file's pages in the system's cache: dropped, read in, counted."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

from benchmarks.processes import BenchmarkError

_BLOCK = 1 << 24
# What a cold start may find: nothing says that the system drops the last page.
_COLD_SHARE = 0.02


def make_cold(path: Path) -> None:
    """Have a file read from its disk by whoever reads it next.

    Raises:
        BenchmarkError: Its pages stay: it lies in memory, or somebody has it mapped.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)  # pages that are not written yet would stay
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    if (share := cached_share(path)) > _COLD_SHARE:
        raise BenchmarkError(
            f"{share:.0%} of {path} stay in the page cache: let TMPDIR name a folder on a disk."
        )


def make_warm(path: Path) -> None:
    """Have a file in the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(_BLOCK):
            pass


def cached_share(path: Path) -> float:
    """What part of a file's pages is in the page cache, by `mincore`_.

    .. _mincore: https://man7.org/linux/man-pages/man2/mincore.2.html
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_int64]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    fd = os.open(path, os.O_RDONLY)
    try:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    finally:
        os.close(fd)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    try:
        if libc.mincore(address, size, found) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    finally:
        libc.munmap(address, size)
    return sum(flag & 1 for flag in found) / pages
