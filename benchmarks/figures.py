"""Figures of several rounds: medians, ratios, spreads. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Comparison:
    """One quantity measured two ways in the same rounds.

    Attributes:
        direct: The engine alone, one figure a round.
        through: By the way of the product, in the same order of rounds.

    Raises:
        ValueError: No rounds, different numbers of them, or a figure that is not positive.
    """

    direct: tuple[float, ...]
    through: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.direct or len(self.direct) != len(self.through):
            raise ValueError(f"{len(self.direct)} and {len(self.through)} rounds cannot be paired")
        if min(*self.direct, *self.through) <= 0:
            raise ValueError(f"a rate must be positive: {self.direct} and {self.through}")

    @property
    def ratio(self) -> float:
        """The median through the product, as a share of the median of the engine alone."""
        return median(self.through) / median(self.direct)

    @property
    def round_ratios(self) -> tuple[float, ...]:
        """The ratio of every round: what happened to both of a round falls out of it."""
        return tuple(t / d for d, t in zip(self.direct, self.through, strict=True))


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Take the median of each named figure over rounds that all have the same names.

    Raises:
        ValueError: No rounds, or rounds with different names.
    """
    if not rounds:
        raise ValueError("there are no rounds")
    names = list(rounds[0])
    if any(set(each) != set(names) for each in rounds):
        raise ValueError("the rounds have different figures")
    return {name: median(each[name] for each in rounds) for name in names}


def between(moments: Mapping[str, float]) -> dict[str, float]:
    """Turn moments in the order of events into the times between them, named by their ends.

    Raises:
        ValueError: A moment lies before the one that it should follow.
    """
    steps: dict[str, float] = {}
    last: float | None = None
    for name, moment in moments.items():
        if last is not None:
            if moment < last:
                raise ValueError(f'"{name}" lies {last - moment:g} s before what it should follow')
            steps[name] = moment - last
        last = moment
    return steps


def spread(values: Iterable[float], digits: int = 2) -> str:
    """The smallest and the largest of some figures, as ``0.95-1.02``."""
    found = list(values)
    low, high = f"{min(found):.{digits}f}", f"{max(found):.{digits}f}"
    return low if low == high else f"{low}-{high}"


def load_order(round_number: int) -> tuple[str, str]:
    """Which way a round measures first: they take turns, so that a drift favours neither."""
    return ("direct", "gateway") if round_number % 2 == 0 else ("gateway", "direct")
