"""Looks all the time which engines run, and whether there is memory for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

EVERY_S = 0.02
ALIVE, ASLEEP = "alive", "asleep"


def running(folder: Path) -> dict[str, list[int]]:
    """Engines that run, by model; a file that one left is removed.

    Args:
        folder: Of their files ``NAME.PID``.
    """
    found: dict[str, list[int]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            name, _, pid = entry.name.rpartition(".")
            if is_running(int(pid)):
                found.setdefault(name, []).append(int(pid))
            else:
                Path(entry.path).unlink(missing_ok=True)
    return found


def is_running(pid: int) -> bool:
    """Whether a process is there and more than a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b") ")[2][:1] not in (b"Z", b"X")


class Watch:
    """Samples what runs.

    Args:
        folder: Where the engines' folders are.
        places: Models that have a place in memory now as the scheduler counts.
        room: For how many models there is memory now.
        tell: Gets what must not be.

    Attributes:
        samples: How often it looked.
        most: Engines that ran at the same time at most.
    """

    def __init__(
        self,
        folder: Path,
        places: Callable[[], set[str]],
        room: Callable[[], int],
        tell: Callable[[str], None],
    ) -> None:
        self._alive = folder / ALIVE
        self._asleep = folder / ASLEEP
        self._places = places
        self._room = room
        self._tell = tell
        # Had their places before the memory became less; they may keep them while they are used.
        self._from_before: set[str] = set()
        self.samples = 0
        self.most = 0

    def awake(self) -> dict[str, list[int]]:
        """Engines that take a place, by model."""
        return running(self._alive)

    def asleep(self) -> dict[str, list[int]]:
        """Engines that sleep."""
        return running(self._asleep)

    def capacity_changes(self) -> None:
        """Take note of who has a place, just before there is less memory, or more."""
        self._from_before = self._places()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(EVERY_S)

    def look(self) -> None:
        """Look once."""
        self.samples += 1
        places, awake = self._places(), self.awake()
        self._from_before &= places
        count = sum(map(len, awake.values()))
        self.most = max(self.most, count)
        if count > self._room() and not set(awake) <= self._from_before:
            self._tell(f"engines of {sorted(awake)} run with memory for {self._room()}")
        if twice := [name for name, pids in awake.items() if len(pids) > 1]:
            self._tell(f"two engines run of {twice}")
        if astray := set(awake) - places:
            self._tell(f"engines of {sorted(astray)} run, which have no place in memory")
