"""Who waits for a place at a model, and who gets the next one (pure: no clock, no I/O).

Waiters stand in lines, one per API key and priority, each first in, first out. A free place goes to
a priority first, then to one of its keys:

* The highest priority comes first, but `PLACES_PER_LEVEL` places given to others lift a priority that
  has waiters by one level until it gets a place itself. A priority one level below a busy one thus
  gets about every ninth place, two levels below every seventeenth. Places are counted, not seconds,
  so that this holds for models of any speed.
* Among the keys of that priority the one that holds the fewest places comes first. Holding one more
  is made up for by `PLACES_PER_HELD` places given to others, so that a key with long requests is not
  passed by for ever. Keys that hold the same take turns.

Both are deficit counters in the manner of M. Shreedhar, G. Varghese, "Efficient Fair Queuing Using
Deficit Round Robin" (1996), with places instead of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

PLACES_PER_LEVEL = 8
PLACES_PER_HELD = 8

T = TypeVar("T")


class Line(NamedTuple):
    """The waiters of one key at one priority, as the decision sees them.

    Attributes:
        key: Name of the API key.
        priority: Higher comes first.
        held: Places that the key has now.
        passed: Places given to other keys of this priority since this line got one, or began.
        first: Arrival number of the first in it; only compared.
    """

    key: str
    priority: int
    held: int
    passed: int
    first: int


def choose_line(lines: Iterable[Line], passed: Mapping[int, int]) -> Line:
    """Return the line whose first waiter gets the next place.

    Args:
        lines: All that have a waiter; at least one.
        passed: For each priority that has a waiter, the places given to other priorities since it
            got one, or began to wait.
    """
    level = max(passed, key=lambda p: (p * PLACES_PER_LEVEL + passed[p], -p))
    return min(
        (line for line in lines if line.priority == level),
        key=lambda line: (line.held * PLACES_PER_HELD - line.passed, line.first),
    )


@dataclass(slots=True)
class _Line(Generic[T]):
    """Waiters by arrival number (a dict keeps their order), and the turn counted when it got one."""

    waiters: dict[int, T]
    mark: int


@dataclass(slots=True)
class _Level(Generic[T]):
    """One priority: its lines, its own count of places given, and the room's at its last one."""

    lines: dict[str, _Line[T]]
    turns: int
    mark: int


class Ticket(NamedTuple):
    """Where a waiter stands."""

    key: str
    priority: int
    number: int


class WaitingRoom(Generic[T]):
    """Waiters of one model in their lines. Not thread-safe: one event loop."""

    __slots__ = ("_arrivals", "_count", "_levels", "_turns")

    def __init__(self) -> None:
        self._levels: dict[int, _Level[T]] = {}
        self._arrivals = 0
        self._turns = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: str, priority: int, waiter: T) -> Ticket:
        """Stand in line."""
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = _Level({}, 0, self._turns)
        line = level.lines.get(key)
        if line is None:
            line = level.lines[key] = _Line({}, level.turns)
        self._arrivals += 1
        line.waiters[self._arrivals] = waiter
        self._count += 1
        return Ticket(key, priority, self._arrivals)

    def remove(self, ticket: Ticket) -> bool:
        """Leave the line; False if the waiter stood there no more."""
        level = self._levels.get(ticket.priority)
        line = level.lines.get(ticket.key) if level is not None else None
        if level is None or line is None or line.waiters.pop(ticket.number, None) is None:
            return False
        self._count -= 1
        if not line.waiters:
            del level.lines[ticket.key]
        if not level.lines:
            del self._levels[ticket.priority]
        return True

    def take(self, held: Mapping[str, int]) -> tuple[str, T]:
        """Remove who gets the next place; return the key and the waiter. There must be one.

        Args:
            held: Places that each key has now; a key without any may be missing.
        """
        chosen = choose_line(
            (
                Line(
                    key,
                    priority,
                    held.get(key, 0),
                    level.turns - line.mark,
                    next(iter(line.waiters)),
                )
                for priority, level in self._levels.items()
                for key, line in level.lines.items()
            ),
            {priority: self._turns - level.mark for priority, level in self._levels.items()},
        )
        level = self._levels[chosen.priority]
        line = level.lines[chosen.key]
        waiter = line.waiters[chosen.first]
        self._turns += 1
        level.turns += 1
        level.mark, line.mark = self._turns, level.turns
        self.remove(Ticket(chosen.key, chosen.priority, chosen.first))
        return chosen.key, waiter
