"""Tiers, moves and memory in words, for the tables that ClearML shows. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from common.gateway.models import MemoryTier, MemoryView
from common.memory.contract import HOST, RESIDENT
from common.memory.pools import HELD

_TIERS: Mapping[MemoryTier, str] = {"gpu": "loaded", "cpu": "asleep in RAM", "disk": "on disk"}
_STATUSES: Mapping[str, str] = {
    "sleeping": "asleep, wakes with a request",
    "offloaded": "unloaded, loads with a request",
}
_GIB = 2**30


def tier_words(memory: MemoryView) -> str:
    """Where a model is, and where it is on its way to."""
    here = _TIERS[memory.tier]
    if memory.moving_to is None or memory.moving_to == memory.tier:
        return here
    return f"{here} → {_TIERS[memory.moving_to]}"


def status_words(status: str, memory: MemoryView | None) -> str:
    """A model's status for people; what it is doing, while it moves."""
    moving_to = memory.moving_to if memory is not None else None
    if status == "failed" or memory is None or moving_to is None:
        if memory is not None and memory.tier == "gpu" and status in _STATUSES:
            # It takes no new requests, and is put aside once those it has are answered.
            return "giving way"
        return _STATUSES.get(status, status)
    if moving_to == "gpu":
        doing = "waking" if memory.tier == "cpu" else "loading"
    else:
        doing = "going to sleep" if moving_to == "cpu" else "unloading"
    if not memory.waiting:
        return doing
    waits = "1 request waits" if memory.waiting == 1 else f"{memory.waiting} requests wait"
    return f"{doing}, {waits}"


def memory_words(memory: MemoryView) -> str:
    """What a model takes of each pool, such as ``GPU 0 5.20 GiB, RAM 1.00 GiB``.

    The part of the RAM that has a bound of its own is left out: it is RAM already.
    """
    parts = [
        f"{pool_words(pool)} {size / _GIB:.2f} GiB"
        for pool, size in sorted(memory.bytes_by_pool.items())
        if size and pool != HELD
    ]
    return ", ".join(parts)


def pool_words(pool: str) -> str:
    """A pool's name for people."""
    if pool == HOST:
        return "RAM"
    if pool == RESIDENT:
        return "engines"
    return f"GPU {pool.removeprefix('gpu')}"
