"""The one loop that changes where models are: takes in what happened, asks the planner, acts."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable

from common.errors import CapacityError, InternalError
from common.memory.alarm import Alarm
from common.memory.announcer import Announcer
from common.memory.backoff import FIRST_S, Backoff
from common.memory.contract import Bytes, Move, Plan, Tier, World
from common.memory.move_outcome import DEPTH, EndedMove, settle_move
from common.memory.pools import Ledger, amounts_text, extra
from common.memory.scheduled_model import MoveUnderWay, ScheduledModel
from common.memory.scheduler_words import goes_to, is_in, no_room

logger = logging.getLogger(__name__)


class SchedulerLoop:
    """Runs from the first `ring` until `close`.

    Args:
        capacity: Bytes that the instance may take, by pool.
        away: The tiers that models may be put aside to, best first.
        decide: Says what to do.
        now: The clock, in seconds.
        announcer: Is told what happens.

    Attributes:
        models: By name, in the order of the configuration.
        capacity: May be replaced at any time; `ring` afterwards.
        is_memory_wanted: Some model is waited for, or wanted, so that memory which becomes free
            matters.
        is_closing: Nothing begins any more.
    """

    def __init__(
        self,
        capacity: Bytes,
        away: tuple[Tier, ...],
        decide: Callable[[World], Plan],
        now: Callable[[], float],
        announcer: Announcer,
    ) -> None:
        self.models: dict[str, ScheduledModel] = {}
        self.capacity = capacity
        self.is_memory_wanted = False
        self.is_closing = False
        self._away = away
        self._decide = decide
        self._now = now
        self._announcer = announcer
        self._alarm = Alarm(now)
        self._task: asyncio.Task[None] | None = None
        self._ended: list[EndedMove] = []
        self._mistakes = Backoff()
        self._decide_at = 0.0

    def ring(self) -> None:
        """Something happened: look at all of it in the event loop's next turn."""
        if self._task is None and not self.is_closing:
            self._task = asyncio.get_running_loop().create_task(self._live())
        self._alarm.ring()

    def ring_at(self, at: float) -> None:
        """Look again at a time. Cheap."""
        self._alarm.ring_at(at)

    async def close(self) -> None:
        """Begin nothing more and cancel the moves under way; returns when nothing runs."""
        self.is_closing = True
        for model in self.models.values():
            if model.move is not None:
                model.move.cancel()
        if self._task is not None:
            self._alarm.ring()
            await asyncio.wait({self._task})

    async def _live(self) -> None:
        while not self.is_closing:
            self._step()
            await self._alarm.wait()
        tasks = {model.move.task for model in self.models.values() if model.move is not None}
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
        self.is_memory_wanted = any(
            model.waiters or model.is_wanted for model in self.models.values()
        )
        self._announce()

    def _take_in(self) -> None:
        """Note the moves that ended and the engines that are elsewhere by themselves."""
        while self._ended:
            settle_move(self._ended.pop(0), self._now(), self.capacity, self._announcer)
        for model in self.models.values():
            if model.has_changed and model.move is None:
                model.has_changed = False
                tier = model.mover.tier
                if tier is not model.tier:
                    model.rests_in(tier, self._now())
                    self._announcer.say(f'"{model.name}" {is_in(tier, self.capacity)} by itself')
                failure, model.given_up = model.given_up, None
                if failure is not None and tier is not Tier.GPU:
                    model.fail(failure)

    def _serve_open(self) -> None:
        """Let those go on who wait for a model that can answer."""
        for model in self.models.values():
            if model.is_open:
                model.waiters.release()
                model.end_wish(None)  # of one that wanted it loaded: it were not open otherwise

    def _begin_wishes(self, now: float) -> None:
        """Put the models aside that an operator wants away, as far as they may be."""
        for model in self.models.values():
            wish = model.wish
            if wish is None or wish.to is Tier.GPU:
                continue
            if model.move is not None:
                if model.move.to is Tier.GPU and not model.waiters:
                    model.move.cancel()
            elif DEPTH[model.tier] >= DEPTH[wish.to] and not model.keeps_process_against(wish):
                model.end_wish(None)
            elif not model.in_use:
                more = extra(model.footprint, model.tier, wish.to)
                if Ledger(self._world(now).models, self.capacity).can_begin(more):
                    self._begin(model, wish.to, wish.reason, now, ends=wish.to is Tier.DISK)
                else:
                    model.end_wish(no_room(model.name, amounts_text(more)))

    def _world(self, now: float) -> World:
        states = tuple(model.state(now) for model in self.models.values())
        return World(states, self.capacity, self._away, now)

    def _follow(self, plan_now: Plan, now: float) -> None:
        for name in plan_now.cancelled:
            model = self.models[name]
            move = model.move
            if move is not None and move.to is Tier.GPU and not (model.waiters or model.is_wanted):
                move.cancel()
        for name, model in self.models.items():
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
        model = self.models[move.model]
        is_used = model.tier is Tier.GPU and model.in_use
        if model.move is not None or move.to is model.tier or is_used:
            # Done without, rather than harm requests by it, or leave the other moves.
            logger.error("a move against the rules was planned: %s of %s", move, model.state(now))
            self._alarm.ring_at(now + FIRST_S)
        elif not model.is_to_leave:  # an operator's move comes first
            self._begin(model, move.to, move.reason, now)

    def _begin(
        self, model: ScheduledModel, to: Tier, reason: str, now: float, *, ends: bool = False
    ) -> None:
        """Begin a move; from this very step on the model takes no request."""
        what = goes_to(to, self.capacity) if to is not model.tier else "gives up its process"
        self._announcer.say(f'"{model.name}" {what}: {reason}')
        moving = model.mover.move(to, ends_process=True) if ends else model.mover.move(to)
        task = asyncio.get_running_loop().create_task(moving)
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
        self.ring()

    def _set_alarm(self, plan_now: Plan, now: float) -> None:
        """Look again when time alone may change the plan."""
        if plan_now.look_again_at is not None:
            self._alarm.ring_at(plan_now.look_again_at)
        for model in self.models.values():
            for at in (model.retry_at, model.held_until):
                if at > now:
                    self._alarm.ring_at(at)

    def _tell_mistake(self, error: Exception) -> None:
        for model in self.models.values():
            told = InternalError(
                f'The model "{model.name}" cannot be loaded, which is a mistake of this program: '
                f"{type(error).__name__}: {error}"
            )
            model.waiters.release(told)
            if model.is_wanted:
                model.end_wish(told)

    def _announce(self) -> None:
        now = self._now()
        self._announcer.changed([model.view(now) for model in self.models.values()])
