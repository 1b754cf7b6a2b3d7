"""Brings models to the devices for the requests that wait for them, and puts others aside for that.

One loop (`common.memory.scheduler_loop`) alone changes where models are. The methods here leave it a
request and wait for the outcome; they may be called at any time, from one event loop. What to do is
decided by a pure function (`common.memory.planner`), which is asked again after whatever could
change its answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from common.errors import CapacityError, DeployError
from common.memory.announcer import Announcer, OnMove
from common.memory.contract import (
    Bytes,
    Footprint,
    MemoryPolicy,
    ModelMover,
    Plan,
    Tier,
    World,
)
from common.memory.planner import plan
from common.memory.scheduled_model import Demand, ModelView, ScheduledModel, Wish
from common.memory.scheduler_loop import SchedulerLoop
from common.memory.scheduler_words import superseded, too_late
from common.memory.waiters import one_more

__all__ = ["Demand", "MemoryScheduler", "ModelView"]


class MemoryScheduler:
    """Decides for all models of an instance which are on the devices.

    Args:
        capacity: Bytes that the instance may take, by pool.
        away: The tiers that models may be put aside to, best first.
        decide: Says what to do.
        now: The clock, in seconds; it must run as fast as the event loop's.
        say: Gets a line for the console as each move begins and ends.
        on_move: Gets each move that ended in another tier than it began in: model, tier before,
            tier after, seconds, reason.
        on_change: Called when the `view` of any model is another. None of the three may block.
    """

    def __init__(
        self,
        capacity: Bytes,
        away: Sequence[Tier],
        *,
        decide: Callable[[World], Plan] = plan,
        now: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] | None = None,
        on_move: OnMove | None = None,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._now = now
        self._loop = SchedulerLoop(
            dict(capacity), tuple(away), decide, now, Announcer(say, on_move, on_change)
        )
        self._models = self._loop.models

    def add(
        self,
        name: str,
        footprint: Footprint,
        mover: ModelMover,
        policy: MemoryPolicy,
        demand: Demand,
        load_s: float = 1.0,
    ) -> None:
        """Take a model on, in the tier where its mover has it.

        Args:
            name: Served model name.
            footprint: What it takes, as far as that is known.
            mover: Moves it.
            policy: Its options.
            demand: Its requests.
            load_s: Estimate of how long its first load takes, in seconds.
        """
        model = ScheduledModel(name, len(self._models), footprint, mover, policy, demand, load_s)
        model.rests_in(model.tier, self._now())
        self._models[name] = model
        self._loop.ring()

    def is_open(self, name: str) -> bool:
        """Whether a request may go to the model's engine without asking, in this very step."""
        return not self._loop.is_closing and self._models[name].is_open

    async def ensure_ready(self, name: str, timeout_s: float | None = None) -> None:
        """Wait until a request may go to the model's engine; has it loaded.

        For requests that hold a place, as `Demand.in_flight` counts them. From the step in which
        the wait ends the request counts as one that the engine has, so that nothing moves the model
        before `left` is told of it. Cancelling the wait gives up this one only.

        Args:
            name: The model.
            timeout_s: How long to wait; None: for however long it takes.

        Raises:
            CapacityError: Not in time, or it can never be loaded beside the others, or the
                instance stops; `retry_after_s` says when to try again.
            DeployError: It failed to load and was given up; most often an EngineError.
        """
        model = self._models[name]
        if self._loop.is_closing:
            raise self._stopping(name)
        if model.is_open:
            return
        if model.failure is not None:
            raise one_more(model.failure) or model.failure
        waiter = model.waiters.add(self._now())
        self._loop.ring()
        late: CapacityError | None = None
        try:
            await asyncio.wait({waiter.outcome}, timeout=timeout_s)
            if not waiter.outcome.done():
                late = too_late(model, self._models.values(), self._now(), timeout_s or 0.0)
        finally:
            if model.waiters.give_up(waiter):
                self._loop.ring()
        error = late or waiter.outcome.result()
        if error is not None:
            raise error

    def left(self, name: str) -> None:
        """A request of this model gave its place back, in whatever state it was. Cheap.

        To be called in the same step in which `Demand.in_flight` becomes less.
        """
        model = self._models[name]
        if model.waiters:
            model.settle(self._loop.ring)
        elif model.demand.in_flight <= 1:  # the last one, whether it is off the count yet or not
            if self._loop.is_memory_wanted or not model.is_open:
                self._loop.ring()
            elif model.policy.idle_offload_s is not None:
                self._loop.ring_at(self._now() + model.policy.idle_offload_s)

    def changed(self, name: str, failure: DeployError | None = None) -> None:
        """The model's engine is in another state by itself: its mover's `tier` tells where it is.

        Args:
            name: The model.
            failure: It was given up: requests are told this, until an operator has it loaded.
        """
        self._models[name].engine_changed(failure)
        self._loop.ring()

    async def load(self, name: str) -> None:
        """Have a model loaded as an operator wants it, also one that was given up; wait until it is.

        Raises:
            CapacityError: There was no memory for it, it can never have enough, or the instance
                stops.
            RequestError: 409; it was put aside by another wish.
            DeployError: The load failed for good.
        """
        model = self._models[name]
        model.forgive()
        if not self.is_open(name):
            await self._wish(model, Tier.GPU)

    async def sleep(self, name: str) -> None:
        """Put a model aside into host RAM, when its requests are answered; wait until it is there.

        It stays there until a request or an operator wants it. Does nothing to one on disk.

        Raises:
            RequestError: 409; there is no room for it in host RAM, or another wish came.
            CapacityError: The instance stops.
            DeployError: The move failed.
        """
        await self._wish(self._models[name], Tier.CPU)

    async def unload(self, name: str) -> None:
        """Stop a model, when its requests are answered; wait until it is.

        It stays there until a request or an operator wants it. A process that a model on disk has
        kept ends as well.

        Raises:
            RequestError: 409; another wish came.
            CapacityError: The instance stops.
            DeployError: The move failed.
        """
        await self._wish(self._models[name], Tier.DISK)

    async def end_process(self, name: str, reason: str) -> None:
        """End the process that a model on disk has kept; does nothing to others, or while it moves.

        Args:
            name: The model.
            reason: Why, in words for the console.

        Raises:
            RequestError: 409; an operator's wish came.
            CapacityError: The instance stops.
            DeployError: The move failed.
        """
        model = self._models[name]
        if model.move is None and model.wish is None and model.mover.keeps_process:
            await self._wish(model, Tier.DISK, reason)

    def set_footprint(self, name: str, footprint: Footprint) -> None:
        """Note what a model takes, as measured."""
        self._models[name].footprint = footprint
        self._loop.ring()

    def set_capacity(self, capacity: Bytes) -> None:
        """Note what the instance may take by pool: others took memory or gave it back."""
        if dict(capacity) != self._loop.capacity:
            self._loop.capacity = dict(capacity)
            self._loop.ring()

    def view(self, name: str) -> ModelView:
        """Return where a model is and why."""
        return self._models[name].view(self._now())

    async def close(self) -> None:
        """End: those who wait are told, moves under way are cancelled; returns when nothing runs."""
        for model in self._models.values():
            model.waiters.release(self._stopping(model.name))
            model.end_wish(self._stopping(model.name))
        await self._loop.close()

    async def _wish(
        self, model: ScheduledModel, to: Tier, reason: str = "an operator wants it"
    ) -> None:
        if self._loop.is_closing:
            raise self._stopping(model.name)
        if model.wish is not None and model.wish.to is not to:
            model.end_wish(superseded(model.name))
        wish = model.wish = model.wish or Wish(to, reason)
        self._loop.ring()
        await asyncio.wait({wish.outcome})
        error = one_more(wish.outcome.result())
        if error is not None:
            raise error

    def _stopping(self, name: str) -> CapacityError:
        return CapacityError(f'The instance of the model "{name}" is stopping.')
