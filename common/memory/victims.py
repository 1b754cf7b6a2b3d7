"""Who gives way: the models whose memory may be had for another one, and the choice among them."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from common.memory.contract import Bytes, ModelState, Tier, World
from common.memory.pools import Amounts
from common.memory.turns import Turns

MIN_RESIDENT_S = 1.0
MAX_RESIDENT_S = 30.0


class Group(enum.IntEnum):
    """What it costs to take a model's memory; the cheapest first."""

    CANCEL = 0
    """A load that nobody waits for any more."""
    ASLEEP = 1
    """Nobody uses it, and it would have to be woken anyway."""
    UNUSED = 2
    """It could answer, and nobody asks."""
    EXPECTED = 3
    """Somebody waits for it (its engine is restarted, or it is asleep), or wants it loaded."""
    BUSY = 4
    """It has requests: it is closed, and leaves when they are answered."""


def resident_until(model: ModelState) -> float:
    """Until when a model that became able to answer keeps its place, whoever else waits.

    That is as long as its load took, between 1 and 30 seconds: at least as much time is then spent
    ready as was spent loading.
    """
    if model.resident_since is None:
        return 0.0
    return model.resident_since + min(max(model.load_s, MIN_RESIDENT_S), MAX_RESIDENT_S)


def idle_at(model: ModelState) -> float:
    """When a model that nobody uses is to be put aside, whether anyone waits or not."""
    if model.policy.idle_offload_s is None:
        return math.inf
    return max(model.last_used, model.resident_since or 0.0) + model.policy.idle_offload_s


class Victim:
    """One model that may give way.

    Attributes:
        model: The model.
        group: What it costs.
        frees: What it would no longer hold, were it stopped (or its load cancelled).
        is_settled: It may be taken for a model that has not waited too long.
        rank: Sorts victims, whoever gives way first being the least.
    """

    __slots__ = ("frees", "group", "is_settled", "model", "rank")

    def __init__(self, model: ModelState, group: Group, now: float) -> None:
        self.model = model
        self.group = group
        self.frees = model.footprint.of(model.tier)
        if group is Group.CANCEL:
            held = self.frees
            target = model.footprint.gpu
            self.frees = {pool: n - held.get(pool, 0) for pool, n in target.items()}
        self.is_settled = group < Group.UNUSED or (
            group is Group.UNUSED and now >= min(resident_until(model), idle_at(model))
        )
        # By use where nobody has requests. Among busy ones by the time that they were loaded: the
        # last use changes while a closed one becomes empty, and the choice would with it, so that
        # each in turn would be opened again and none ever be empty.
        since = model.last_used if group is not Group.BUSY else model.resident_since or 0.0
        self.rank = (group, model.policy.priority, since, model.order)


