"""Brings models to the devices for the requests that wait for them, and puts others aside for that.

One loop (`MemoryScheduler._live`) alone changes where models are. The public methods leave it a
request and wait for the outcome; they may be called at any time, from the loop's event loop. What
to do is decided by a pure function (`common.memory.planner`), which is asked again after whatever
could change its answer.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence

from common.errors import CapacityError, InternalError
from common.memory.alarm import Alarm
from common.memory.announcer import Announcer, OnMove
from common.memory.backoff import Backoff
from common.memory.contract import (
    Bytes,
    Footprint,
    MemoryPolicy,
    ModelMover,
    Move,
    Plan,
    Tier,
    World,
)
from common.memory.move_outcome import DEPTH, EndedMove, settle_move
from common.memory.planner import plan
from common.memory.pools import Ledger, amounts_text, extra
from common.memory.scheduled_model import Demand, ModelView, MoveUnderWay, ScheduledModel, Wish
from common.memory.scheduler_words import goes_to, is_in, no_room, superseded, too_late
from common.memory.waiters import one_more

__all__ = ["Demand", "MemoryScheduler", "ModelView"]

logger = logging.getLogger(__name__)


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
        self._capacity = dict(capacity)
        self._away = tuple(away)
        self._decide = decide
        self._now = now
        self._announcer = Announcer(say, on_move, on_change)
        self._models: dict[str, ScheduledModel] = {}
        self._alarm = Alarm(now)
        self._loop: asyncio.Task[None] | None = None
        self._ended: list[EndedMove] = []
        self._is_memory_wanted = False
        self._is_closing = False
        self._mistakes = Backoff()
        self._decide_at = 0.0

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
        self._ring()

    def is_open(self, name: str) -> bool:
        """Whether a request may go to the model's engine without asking, in this very step."""
        return not self._is_closing and self._models[name].is_open

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
        if self._is_closing:
            raise self._stopping(name)
        if model.is_open:
            return
        if model.failure is not None:
            raise one_more(model.failure) or model.failure
        waiter = model.waiters.add(self._now())
        self._ring()
        late: CapacityError | None = None
        try:
            await asyncio.wait({waiter.outcome}, timeout=timeout_s)
            if not waiter.outcome.done():
                late = too_late(model, self._models.values(), self._now(), timeout_s or 0.0)
        finally:
            if model.waiters.give_up(waiter):
                self._ring()
        error = late or waiter.outcome.result()
        if error is not None:
            raise error

    def left(self, name: str) -> None:
        """A request of this model gave its place back, in whatever state it was. Cheap.

        To be called in the same step in which `Demand.in_flight` becomes less.
        """
        model = self._models[name]
        if model.waiters:
            model.settle(self._ring)
        elif model.demand.in_flight <= 1:  # the last one, whether it is off the count yet or not
            if self._is_memory_wanted or not model.is_open:
                self._ring()
            elif model.policy.idle_offload_s is not None:
                self._alarm.ring_at(self._now() + model.policy.idle_offload_s)

    def changed(self, name: str) -> None:
        """The model's engine came to be in another tier by itself: its mover's `tier` tells."""
        self._models[name].has_changed = True
        self._ring()

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

        It stays there until a request or an operator wants it.

        Raises:
            RequestError: 409; another wish came.
            CapacityError: The instance stops.
            DeployError: The move failed.
        """
        await self._wish(self._models[name], Tier.DISK)

    def set_footprint(self, name: str, footprint: Footprint) -> None:
        """Note what a model takes, as measured."""
        self._models[name].footprint = footprint
        self._ring()

    def set_capacity(self, capacity: Bytes) -> None:
        """Note what the instance may take by pool: others took memory or gave it back."""
        if dict(capacity) != self._capacity:
            self._capacity = dict(capacity)
            self._ring()

    def view(self, name: str) -> ModelView:
        """Return where a model is and why."""
        return self._models[name].view(self._now())

    async def close(self) -> None:
        """End: those who wait are told, moves under way are cancelled; returns when nothing runs."""
        self._is_closing = True
        for model in self._models.values():
            model.waiters.release(self._stopping(model.name))
            model.end_wish(self._stopping(model.name))
            if model.move is not None:
                model.move.cancel()
        if self._loop is not None:
            self._ring()
            await asyncio.wait({self._loop})

    def _ring(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop().create_task(self._live())
        self._alarm.ring()

    async def _wish(self, model: ScheduledModel, to: Tier) -> None:
        if self._is_closing:
            raise self._stopping(model.name)
        if model.wish is not None and model.wish.to is not to:
            model.end_wish(superseded(model.name))
        wish = model.wish = model.wish or Wish(to)
        self._ring()
        await asyncio.wait({wish.outcome})
        error = one_more(wish.outcome.result())
        if error is not None:
            raise error

    def _stopping(self, name: str) -> CapacityError:
        return CapacityError(f'The instance of the model "{name}" is stopping.')

    # The loop. Everything below runs in it, but for `_ended_move`.

    async def _live(self) -> None:
        while not self._is_closing:
            self._step()
            await self._alarm.wait()
        tasks = {model.move.task for model in self._models.values() if model.move is not None}
        if tasks:
            await asyncio.wait(tasks)
        self._take_in()
        self._announce()

    def _step(self) -> None:
        """Take in what happened and do what the plan says, without any wait in between.

        So what the plan knows of the requests is still true when its moves begin.
        """
        now = self._now()
        try:
            self._take_in()
            self._serve_open()
            self._begin_wishes(now)
            if now >= self._decide_at:
                self._follow(self._decide(self._world(now)), now)
                self._mistakes.reset()
            self._serve_open()
        except Exception as error:
            # Those who wait for memory could only wait in vain, and the others are served.
            logger.exception("the memory scheduler failed")
            self._tell_mistake(error)
            self._decide_at = now + self._mistakes.next()
        if now < self._decide_at:
            self._alarm.ring_at(self._decide_at)
        self._is_memory_wanted = any(
            model.waiters or model.is_wanted for model in self._models.values()
        )
        self._announce()

    def _take_in(self) -> None:
        """Note the moves that ended and the engines that are elsewhere by themselves."""
        ended, self._ended = self._ended, []
        for each in ended:
            settle_move(each, self._now(), self._capacity, self._announcer)
        for model in self._models.values():
            if model.has_changed and model.move is None:
                model.has_changed = False
                tier = model.mover.tier
                if tier is not model.tier:
                    model.rests_in(tier, self._now())
                    self._announcer.say(f'"{model.name}" {is_in(tier, self._capacity)} by itself')

    def _serve_open(self) -> None:
        """Let those go on who wait for a model that can answer."""
        for model in self._models.values():
            if model.is_open:
                model.waiters.release()
                model.end_wish(None)  # of one that wanted it loaded: it were not open otherwise

    def _begin_wishes(self, now: float) -> None:
        """Put the models aside that an operator wants away, as far as they may be."""
        for model in self._models.values():
            wish = model.wish
            if wish is None or wish.to is Tier.GPU:
                continue
            if model.move is not None:
                if model.move.to is Tier.GPU and not model.waiters:
                    model.move.cancel()
            elif DEPTH[model.tier] >= DEPTH[wish.to]:
                model.end_wish(None)
            elif not model.in_use:
                more = extra(model.footprint, model.tier, wish.to)
                if Ledger(self._world(now).models, self._capacity).can_begin(more):
                    self._begin(model, wish.to, "as an operator wants it", now)
                else:
                    model.end_wish(no_room(model.name, amounts_text(more)))

    def _world(self, now: float) -> World:
        states = tuple(model.state(now) for model in self._models.values())
        return World(states, self._capacity, self._away, now)

    def _follow(self, plan_now: Plan, now: float) -> None:
        for name in plan_now.cancelled:
            model = self._models[name]
            move = model.move
            if move is not None and move.to is Tier.GPU and not (model.waiters or model.is_wanted):
                move.cancel()
        for name, model in self._models.items():
            model.refusal = plan_now.refused.get(name)
            if model.refusal is not None:
                refused = CapacityError(model.refusal)
                model.waiters.release(refused)
                if model.is_wanted:
                    model.end_wish(refused)
            model.gives_way = (
                name in plan_now.closed and model.tier is Tier.GPU and model.move is None
            )
        for planned in plan_now.moves:
            self._begin_planned(planned, now)
        self._set_alarm(plan_now, now)

    def _begin_planned(self, move: Move, now: float) -> None:
        model = self._models[move.model]
        is_busy = model.tier is Tier.GPU and model.in_use
        if model.move is not None or move.to is model.tier or is_busy:
            raise InternalError(
                f'The plan moves "{model.name}" to {move.to.value} against the rules: it is in '
                f"{model.tier.value}, {'moves already' if model.move else 'rests'}, and has "
                f"{model.in_use} requests."
            )
        if not model.is_to_leave:  # the operator's move comes first
            self._begin(model, move.to, move.reason, now)

    def _begin(self, model: ScheduledModel, to: Tier, reason: str, now: float) -> None:
        """Begin a move; from this very step on the model takes no request."""
        self._announcer.say(f'"{model.name}" {goes_to(to, self._capacity)} {reason}')
        task = asyncio.get_running_loop().create_task(model.mover.move(to))
        model.move = MoveUnderWay(to, reason, now, task)
        model.gives_way = False
        task.add_done_callback(functools.partial(self._ended_move, model, model.move))

    def _ended_move(
        self, model: ScheduledModel, move: MoveUnderWay, task: asyncio.Task[Tier]
    ) -> None:
        """Leave the outcome of a move to the loop."""
        if task.cancelled():  # possibly before its first step
            ended = EndedMove(model, move, None, None)
        elif (error := task.exception()) is not None:
            ended = EndedMove(model, move, None, error)
        else:
            ended = EndedMove(model, move, task.result(), None)
        self._ended.append(ended)
        self._ring()

    def _set_alarm(self, plan_now: Plan, now: float) -> None:
        """Look again when time alone may change the plan."""
        if plan_now.look_again_at is not None:
            self._alarm.ring_at(plan_now.look_again_at)
        for model in self._models.values():
            for at in (model.retry_at, model.held_until):
                if at > now:
                    self._alarm.ring_at(at)

    def _tell_mistake(self, error: Exception) -> None:
        for model in self._models.values():
            told = InternalError(
                f'The model "{model.name}" cannot be loaded, which is a mistake of this program: '
                f"{type(error).__name__}: {error}"
            )
            model.waiters.release(told)
            if model.is_wanted:
                model.end_wish(told)

    def _announce(self) -> None:
        self._announcer.changed([self.view(name) for name in self._models])
