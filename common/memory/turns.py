"""Whose turn it is: the order in which models that are waited for are served."""

from __future__ import annotations

import math

from common.memory.contract import ModelState, Tier, World
from common.memory.pools import Amounts, amounts_text, gib, held_in_the_end, place_label

Turn = tuple[int, float, float, int]


class Turns:
    """The models that are waited for, in their order, and those that can never have a turn.

    First come those with a request that has waited longer than the model's `max_wait_s`, by age;
    then the others by priority, then by age; a model that is wanted without a request comes after
    those of its priority that have one.

    Attributes:
        served: Models to be loaded, whose turn comes first first; none of them moves.
        refused: Models that cannot be loaded with this capacity, and why.
        look_again_at: When time alone changes the order or who is in it; None: never.
    """

    def __init__(self, world: World) -> None:
        self._now = world.now
        self._capacity = world.capacity
        self._away = bool(world.away)
        self.refused: dict[str, str] = {}
        self.look_again_at: float | None = None
        self._lasting = _lasting(world)
        self._models = world.models
        served = []
        for model in world.models:
            if model.waiting:
                self._look_again(_overdue_at(model))
            if model.tier is Tier.GPU and model.moving_to is None:
                continue
            if self._is_refused(model):
                continue
            if self.is_served(model):
                served.append((self.turn(model), model))
        served.sort(key=lambda pair: pair[0])
        self.served = [model for _, model in served]

    def is_overdue(self, model: ModelState) -> bool:
        """Whether a request has waited for a model for longer than its limit."""
        return model.waiting > 0 and self._now >= _overdue_at(model)

    def is_served(self, model: ModelState) -> bool:
        """Whether a model is to be loaded as soon as there is room and it rests."""
        if not (model.waiting or model.is_wanted) or model.is_failed:
            return False
        if model.moving_to is Tier.GPU or model.name in self.refused:
            return False
        if model.retry_at > self._now:
            self._look_again(model.retry_at)
            return False
        return True

    def turn(self, model: ModelState) -> Turn:
        """Sorts models by their turns, the first being the least."""
        since = math.inf if model.oldest_wait is None else model.oldest_wait
        if self.is_overdue(model):
            return (0, since, 0.0, model.order)
        return (1, -model.policy.priority, since, model.order)

    def is_before(self, model: ModelState, overdue: ModelState) -> bool:
        """Whether a model is waited for and has its turn before another one, which is overdue."""
        if not self.is_overdue(model) or self.turn(model) >= self.turn(overdue):
            return False
        # One that can answer, or soon can again, has its turn now.
        return (model.tier is Tier.GPU and model.moving_to is None) or self.is_served(model)

    def wakes_never(self, model: ModelState) -> bool:
        """Whether a sleeping model has to be stopped first: both of its tiers at once are too much."""
        if model.tier is not Tier.CPU or model.footprint.is_shared:
            return False
        own = self._own(model)
        for pool, n in model.footprint.gpu.items():
            lasting = self._lasting.get(pool, 0) - own.get(pool, 0)
            both = n + model.footprint.cpu.get(pool, 0)
            if n > 0 and lasting + both > self._capacity.get(pool, 0):
                return True
        return False

    def _own(self, model: ModelState) -> Amounts:
        is_counted = model.policy.pinned or not self._away
        return dict(held_in_the_end(model)) if is_counted else {}

    def _is_refused(self, model: ModelState) -> bool:
        if model.moving_to is Tier.GPU:
            return False
        lasting, capacity = self._lasting, self._capacity
        own: Amounts | None = None
        for pool, n in model.footprint.gpu.items():
            if n <= 0 or lasting.get(pool, 0) + n <= capacity.get(pool, 0):
                continue
            own = self._own(model) if own is None else own
            beside = lasting.get(pool, 0) - own.get(pool, 0)
            if beside + n > capacity.get(pool, 0):
                self.refused[model.name] = self._refusal(model, pool, n, beside)
                return True
        return False

    def _refusal(self, model: ModelState, pool: str, needed: int, beside: int) -> str:
        place = place_label(pool, self._capacity)
        text = (
            f'"{model.name}" needs {gib(needed)} of {place}, and the instance may take '
            f"{gib(self._capacity.get(pool, 0))} there"
        )
        if not beside:
            return text
        holders = [
            f'"{other.name}"'
            for other in self._models
            if other is not model and _lasts(other, self._away) and held_in_the_end(other).get(pool)
        ]
        why = "pinned" if self._away else "since no model may be put aside"
        keeps = "keeps" if len(holders) == 1 else "keep"
        return f"{text}, of which {', '.join(holders)} ({why}) {keeps} {gib(beside)}"

    def _look_again(self, moment: float) -> None:
        if self._now < moment < math.inf and (
            self.look_again_at is None or moment < self.look_again_at
        ):
            self.look_again_at = moment


def load_text(model: ModelState, now: float) -> str:
    """Say why a model is loaded, and how much memory that takes."""
    need = amounts_text(model.footprint.gpu)
    waits = _waits(model, now)
    return f"{waits}; it takes {need}" if waits else f"it is wanted, and takes {need}"


def room_text(model: ModelState, now: float) -> str:
    """Say for whom another model is put aside."""
    waits = _waits(model, now)
    return f'"{model.name}" needs its place' + (f" ({waits})" if waits else "")


def _waits(model: ModelState, now: float) -> str:
    """Say who waits for a model, and for how long; empty: nobody does."""
    if not model.waiting or model.oldest_wait is None:
        return ""
    waited = f"{now - model.oldest_wait:.0f} s"
    if model.waiting == 1:
        return f"a request waits, {waited}"
    return f"{model.waiting} requests wait, up to {waited}"


def _overdue_at(model: ModelState) -> float:
    return math.inf if model.oldest_wait is None else model.oldest_wait + model.policy.max_wait_s


def _lasts(model: ModelState, away: bool) -> bool:
    """Whether a model keeps what it holds, whoever waits."""
    return model.policy.pinned or not away


def _lasting(world: World) -> Amounts:
    total: Amounts = {}
    away = bool(world.away)
    for model in world.models:
        if _lasts(model, away):
            for pool, n in held_in_the_end(model).items():
                total[pool] = total.get(pool, 0) + n
    return total