class Victims:
    """All models of a world that may give way, least loss first; each can be taken once."""

    def __init__(self, world: World, turns: Turns) -> None:
        self._turns = turns
        found = []
        for model in world.models:
            group = _group(model, turns, may_move=bool(world.away))
            if group is not None:
                found.append(Victim(model, group, world.now))
        found.sort(key=attrgetter("rank"))
        self._all = found
        self._settled = [victim for victim in found if victim.is_settled]
        self._total = _totals(found)
        self._total_settled = _totals(self._settled)
        self._taken: set[str] = set()

    def settles_at(self) -> float | None:
        """When the next unused model has had its time, so that it may give way to anyone."""
        moments = [
            resident_until(victim.model)
            for victim in self._all
            if victim.group is Group.UNUSED and not victim.is_settled
        ]
        return min(moments, default=None)

    def for_waiting(self, missing: Amounts) -> list[Victim] | None:
        """Victims for a model that waits; None: there are not enough."""
        if _falls_short(self._total_settled, missing):
            return None
        return self._take(choose(missing, self._settled, self._is_left))

    def for_overdue(self, missing: Amounts, model: ModelState) -> list[Victim] | None:
        """Victims for a model that has waited too long, busy ones among them; None: not enough."""
        if _falls_short(self._total, missing):
            return None
        before = self._turns.is_before

        def is_allowed(victim: Victim) -> bool:
            other = victim.model
            return other is not model and self._is_left(victim) and not before(other, model)

        return self._take(choose(missing, self._all, is_allowed))

    def for_excess(self, excess: Amounts) -> list[Victim]:
        """Whoever can help where more is held than there is: unused ones, as far as they go."""
        unused = [victim for victim in self._all if victim.group <= Group.UNUSED]
        found = choose(excess, unused, self._is_left, is_part_enough=True)
        return self._take(found) or []

    def asleep_for(self, missing: Amounts, model: ModelState) -> list[Victim] | None:
        """Sleeping models that were used longer ago than `model`, which is to sleep too."""
        found = choose(
            missing,
            [victim for victim in self._all if victim.group is Group.ASLEEP],
            lambda victim: self._is_left(victim) and victim.model.last_used < model.last_used,
        )
        return self._take(found)

    def take(self, model: ModelState) -> bool:
        """Take one model; False: it is taken already, or may not be."""
        for victim in self._all:
            if victim.model is model and self._is_left(victim):
                self._take([victim])
                return True
        return False

    def give_back(self, victims: Iterable[Victim]) -> None:
        """Let go again whom there is no use for."""
        for victim in victims:
            self._taken.remove(victim.model.name)
            self._count(victim, 1)

    def _is_left(self, victim: Victim) -> bool:
        return victim.model.name not in self._taken

    def _take(self, victims: list[Victim] | None) -> list[Victim] | None:
        for victim in victims or ():
            self._taken.add(victim.model.name)
            self._count(victim, -1)
        return victims

    def _count(self, victim: Victim, sign: int) -> None:
        for pool, n in victim.frees.items():
            self._total[pool] += sign * n
            if victim.is_settled:
                self._total_settled[pool] += sign * n


def choose(
    missing: Amounts,
    ranked: Sequence[Victim],
    is_allowed: Callable[[Victim], bool],
    *,
    is_part_enough: bool = False,
) -> list[Victim] | None:
    """Choose victims in their order until nothing is missing, then let go whom it does without.

    Those with the most to lose are let go first. The set has none too many; a smaller one of
    others may exist.

    Args:
        missing: Bytes to be freed, by pool.
        ranked: Victims, the first to be taken first.
        is_allowed: Which of them count.
        is_part_enough: Return what there is where it is not enough.

    Returns:
        The victims, in their order; None: there are not enough.
    """
    left = dict(missing)
    taken: list[Victim] = []
    for victim in ranked:
        if not left:
            break
        frees = victim.frees
        if any(frees.get(pool, 0) > 0 for pool in left) and is_allowed(victim):
            taken.append(victim)
            left = {p: n - frees.get(p, 0) for p, n in left.items() if n > frees.get(p, 0)}
    if left:
        return taken if is_part_enough else None
    surplus = {p: sum(v.frees.get(p, 0) for v in taken) - n for p, n in missing.items()}
    for victim in reversed(taken[:-1]):
        frees = victim.frees
        if all(frees.get(pool, 0) <= n for pool, n in surplus.items()):
            taken.remove(victim)
            surplus = {pool: n - frees.get(pool, 0) for pool, n in surplus.items()}
    return taken


def is_unused(model: ModelState) -> bool:
    """Whether nobody has, or waits for, or wants anything of a model."""
    return not (model.in_use or model.waiting or model.is_wanted)


def _group(model: ModelState, turns: Turns, *, may_move: bool) -> Group | None:
    """What it costs to take a model's memory; None: it holds none, or keeps it."""
    if model.policy.pinned:
        return None
    if model.moving_to is not None:
        is_left = model.moving_to is Tier.GPU and is_unused(model)
        return Group.CANCEL if is_left else None
    if model.tier is Tier.DISK or not may_move:
        return None
    if model.in_use:
        # A request at a model that is asleep is on its way to wait for it.
        return Group.BUSY if model.tier is Tier.GPU else None
    if model.tier is Tier.GPU:
        return Group.UNUSED if is_unused(model) else Group.EXPECTED
    return Group.EXPECTED if turns.is_served(model) else Group.ASLEEP


def _totals(victims: Iterable[Victim]) -> Amounts:
    total: Amounts = {}
    for victim in victims:
        for pool, n in victim.frees.items():
            total[pool] = total.get(pool, 0) + n
    return total


def _falls_short(total: Bytes, missing: Bytes) -> bool:
    return any(total.get(pool, 0) < n for pool, n in missing.items())
