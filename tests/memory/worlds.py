"""Worlds for the planner's tests, in few words."""

from __future__ import annotations

from typing import Any

from common.memory.contract import (
    HOST,
    Bytes,
    Footprint,
    MemoryPolicy,
    ModelState,
    Plan,
    Tier,
    World,
)

GIB = 2**30
NOW = 1000.0
GPU, CPU, DISK = Tier.GPU, Tier.CPU, Tier.DISK


def gib(**pools: float) -> Bytes:
    """Bytes by pool, given in GiB."""
    return {pool: int(n * GIB) for pool, n in pools.items()}


def model(
    name: str,
    tier: Tier = DISK,
    size: float = 4.0,
    *,
    asleep: float = 0.0,
    footprint: Footprint | None = None,
    waited: float | None = None,
    policy: MemoryPolicy | None = None,
    **state: Any,
) -> ModelState:
    """A model that takes `size` GiB of gpu0, and `asleep` of host RAM while it sleeps.

    `waited`: for how long the oldest request has waited for it; there is one, if not told otherwise.
    One on the GPU was loaded long ago, if not told otherwise.
    """
    if waited is not None:
        state.setdefault("waiting", 1)
        state["oldest_wait"] = NOW - waited
    if tier is GPU and "moving_to" not in state:
        state.setdefault("resident_since", 0.0)
    return ModelState(
        name=name,
        order=state.pop("order", ord(name[0])),
        tier=tier,
        footprint=footprint or Footprint(gib(gpu0=size), gib(host=asleep) if asleep else {}),
        policy=policy or MemoryPolicy(),
        **state,
    )


def world(
    *models: ModelState,
    gpu: float = 10.0,
    host: float = 0.0,
    away: tuple[Tier, ...] = (DISK,),
    capacity: Bytes | None = None,
    now: float = NOW,
) -> World:
    """An instance with `gpu` GiB of gpu0 and `host` GiB of host RAM."""
    return World(models, capacity or gib(gpu0=gpu, host=host), away, now)


def moves(plan: Plan) -> dict[str, Tier]:
    """Where a plan has models go."""
    assert len({move.model for move in plan.moves}) == len(plan.moves)
    return {move.model: move.to for move in plan.moves}


def reason(plan: Plan, name: str) -> str:
    """Why a plan has a model move."""
    return next(move.reason for move in plan.moves if move.model == name)


__all__ = ["CPU", "DISK", "GIB", "GPU", "HOST", "NOW", "gib", "model", "moves", "reason", "world"]
