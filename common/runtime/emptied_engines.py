"""Engines whose models are on disk and whose processes were kept: what they hold, and when they go.

What such a process holds is no part of its model's footprint on disk, so it is taken off what the
models may take. It must never be the reason why another model is not loaded: an engine is stopped
instead of being emptied where its process would be in the way, and ended later where it has become so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.memory.contract import Bytes


@dataclass(frozen=True)
class Claim:
    """What a model that is not on disk for good may want.

    Attributes:
        needs: By pool, while it answers.
        is_there: It has that now, or is about to, and does not leave.
        is_waiting: Requests wait for it.
        is_pinned: It keeps its place for ever.
    """

    needs: Bytes
    is_there: bool = False
    is_waiting: bool = False
    is_pinned: bool = False


def is_in_the_way(kept: Bytes, claims: Iterable[Claim], capacity: Bytes) -> bool:
    """Whether what is kept would keep a model from being loaded. Pure.

    That is one that is waited for and has room beside those that stay, or the largest of all beside
    the pinned ones; what does not fit anyway is not kept from it.

    Args:
        kept: By pool, by all emptied engines together.
        claims: All models.
        capacity: What models and emptied engines may take together.
    """
    claims = tuple(claims)
    for pool, size in kept.items():
        if size <= 0 or pool not in capacity:
            continue

        def most(some: Iterable[Claim], pool: str = pool) -> int:
            return max((claim.needs.get(pool, 0) for claim in some), default=0)

        def total(some: Iterable[Claim], pool: str = pool) -> int:
            return sum(claim.needs.get(pool, 0) for claim in some)

        now = total(c for c in claims if c.is_there) + most(
            c for c in claims if c.is_waiting and not c.is_there
        )
        ever = total(c for c in claims if c.is_pinned) + most(c for c in claims if not c.is_pinned)
        if any(wanted <= capacity[pool] < wanted + size for wanted in (now, ever)):
            return True
    return False


def without(capacity: Bytes, kept: Bytes) -> Bytes:
    """What is left of a capacity for models."""
    return {pool: max(0, size - kept.get(pool, 0)) for pool, size in capacity.items()}


def total_of(amounts: Iterable[Bytes]) -> Bytes:
    """All amounts together, by pool."""
    found: dict[str, int] = {}
    for each in amounts:
        for pool, size in each.items():
            found[pool] = found.get(pool, 0) + size
    return found
