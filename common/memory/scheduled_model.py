"""One model as the scheduler keeps it: its tier, its move, who waits for it, what it may not do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from common.errors import DeployError
from common.memory.backoff import Backoff
from common.memory.contract import Footprint, MemoryPolicy, ModelMover, ModelState, Tier
from common.memory.waiters import Waiters

SETTLE_TURNS = 10
"""Turns of the event loop after which a request that was cancelled has given up its wait: one for
each task between the client's connection and `ensure_ready`, and some to spare."""


class Demand(Protocol):
    """One model's requests, as the gateway counts them."""

    @property
    def in_flight(self) -> int:
        """Requests with a place at the model: at its engine, or waiting in `ensure_ready`."""

    @property
    def queued(self) -> int:
        """Requests in line for a place."""

    @property
    def last_used(self) -> float:
        """When the last request came or ended, on the scheduler's clock; 0: there was none."""


@dataclass(frozen=True)
class ModelView:
    """A model's place as others are told.

    Attributes:
        tier: Where it is, or was before its move.
        moving_to: Where it is on its way to; None: it rests.
        waiting: Requests that wait for it.
        footprint: What it takes.
        reason: Why it moves, takes no requests or cannot be loaded, in words; "" if there is
            nothing to say.
    """

    tier: Tier
    moving_to: Tier | None
    waiting: int
    footprint: Footprint
    reason: str


class Wish:
    """An operator wants a model in a tier; on disk without a process.

    Attributes:
        to: The tier.
        reason: Why, in words.
        outcome: None: it is there; else why not.
    """

    __slots__ = ("outcome", "reason", "to")

    def __init__(self, to: Tier, reason: str) -> None:
        self.to = to
        self.reason = reason
        self.outcome: asyncio.Future[DeployError | None] = (
            asyncio.get_running_loop().create_future()
        )


