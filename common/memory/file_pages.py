"""System calls on a file's pages that Python has not for a mapping that may only be read."""

from __future__ import annotations

import ctypes
import mmap
import os

MADV_POPULATE_READ = 22
"""<linux/mman.h>, since Linux 5.14; before that the pages are in the cache and not mapped."""


class FilePages:
    """Maps files to be read, and locks their pages in RAM; addresses are numbers, sizes bytes."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        address, size = ctypes.c_void_p, ctypes.c_size_t
        libc.mmap.restype = address
        libc.mmap.argtypes = [address, size, *(ctypes.c_int,) * 3, ctypes.c_int64]
        libc.madvise.argtypes = [address, size, ctypes.c_int]
        for function in (libc.munmap, libc.mlock, libc.munlock):
            function.argtypes = [address, size]
        self._libc = libc

    def map(self, fd: int, size: int) -> int:
        """Map a file from its beginning; its address. Raises OSError."""
        address = self._libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if address is None or address == ctypes.c_void_p(-1).value:
            raise _last_error()
        return int(address)

    def unmap(self, address: int, size: int) -> None:
        """Give a mapping back, and its locks with it."""
        self._libc.munmap(address, size)

    def lock(self, address: int, size: int) -> None:
        """Fetch pages and keep them in RAM. Raises OSError."""
        if self._libc.mlock(address, size) != 0:
            raise _last_error()

    def unlock(self, address: int, size: int) -> None:
        """Undo `lock`."""
        self._libc.munlock(address, size)

    def populate(self, address: int, size: int) -> None:
        """Fetch pages; does nothing on a system that cannot."""
        self._libc.madvise(address, size, MADV_POPULATE_READ)


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
