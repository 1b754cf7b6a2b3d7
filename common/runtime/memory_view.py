"""What people see of models that share memory: where each is, the pools, the last moves. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from common.gateway.models import MemoryView
from common.memory.contract import Bytes, Footprint, MemoryPolicy, Tier

SHOWN_MOVES = 20
"""So many moves are kept for the page."""


@dataclass(frozen=True)
class FinishedMove:
    """A move that ended.

    Attributes:
        model: Its served name.
        source: Where it was.
        target: Where it got to; a lower tier than was meant if the move had to escalate.
        seconds: How long that took.
        reason: Why it was moved, in the scheduler's words.
        at: When it ended, in Unix time.
    """

    model: str
    source: Tier
    target: Tier
    seconds: float
    reason: str
    at: float


@dataclass(frozen=True)
class SharedMemory:
    """What the page shows of an instance's memory beside the models' own.

    Attributes:
        capacity: What the instance may take of each pool now, in the order of the pools.
        moves: The last ones, oldest first.
    """

    capacity: Bytes
    moves: Iterable[FinishedMove] = ()


class MoveLog:
    """The last moves of an instance."""

    def __init__(self, length: int = SHOWN_MOVES) -> None:
        self._moves: deque[FinishedMove] = deque(maxlen=length)

    def add(self, move: FinishedMove) -> None:
        """Keep a move; the oldest one goes."""
        self._moves.append(move)

    def __iter__(self) -> Iterator[FinishedMove]:
        return iter(tuple(self._moves))


def model_memory(
    tier: Tier,
    moving_to: Tier | None,
    footprint: Footprint,
    policy: MemoryPolicy,
    *,
    waiting: int = 0,
    reason: str = "",
    can_sleep: bool = True,
) -> MemoryView:
    """One model's memory as the gateway shows it; the arguments are the scheduler's."""
    return MemoryView(
        tier=tier.value,
        moving_to=moving_to.value if moving_to is not None else None,
        waiting=waiting,
        bytes_by_pool=taken(footprint, tier, moving_to),
        reason=reason,
        priority=policy.priority,
        is_pinned=policy.pinned,
        can_sleep=can_sleep,
    )


def move_kind(source: Tier, target: Tier) -> str:
    """The ``kind`` that a move is counted under by the telemetry."""
    if target is Tier.GPU:
        return "wake" if source is Tier.CPU else "load"
    return "sleep" if target is Tier.CPU else "stop"


def taken(footprint: Footprint, tier: Tier, moving_to: Tier | None) -> dict[str, int]:
    """Bytes by pool that a model takes now; while it moves those of both tiers, as it is planned."""
    here = footprint.of(tier)
    there = footprint.of(moving_to) if moving_to is not None and moving_to is not tier else {}
    sizes = {}
    for pool in {**here, **there}:
        both = (here.get(pool, 0), there.get(pool, 0))
        sizes[pool] = max(both) if footprint.is_shared else sum(both)
    return {pool: size for pool, size in sizes.items() if size}


def memory_state(
    shared: SharedMemory | None, models: Iterable[MemoryView | None]
) -> dict[str, Any] | None:
    """``InstanceView.state()["memory"]``: pools and moves, ready for JSON.

    Args:
        shared: Pools and moves; None: models are not moved.
        models: What they take adds up to what is held.
    """
    if shared is None:
        return None
    views = [view for view in models if view is not None]
    return {
        "pools": [
            {
                "name": pool,
                "capacity_bytes": size,
                "held_bytes": sum(view.bytes_by_pool.get(pool, 0) for view in views),
            }
            for pool, size in shared.capacity.items()
        ],
        "moves": [
            {
                "model": move.model,
                "from": move.source.value,
                "to": move.target.value,
                "seconds": round(move.seconds, 3),
                "reason": move.reason,
                "at": round(move.at, 1),
            }
            for move in shared.moves
        ],
    }
