"""The types of Universal Memory: tiers, what models need in each, and what the planner may decide.

Memory is counted in *pools*, by name: ``gpu0``, ``gpu1``, ... for the devices that the instance may
use, in the order of ``CUDA_VISIBLE_DEVICES``; ``resident`` on a machine without a GPU, where the
engines' own memory stands for the device's; ``host`` for host RAM.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

RESIDENT = "resident"
"""The pool of models that can answer, where there is no GPU."""
HOST = "host"
"""The pool of host RAM."""

Bytes = Mapping[str, int]
"""Bytes by pool; a pool that is missing counts 0."""


class Tier(enum.Enum):
    """Where a model is."""

    GPU = "gpu"
    """It answers now: on the GPUs, or resident in host RAM where there are none."""
    CPU = "cpu"
    """Asleep: its weights are in host RAM, the device's memory is free."""
    DISK = "disk"
    """Stopped: nothing of it is in memory."""


@dataclass(frozen=True)
class Footprint:
    """What a model takes of each pool in the two tiers that take any.

    Attributes:
        gpu: While it can answer; host RAM that its engine takes then included.
        cpu: While it is asleep.
        is_shared: What it takes of a pool in both tiers is the same memory (the file pages that an
            engine maps and that are locked while it is stopped), so that a move between them needs
            the larger one and not their sum.
    """

    gpu: Bytes
    cpu: Bytes = field(default_factory=dict)
    is_shared: bool = False

    def of(self, tier: Tier) -> Bytes:
        """What it takes in a tier."""
        if tier is Tier.GPU:
            return self.gpu
        return self.cpu if tier is Tier.CPU else {}


@dataclass(frozen=True)
class MemoryPolicy:
    """How one model wants to be treated, from its options.

    Attributes:
        priority: Higher comes first, and is put aside last.
        pinned: Never put aside for another model or for being idle.
        preload: Load it at the start; None: if it fits beside those before it.
        idle_offload_s: Put it aside after so many seconds without a request; None: only for others.
        max_wait_s: A request that has waited so long makes models with requests give way: they take
            no new ones, and leave when those they have are answered.
    """

    priority: int = 0
    pinned: bool = False
    preload: bool | None = None
    idle_offload_s: float | None = None
    max_wait_s: float = 30.0


@dataclass(frozen=True)
class ModelState:
    """One model as the planner sees it. Times are seconds on the planner's clock.

    Attributes:
        name: Served model name.
        order: Its place in the configuration; breaks ties.
        tier: Where it is, or was before the move that is under way.
        moving_to: The tier that it is on its way to; None: it rests.
        footprint: What it takes.
        policy: Its options.
        waiting: Requests that wait for it to be able to answer.
        oldest_wait: Since when the oldest of those waits; None: none does.
        in_use: Requests that its engine has, or is about to get.
        is_wanted: Somebody wants it to be loaded without having a request (the start, an operator).
        last_used: When it last had a request; 0 if never.
        resident_since: When it became able to answer; None: it is not.
        load_s: How long its last load or wake took; the estimate of a first one before.
        retry_at: It is not to be loaded before then, after a load that failed.
        is_failed: It was given up: not loaded until an operator asks for it.
    """

    name: str
    order: int
    tier: Tier
    footprint: Footprint
    policy: MemoryPolicy = MemoryPolicy()
    moving_to: Tier | None = None
    waiting: int = 0
    oldest_wait: float | None = None
    in_use: int = 0
    is_wanted: bool = False
    last_used: float = 0.0
    resident_since: float | None = None
    load_s: float = 1.0
    retry_at: float = 0.0
    is_failed: bool = False


@dataclass(frozen=True)
class World:
    """All that a plan depends on.

    Attributes:
        models: Every model of the instance.
        capacity: What the instance may take of each pool now: the budget, or what others leave of it.
        away: The tiers that models may be put aside to, best first; empty: none may.
        now: The time.
    """

    models: tuple[ModelState, ...]
    capacity: Bytes
    away: tuple[Tier, ...]
    now: float


@dataclass(frozen=True)
class Move:
    """A model is to change its tier, from now on.

    Attributes:
        model: Its name.
        to: The tier.
        reason: Why, in words for the console, such as ``"b" needs its place``.
    """

    model: str
    to: Tier
    reason: str


@dataclass(frozen=True)
class Plan:
    """What to do now.

    Attributes:
        moves: To be begun at once, all of them; none is of a model that moves already.
        closed: Models that take no new request for now, since they give way: whoever comes waits.
        cancelled: Moves to the GPU tier under way that nobody waits for any more while another model
            wants the place.
        refused: Models that can never be loaded with this capacity, and why, with the numbers.
        look_again_at: When time alone may change the plan; None: only an event can.
    """

    moves: tuple[Move, ...] = ()
    closed: frozenset[str] = frozenset()
    cancelled: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    look_again_at: float | None = None


class ModelMover(Protocol):
    """Carries out the moves of one model. One move at a time."""

    async def move(self, to: Tier, *, ends_process: bool = False) -> Tier:
        """Move the model; returns the tier that it reached.

        A model on disk may have kept its engine's process, without its weights (`keeps_process`), for
        a faster way back. What such a process holds is no part of the footprint: whoever tells the
        capacity takes it off there.

        Args:
            to: The tier.
            ends_process: Only with `Tier.DISK`: the process ends in any case. This alone is allowed
                on a model that is in the tier already.

        That is `to`, or a lower one where the move had to escalate: a model whose memory was not
        freed by being put to sleep is stopped. A cancelled move to the GPU tier leaves the model on
        disk, or asleep as it was, with its memory free when this returns.

        Raises:
            EngineError: A load failed for good; the model is on disk.
            CapacityError: There was no memory after all; the model is where it was, or on disk
                (`tier` tells).
        """

    @property
    def tier(self) -> Tier:
        """Where the model is, between moves: a crash while asleep has it on disk."""

    @property
    def keeps_process(self) -> bool:
        """Whether the model is on disk and its engine's process is still there."""
