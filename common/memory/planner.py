"""Decides which models are in memory: from the state of all of them, what to do now. Pure.

The rules, in the order in which they are applied:

1. Where more is held than the capacity, unused models are put aside until it fits.
2. Models that are waited for have their turns (`common.memory.turns`). One that fits is loaded;
   otherwise others give way to it (`common.memory.victims`), as few as needed, or it waits. A place
   that is made for a model is kept for it. Who has waited too long may have the place of any model
   that is not pinned: those with requests are closed until they are empty. Others may have that of
   unused models which had their time, and are passed by those that fit while there is none.
3. Models that nobody used for as long as their policy says are put aside.

Nothing begins that would take more of a pool than its capacity, counting a model that moves with all
that its move takes. A model with requests in use is never taken from where it is.
"""

from __future__ import annotations

from common.memory.contract import Bytes, ModelState, Move, Plan, Tier, World
from common.memory.pools import Amounts, Ledger, amounts_text, extra
from common.memory.turns import Turns, load_text, room_text
from common.memory.victims import Group, Victim, Victims, idle_at, is_unused


def plan(world: World) -> Plan:
    """Decide what to do now.

    Where `World.away` names any tier, `Tier.DISK` is the last resort behind those that it names: a
    model that finds no room in host RAM is stopped. Where it names none, no model is ever put aside,
    and one that does not fit beside those which are loaded is refused.

    Args:
        world: All that the decision depends on.

    Returns:
        The same plan for the same world. To be asked for anew after each event, and at
        `Plan.look_again_at`, which is later than `World.now`.
    """
    return _Planning(world).run()


