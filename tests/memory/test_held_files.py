"""Files kept in RAM, with real files and the system's own word on which pages are there."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import CapacityError
from common.memory.held_files import CHUNK_BYTES, HeldFiles, HoldError

MIB = 1 << 20
SIZE = 64 * MIB
PLENTY = 1 << 50


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "weights"
    with path.open("wb") as file:
        for index in range(SIZE // MIB):
            file.write(bytes([index]) * MIB)
        file.flush()
        os.fsync(file.fileno())  # only clean pages can be dropped
    drop(path)
    yield path
    path.unlink(missing_ok=True)


def drop(path: Path) -> None:
    """Ask the system to drop a file's pages; it keeps those that are locked or mapped."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def resident_share(path: Path) -> float:
    """What part of a file's pages is in RAM, by `mincore`."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_int64]
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    fd = os.open(path, os.O_RDONLY)
    try:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    finally:
        os.close(fd)
    found = (ctypes.c_ubyte * pages)()
    try:
        done = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), found)
        assert done == 0, os.strerror(ctypes.get_errno())
    finally:
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    return sum(flag & 1 for flag in found) / pages


def locked_bytes() -> int:
    """Memory that this process has locked."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmLck" in line
    )
    return int(line.split()[1]) * 1024


def mappings_of(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


def make(*files: Path, available: int = PLENTY, reserve: int = 0, **more: object) -> HeldFiles:
    return HeldFiles(files, available=lambda: available, reserve_bytes=reserve, **more)  # type: ignore[arg-type]


def refuse(_address: int, _size: int) -> None:
    raise PermissionError(1, "Operation not permitted")


async def test_held_files_stay_in_ram_until_they_are_released(weights: Path) -> None:
    assert resident_share(weights) < 0.1
    before = locked_bytes()
    progress: list[tuple[int, int]] = []
    held = make(weights, on_progress=lambda done, total: progress.append((done, total)))
    await held.hold()
    assert held.is_held
    assert held.is_locked
    assert held.why_unlocked == ""
    assert held.held_bytes == SIZE
    assert progress == [(done, SIZE) for done in range(CHUNK_BYTES, SIZE + 1, CHUNK_BYTES)]
    assert locked_bytes() - before == SIZE
    drop(weights)
    assert resident_share(weights) == 1.0
    await held.hold()  # again is the same
    assert locked_bytes() - before == SIZE

    held.release()
    assert not held.is_held
    assert held.held_bytes == 0
    assert locked_bytes() == before
    assert mappings_of(weights) == 0
    drop(weights)
    assert resident_share(weights) < 0.1
    held.release()
    await held.hold()
    assert held.is_held
    held.release()


async def test_without_a_lock_they_are_mapped_and_said_to_be(weights: Path) -> None:
    before = locked_bytes()
    held = make(weights, lock=refuse)
    await held.hold()
    assert held.is_held
    assert not held.is_locked
    assert "not locked" in held.why_unlocked or "cannot be locked" in held.why_unlocked
    assert locked_bytes() == before
    drop(weights)  # the system drops no page that is mapped for a mere wish
    assert resident_share(weights) == 1.0
    held.release()
    assert mappings_of(weights) == 0


async def test_a_lock_that_is_refused_in_the_middle_leaves_none(weights: Path) -> None:
    before = locked_bytes()
    real = make(weights)._pages.lock
    calls: list[int] = []

    def lock(address: int, size: int) -> None:
        calls.append(size)
        if len(calls) == 3:
            raise OSError(12, "Cannot allocate memory")
        real(address, size)

    held = make(weights, lock=lock)
    await held.hold()
    assert len(calls) == 3  # it is not tried again
    assert not held.is_locked
    assert locked_bytes() == before
    assert resident_share(weights) == 1.0
    held.release()


def test_a_user_whose_limit_is_small_is_told(weights: Path) -> None:
    """In a process without the right to lock as much as it likes (CAP_IPC_LOCK)."""
    script = """
        import asyncio, ctypes, resource, sys
        from pathlib import Path
        from common.memory.held_files import HeldFiles
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
        # Version 3 of <linux/capability.h>: effective, permitted, inheritable of each 32.
        header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capget(header, sets) == 0
        sets[0] &= ~(1 << 14)
        assert ctypes.CDLL(None).capset(header, sets) == 0
        held = HeldFiles([Path(sys.argv[1])], available=lambda: 1 << 50)
        asyncio.run(held.hold())
        print(held.is_held, held.is_locked, held.held_bytes, held.why_unlocked)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(weights)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"True False {SIZE} ")
    assert "may lock 8.00 MiB only" in run.stdout
    assert "ulimit -l" in run.stdout


async def test_without_the_ram_nothing_is_kept(weights: Path) -> None:
    held = make(weights, available=SIZE + 9 * MIB, reserve=10 * MIB)
    with pytest.raises(
        CapacityError, match=r"0.06 GiB are needed.*0.01 GiB left to others.*0.07 GiB"
    ):
        await held.hold()
    assert not held.is_held
    assert mappings_of(weights) == 0
    assert resident_share(weights) < 0.1  # it was not even read


async def test_ram_that_runs_short_meanwhile_gives_all_back(weights: Path) -> None:
    before = locked_bytes()
    rooms = iter([SIZE, SIZE, 3 * MIB])
    held = HeldFiles([weights], available=lambda: next(rooms), reserve_bytes=0)
    with pytest.raises(CapacityError, match=r"another 0.03 GiB are needed.*3.00 MiB"):
        await held.hold()
    assert not held.is_held
    assert locked_bytes() == before
    assert mappings_of(weights) == 0


async def test_a_cancelled_hold_gives_all_back(weights: Path) -> None:
    before = locked_bytes()
    goes_on = threading.Event()
    reached = threading.Event()

    def wait(done: int, _total: int) -> None:
        if done == 2 * CHUNK_BYTES:
            reached.set()
            goes_on.wait(10)

    held = make(weights, on_progress=wait)
    holding = asyncio.create_task(held.hold())
    await asyncio.to_thread(reached.wait, 10)
    holding.cancel()
    await asyncio.sleep(0.05)
    assert not holding.done()  # it gives all back first
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert not held.is_held
    assert locked_bytes() == before
    assert mappings_of(weights) == 0


async def test_a_hold_that_is_cancelled_as_it_is_done_gives_all_back(weights: Path) -> None:
    """The thread is through, and the event loop has not heard of it yet."""
    before = threading.active_count()
    reached = threading.Event()
    held = make(weights, on_progress=lambda done, total: done == total and reached.set())
    holding = asyncio.create_task(held.hold())
    await asyncio.sleep(0)
    assert reached.wait(10)
    deadline = time.monotonic() + 5
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # noqa: ASYNC251 - the loop is to stand still
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert not held.is_held
    assert mappings_of(weights) == 0


async def test_a_hold_that_hangs_in_the_disk_can_be_left(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.memory.held_files.CANCEL_WAIT_S", 0.1)
    goes_on = threading.Event()
    reached = threading.Event()

    def hang(_done: int, _total: int) -> None:
        reached.set()
        goes_on.wait(10)

    held = make(weights, on_progress=hang)
    holding = asyncio.create_task(held.hold())
    await asyncio.to_thread(reached.wait, 10)
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(holding, 5)
    assert mappings_of(weights) > 0
    goes_on.set()
    await until(lambda: mappings_of(weights) == 0)
    assert not held.is_held


async def test_the_same_file_under_two_names_counts_once(weights: Path) -> None:
    link = weights.with_name("link")
    link.symlink_to(weights)
    held = make(weights, link, weights)
    await held.hold()
    assert held.held_bytes == SIZE
    assert mappings_of(weights) == 1
    held.release()


async def test_an_empty_file_among_them_is_no_hindrance(weights: Path) -> None:
    empty = weights.with_name("empty")
    empty.touch()
    held = make(empty, weights)
    await held.hold()
    assert held.held_bytes == SIZE
    held.release()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "no file"),
    ],
)
async def test_a_file_that_is_none_is_told(
    weights: Path, spoil: Callable[[Path], object], words: str
) -> None:
    other = weights.with_name("other")
    other.write_bytes(bytes(MIB))
    spoil(other)
    held = make(weights, other)
    with pytest.raises(HoldError, match=words):
        await held.hold()
    assert mappings_of(weights) == 0
    if other.is_dir():
        other.rmdir()


async def test_nothing_to_keep_is_told() -> None:
    with pytest.raises(HoldError, match="no file"):
        await make().hold()


@pytest.mark.parametrize("cut_to", [0, CHUNK_BYTES // 2, CHUNK_BYTES, SIZE - 1])
@pytest.mark.parametrize("is_locked", [True, False])
async def test_a_file_that_is_cut_short_meanwhile_is_told(
    weights: Path, cut_to: int, is_locked: bool
) -> None:
    """Behind what was read, and before it: neither may end this process."""

    def cut(done: int, _total: int) -> None:
        if done == 2 * CHUNK_BYTES:
            os.truncate(weights, cut_to)

    held = make(weights, on_progress=cut, **({} if is_locked else {"lock": refuse}))
    with pytest.raises(HoldError, match="cut short|changed"):
        await held.hold()
    assert mappings_of(weights) == 0


async def test_a_file_that_is_replaced_meanwhile_is_told(weights: Path) -> None:
    other = weights.with_name("other")
    other.write_bytes(bytes(MIB))
    held = make(weights, on_progress=lambda *_: other.exists() and other.rename(weights))
    with pytest.raises(HoldError, match="was changed"):
        await held.hold()
    assert mappings_of(weights) == 0


async def test_a_held_file_that_is_cut_short_is_released_without_harm(weights: Path) -> None:
    held = make(weights)
    await held.hold()
    os.truncate(weights, 0)
    held.release()
    assert mappings_of(weights) == 0


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Poll until `condition` holds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not condition():
        assert loop.time() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)
