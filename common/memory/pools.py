"""What is held of each memory pool: now, soon, and once all that is decided has happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from common.memory.contract import HOST, RESIDENT, Bytes, Footprint, ModelState, Tier

HELD = "held"
"""The pool of host RAM that models hold while they are put aside, where that is bounded; all of it counts
in the pool of host RAM as well."""

Amounts = dict[str, int]
"""Bytes by pool, to be counted with; a pool that is missing counts 0."""

_NOTHING: Bytes = {}


def gib(count: int) -> str:
    """Render bytes for people, in GiB."""
    if not count:
        return "0 GiB"
    return f"{count / 2**30:.2f} GiB" if count >= 10 * 2**20 else f"{count / 2**20:.2f} MiB"


def pool_label(pool: str) -> str:
    """Name a pool for people."""
    if pool == HOST:
        return "host RAM"
    if pool == RESIDENT:
        return "RAM (Max CUDA Memory)"
    if pool == HELD:
        return "host RAM for models put aside"
    return f"GPU {pool[3:]}" if pool.startswith("gpu") else pool


def place_label(pool: str, capacity: Bytes) -> str:
    """Name a pool of a capacity: where there is no budget, all RAM is for models that answer."""
    is_all = pool == RESIDENT and capacity.get(RESIDENT) == capacity.get(HOST)
    return pool_label(HOST if is_all else pool)


def amounts_text(amounts: Bytes) -> str:
    """Render amounts for people, as ``4.00 GiB of GPU 0 and 1.00 GiB of host RAM``.

    RAM is named once where pools of it stand for the same bytes; without a name where that is all.
    """
    named = {pool: n for pool, n in sorted(amounts.items()) if n > 0}
    if named.get(HELD) == (host := named.get(HOST)):
        named.pop(HELD, None)
    if host is not None and named == {RESIDENT: host, HOST: host}:
        return gib(host)
    parts = [f"{gib(n)} of {pool_label(pool)}" for pool, n in named.items()]
    if len(parts) < 2:
        return parts[0] if parts else "no memory"
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def extra(footprint: Footprint, source: Tier, target: Tier) -> Bytes:
    """What a model takes while it moves, above what it holds in the tier that it comes from."""
    wanted = footprint.of(target)
    if not footprint.is_shared or not wanted:
        return wanted
    held = footprint.of(source)
    return {pool: n - held.get(pool, 0) for pool, n in wanted.items() if n > held.get(pool, 0)}


def held_in_the_end(model: ModelState) -> Bytes:
    """What a model holds when the move that it is on has ended."""
    tier = model.tier if model.moving_to is None else model.moving_to
    return _NOTHING if tier is Tier.DISK else model.footprint.of(tier)


class Ledger:
    """Bytes held by pool, at three times. Decisions are entered as they are made.

    Attributes:
        now: At this moment; a model that moves counts with all that its move takes.
        soon: When the moves under way, and those decided here, have ended.
        after: When besides all have left that are to give way, and all have come that a place is
            kept for.
    """

    def __init__(self, models: Iterable[ModelState], capacity: Bytes) -> None:
        self.capacity = capacity
        self.now: Amounts = {}
        self.soon: Amounts = {}
        for model in models:
            source, target = model.tier, model.moving_to
            if target is None:
                if source is not Tier.DISK:
                    held = model.footprint.of(source)
                    _add(self.now, held)
                    _add(self.soon, held)
            else:
                _add(self.now, model.footprint.of(source))
                _add(self.now, extra(model.footprint, source, target))
                _add(self.soon, model.footprint.of(target))
        self.after: Amounts = dict(self.soon)

    def can_begin(self, more: Bytes) -> bool:
        """Whether a move that takes so much more can begin at once."""
        return _fits(self.now, more, self.capacity)

    def can_begin_soon(self, more: Bytes) -> bool:
        """Whether it can begin when the moves under way have ended."""
        return _fits(self.soon, more, self.capacity)

    def can_stay(self, footprint: Footprint, source: Tier, target: Tier) -> bool:
        """Whether a model can move without taking what is kept for another one."""
        held = footprint.of(source)
        more = {pool: n - held.get(pool, 0) for pool, n in footprint.of(target).items()}
        return _fits(self.after, more, self.capacity)

    def missing(self, more: Bytes) -> Amounts:
        """What is missing in the end for a model that takes so much more."""
        after, capacity = self.after, self.capacity
        found = {}
        for pool, n in more.items():
            short = after.get(pool, 0) + n - capacity.get(pool, 0)
            if n > 0 and short > 0:
                found[pool] = short
        return found

    def excess(self) -> Amounts:
        """What will be held above the capacity."""
        capacity = self.capacity
        return {p: n - capacity.get(p, 0) for p, n in self.after.items() if n > capacity.get(p, 0)}

    def begin(self, footprint: Footprint, source: Tier, target: Tier) -> None:
        """A move begins; what it means for `after` is entered by the one who decides it."""
        _add(self.now, extra(footprint, source, target))
        _add(self.soon, footprint.of(target))
        _subtract(self.soon, footprint.of(source))

    def keep(self, more: Bytes) -> None:
        """Somebody is to have so much in the end."""
        _add(self.after, more)

    def release(self, less: Bytes) -> None:
        """Somebody is to leave so much in the end."""
        _subtract(self.after, less)

    def free(self, pool: str) -> int:
        """Bytes of a pool that nobody holds now."""
        return max(0, self.capacity.get(pool, 0) - self.now.get(pool, 0))


def _fits(held: Mapping[str, int], more: Bytes, capacity: Bytes) -> bool:
    # A pool that the move takes nothing of may be over its capacity: it is not the move's fault.
    for pool, n in more.items():
        if n > 0 and held.get(pool, 0) + n > capacity.get(pool, 0):
            return False
    return True


def _add(total: Amounts, more: Bytes) -> None:
    for pool, n in more.items():
        total[pool] = total.get(pool, 0) + n


def _subtract(total: Amounts, less: Bytes) -> None:
    for pool, n in less.items():
        total[pool] = total.get(pool, 0) - n