class _Planning:
    """One plan as it is made."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ledger = Ledger(world.models, world.capacity)
        self._turns = Turns(world)
        self._victims_or_none: Victims | None = None
        self._moves: list[Move] = []
        self._moved: set[str] = set()
        self._closed: set[str] = set()
        self._cancelled: list[str] = []
        self._look_again_at = self._turns.look_again_at

    @property
    def _victims(self) -> Victims:
        if self._victims_or_none is None:  # most plans need none
            self._victims_or_none = Victims(self._world, self._turns)
        return self._victims_or_none

    def run(self) -> Plan:
        if excess := self._ledger.excess():
            self._shrink(excess)
        for model in self._turns.served:
            if model.name not in self._moved:  # one that sleeps may have to leave for those before
                self._serve(model)
        if self._world.away:
            self._put_idle_aside()
        return Plan(
            moves=tuple(self._moves),
            closed=frozenset(self._closed - self._moved),
            cancelled=tuple(self._cancelled),
            refused=self._turns.refused,
            look_again_at=self._look_again_at,
        )

    def _shrink(self, excess: Amounts) -> None:
        text = f"the models hold {amounts_text(excess)} more than there is"
        self._make_room(self._victims.for_excess(excess), text, {}, closes=False)

    def _serve(self, model: ModelState) -> None:
        """Load a model, or begin to make room for it, or let it wait."""
        ledger = self._ledger
        more = extra(model.footprint, model.tier, Tier.GPU)
        is_overdue = self._turns.is_overdue(model)
        if model.moving_to is not None:  # away; it comes back when it has arrived
            if is_overdue:
                ledger.keep(extra(model.footprint, model.moving_to, Tier.GPU))
            return
        if ledger.can_begin(more) and ledger.can_stay(model.footprint, model.tier, Tier.GPU):
            self._load(model)
            return
        if self._turns.wakes_never(model):
            self._stop_first(model)
            if is_overdue:
                ledger.keep(model.footprint.gpu)
            return
        victims: list[Victim] | None = []
        if missing := ledger.missing(more):
            victims = self._find(missing, model, is_overdue)
        if victims is not None:
            text = room_text(model, self._world.now)
            has_left = self._make_room(victims, text, more, closes=is_overdue)
            if victims and has_left and ledger.can_begin(more):
                # What is free now is kept for others, who will have what the victims leave.
                ledger.release(more)
                self._load(model)
        elif is_overdue:
            # Whatever becomes free is for it before it is for those behind it.
            ledger.keep(more)

    def _find(self, missing: Amounts, model: ModelState, is_overdue: bool) -> list[Victim] | None:
        if is_overdue:
            return self._victims.for_overdue(missing, model)
        victims = self._victims.for_waiting(missing)
        if victims is None and (moment := self._victims.settles_at()) is not None:
            self._look_again(moment)
        return victims

    def _load(self, model: ModelState) -> None:
        self._begin(model, Tier.GPU, load_text(model, self._world.now))
        self._ledger.keep(model.footprint.gpu)
        self._ledger.release(model.footprint.of(model.tier))

    def _stop_first(self, model: ModelState) -> None:
        if model.in_use == 0 and self._world.away:
            text = "it cannot be woken beside what it holds asleep, and is loaded anew"
            self._begin(model, Tier.DISK, text)
            self._ledger.release(model.footprint.cpu)

    def _make_room(self, victims: list[Victim], text: str, more: Bytes, *, closes: bool) -> bool:
        """Have victims leave, and keep what they leave for the one that needs `more`.

        Returns:
            Whether all of them begin to leave now.
        """
        has_left = True
        for victim in victims:
            self._ledger.release(victim.frees)
        self._ledger.keep(more)
        # Who has most to lose by being stopped chooses the tier first.
        for victim in reversed(victims):
            model = victim.model
            if victim.group is Group.CANCEL:
                self._cancelled.append(model.name)
            elif model.in_use or not self._put_aside(model, text):
                has_left = False
                if closes:
                    self._closed.add(model.name)
        return has_left

    def _put_aside(self, model: ModelState, text: str) -> bool:
        """Have a model leave whose memory is released already.

        Returns:
            Whether it begins now; otherwise when moves under way have made room for its own.
        """
        if model.tier is Tier.GPU:
            for tier in self._world.away:
                if tier is Tier.CPU:
                    is_begun = self._put_to_sleep(model, text)
                    if is_begun is not None:
                        return is_begun
                elif tier is Tier.DISK:
                    break
        self._begin(model, Tier.DISK, text)
        return True

    def _put_to_sleep(self, model: ModelState, text: str) -> bool | None:
        """Put a model to sleep; None: host RAM has no room for it, False: not yet."""
        ledger = self._ledger
        stopped: list[Victim] | None = []
        if missing := ledger.missing(model.footprint.cpu):
            stopped = self._victims.asleep_for(missing, model)
        if stopped is None:
            return None
        more = extra(model.footprint, Tier.GPU, Tier.CPU)
        freed: Amounts = {}
        for victim in stopped:
            for pool, n in victim.frees.items():
                freed[pool] = freed.get(pool, 0) + n
        if not ledger.can_begin_soon({pool: n - freed.get(pool, 0) for pool, n in more.items()}):
            self._victims.give_back(stopped)
            return None
        for victim in stopped:
            ledger.release(victim.frees)
            self._begin(victim.model, Tier.DISK, f'"{model.name}" is to sleep in its place')
        ledger.keep(model.footprint.cpu)
        if not ledger.can_begin(more):
            return False
        self._begin(model, Tier.CPU, text)
        return True

    def _put_idle_aside(self) -> None:
        now = self._world.now
        for model in self._world.models:
            limit = model.policy.idle_offload_s
            if limit is None or model.tier is not Tier.GPU or model.moving_to is not None:
                continue
            if model.policy.pinned or not is_unused(model):
                continue
            due = idle_at(model)
            if due > now:
                self._look_again(due)
            elif self._victims.take(model):
                self._ledger.release(model.footprint.gpu)
                self._put_aside(model, f"nobody used it for {_duration(limit)}")

    def _begin(self, model: ModelState, to: Tier, reason: str) -> None:
        self._ledger.begin(model.footprint, model.tier, to)
        self._moves.append(Move(model.name, to, reason))
        self._moved.add(model.name)

    def _look_again(self, moment: float) -> None:
        if self._look_again_at is None or moment < self._look_again_at:
            self._look_again_at = moment


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"