@dataclass
class MoveUnderWay:
    """A move that was begun.

    Attributes:
        to: The tier.
        reason: Why, in words.
        since: When it began.
        task: Carries it out.
        is_cancelled: It was told to end.
    """

    to: Tier
    reason: str
    since: float
    task: asyncio.Task[Tier]
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Tell it to end, once: a second cancellation would break into its clearing up."""
        if not self.is_cancelled:
            self.is_cancelled = True
            self.task.cancel()


class ScheduledModel:
    """One model. The scheduler's loop alone changes its tier and its move.

    Attributes:
        tier: Where it rests, or was before its move.
        move: The one under way.
        gives_way: The plan has it take no new requests.
        wish: What an operator wants, until it is done.
        waiters: Requests that wait for it.
        failure: It was given up, and why.
        refusal: The plan says that it can never be loaded, and why.
        shortage: What its last load said of the memory that it lacked; "" if it did not.
        resident_since: When it became able to answer; None: it is not.
        load_s: How long its last load took in seconds, or the estimate.
        retry_at: It is not loaded before.
        held_until: It is not put aside before, since that failed.
        has_changed: Its mover says that it may be elsewhere.
        given_up: Its engine was given up by itself, which is not taken in yet; None: it was not.
    """

    def __init__(
        self,
        name: str,
        order: int,
        footprint: Footprint,
        mover: ModelMover,
        policy: MemoryPolicy,
        demand: Demand,
        load_s: float,
    ) -> None:
        self.name = name
        self.order = order
        self.footprint = footprint
        self.mover = mover
        self.policy = policy
        self.demand = demand
        self.load_s = load_s

        self.tier = mover.tier
        self.move: MoveUnderWay | None = None
        self.gives_way = False
        self.wish: Wish | None = None
        self.waiters = Waiters()
        self.failure: DeployError | None = None
        self.refusal: str | None = None
        self.shortage = ""
        self.resident_since: float | None = None
        self.retry_at = 0.0
        self.held_until = 0.0
        self.has_changed = False
        self.given_up: DeployError | None = None
        self.load_backoff = Backoff()
        self.away_backoff = Backoff()
        self._turns_to_settle = 0

    @property
    def is_open(self) -> bool:
        """Whether a request may go to the engine without asking."""
        return (
            self.tier is Tier.GPU
            and self.move is None
            and not self.is_gone
            and not self.gives_way
            and not self.is_to_leave
        )

    @property
    def is_gone(self) -> bool:
        """Whether its engine left its tier by itself, which the loop has yet to take in."""
        return self.has_changed and self.mover.tier is not self.tier

    @property
    def is_to_leave(self) -> bool:
        """Whether an operator wants it out of the GPU tier."""
        return self.wish is not None and self.wish.to is not Tier.GPU

    def keeps_process_against(self, wish: Wish) -> bool:
        """Whether it is where an operator wants it, but for a process that it has kept."""
        return wish.to is Tier.DISK and self.tier is Tier.DISK and self.mover.keeps_process

    @property
    def is_wanted(self) -> bool:
        """Whether an operator wants it loaded."""
        return self.wish is not None and self.wish.to is Tier.GPU

    @property
    def in_use(self) -> int:
        """Requests that its engine has, or is about to get; never too few.

        A request is taken off the waiters in the step that releases it, long before it goes on.
        The other way round, one that is cancelled gives its place back at once, and its wait only
        some turns of the event loop later: until then the difference would be too small.
        """
        requests = max(0, self.demand.in_flight - len(self.waiters))
        return max(1, requests) if self._turns_to_settle else requests

    def settle(self, settled: Callable[[], None]) -> None:
        """A request gave its place back while others wait: is it one of those?

        `in_use` is not below 1 until the event loop has come round often enough to know.

        Args:
            settled: Called then.
        """
        if not self._turns_to_settle:
            asyncio.get_running_loop().call_soon(self._turn, settled)
        self._turns_to_settle = SETTLE_TURNS

    def _turn(self, settled: Callable[[], None]) -> None:
        self._turns_to_settle -= 1
        if self._turns_to_settle:
            asyncio.get_running_loop().call_soon(self._turn, settled)
        else:
            settled()

    def rests_in(self, tier: Tier, now: float) -> None:
        """Note where it is."""
        if tier is not Tier.GPU:
            self.resident_since = None
        elif self.tier is not Tier.GPU or self.resident_since is None:
            self.resident_since = now
        self.tier = tier
        self.move = None
        self.gives_way = False

    def engine_changed(self, failure: DeployError | None) -> None:
        """Note a change of its engine's state, for the loop to take in."""
        self.has_changed = True
        self.given_up = failure

    def fail(self, error: DeployError) -> None:
        """Give it up: whoever waits for it is told, and so is whoever comes."""
        self.failure = error
        self.waiters.release(error)
        if self.is_wanted:
            self.end_wish(error)

    def forgive(self) -> None:
        """Have its next load tried at once, as if none had failed."""
        self.failure = None
        self.given_up = None
        self.shortage = ""
        self.retry_at = 0.0
        self.load_backoff.reset()

    def end_wish(self, outcome: DeployError | None) -> None:
        """Tell the operator, if there is one."""
        wish, self.wish = self.wish, None
        if wish is not None:
            wish.outcome.set_result(outcome)

    def state(self, now: float) -> ModelState:
        """Return what the planner is to know."""
        in_use = self.in_use
        if now < self.held_until:  # as good as in use: the plan has to do without its memory
            in_use = max(1, in_use)
        return ModelState(
            name=self.name,
            order=self.order,
            tier=self.tier,
            moving_to=self.move.to if self.move is not None else None,
            footprint=self.footprint,
            policy=self.policy,
            waiting=len(self.waiters),
            oldest_wait=self.waiters.oldest,
            in_use=in_use,
            is_wanted=self.is_wanted,
            last_used=self.demand.last_used,
            resident_since=self.resident_since,
            load_s=self.load_s,
            retry_at=self.retry_at,
            is_failed=self.failure is not None,
        )

    def view(self, now: float) -> ModelView:
        """Return what others are told."""
        moving_to = self.move.to if self.move is not None else None
        return ModelView(self.tier, moving_to, len(self.waiters), self.footprint, self._reason(now))

    def _reason(self, now: float) -> str:
        if self.move is not None:
            return self.move.reason
        if self.failure is not None:
            return str(self.failure)
        if self.refusal is not None:
            return self.refusal
        if self.is_to_leave:
            return "an operator put it aside; it leaves when its requests are answered"
        if self.gives_way:
            return "it gives way to another model when its requests are answered"
        return self.shortage if now < self.retry_at else ""
