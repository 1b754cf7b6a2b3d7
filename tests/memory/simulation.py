"""Discrete events over simulated time: models that load, serve, crash, and requests that wait.

`Simulation` drives a planner as the scheduler does: it is asked after each event, and at the moment
that the last plan named; its moves take time, and requests for models that are closed, or cannot
answer, wait. After each step it checks what must always hold, from its own bookkeeping, and raises
AssertionError with the history so far.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from common.memory.contract import (
    Bytes,
    Footprint,
    MemoryPolicy,
    ModelState,
    Plan,
    Tier,
    World,
)
from common.memory.planner import plan
from tests.memory.plan_rules import check_plan

RETRY_S = 1.0
GIVEN_UP_AFTER = 3


@dataclass(frozen=True)
class Spec:
    """A model. Times in seconds; `fails`: which of its loads fail, counted from 0.

    `short`: which of its loads end for want of memory, where those who wait go on waiting.
    `unfreed`: whether it cannot sleep: it ends on disk instead.
    """

    name: str
    footprint: Footprint
    policy: MemoryPolicy = MemoryPolicy()
    load_s: float = 2.0
    wake_s: float = 1.0
    sleep_s: float = 1.0
    stop_s: float = 0.5
    fails: frozenset[int] = frozenset()
    short: frozenset[int] = frozenset()
    unfreed: bool = False


@dataclass(frozen=True)
class Arrival:
    """A request: it has a place at once, asks for the model `gap_s` later, and may lose patience."""

    at: float
    model: str
    service_s: float = 1.0
    gap_s: float = 0.0
    patience_s: float | None = None


@dataclass(frozen=True)
class Event:
    """Something else that happens: ``crash``, ``load`` or ``unload`` by an operator, ``capacity``."""

    at: float
    kind: str
    model: str = ""
    share: float = 1.0


@dataclass(frozen=True)
class History:
    """All that is given."""

    models: tuple[Spec, ...]
    capacity: Bytes
    away: tuple[Tier, ...]
    arrivals: tuple[Arrival, ...]
    events: tuple[Event, ...] = ()


@dataclass(eq=False)
class Request:
    """One request and what became of it: ``answered``, ``failed``, ``refused`` or ``left``."""

    arrival: Arrival
    asked_at: float = 0.0
    served_at: float | None = None
    outcome: str | None = None
    ended_at: float = 0.0


@dataclass(eq=False)
class Running:
    """One model as it is now."""

    spec: Spec
    order: int
    tier: Tier = Tier.DISK
    moving_to: Tier | None = None
    run: int = 0
    waiters: list[Request] = field(default_factory=list)
    serving: list[Request] = field(default_factory=list)
    arriving: int = 0
    is_up: bool = True
    is_cancelling: bool = False
    is_wanted: bool = False
    is_failed: bool = False
    failures: int = 0
    loads: int = 0
    retry_at: float = 0.0
    last_used: float = 0.0
    resident_since: float | None = None
    load_s: float = 1.0

    @property
    def in_use(self) -> int:
        return len(self.serving) + self.arriving

    @property
    def held(self) -> dict[str, int]:
        """What it takes now, by a count that is not the planner's."""
        footprint = self.spec.footprint
        tiers = [self.tier] if self.moving_to is None else [self.tier, self.moving_to]
        total: dict[str, int] = {}
        for tier in tiers:
            for pool, n in footprint.of(tier).items():
                before = total.get(pool, 0)
                total[pool] = max(before, n) if footprint.is_shared else before + n
        return total


class Simulation:
    """Runs one history.

    Attributes:
        requests: All requests, in the order of their arrival.
        loads: How many moves to the GPU tier began, by model.
        now: Seconds since the start.
    """

    def __init__(
        self,
        history: History,
        *,
        decide: Callable[[World], Plan] = plan,
        checks: bool = True,
        on_end: Callable[[Simulation, Request], None] | None = None,
    ) -> None:
        self.history = history
        self.decide = decide
        self.checks = checks
        self.on_end = on_end
        self.now = 0.0
        self.capacity = dict(history.capacity)
        self.least_capacity = dict(history.capacity)
        self.models = {s.name: Running(s, n, load_s=s.load_s) for n, s in enumerate(history.models)}
        self.requests: list[Request] = []
        self.loads: dict[str, int] = dict.fromkeys(self.models, 0)
        self.disturbances = 0
        self.log: list[str] = []
        self.closed: frozenset[str] = frozenset()
        self.wake_at: float | None = None
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        for arrival in history.arrivals:
            self.send(arrival)
        for event in history.events:
            self._at(event.at, lambda event=event: self._happen(event))  # type: ignore[misc]

    # What happens.

    def send(self, arrival: Arrival) -> Request:
        """Have a request arrive."""
        request = Request(arrival)
        self.requests.append(request)
        self._at(arrival.at, lambda: self._arrive(request))
        return request

    def run(self, until: float = 1e7) -> Simulation:
        """Run until nothing is left to happen."""
        steps = 0
        while self._heap or self.wake_at is not None:
            at = self._heap[0][0] if self._heap else until
            if self.wake_at is not None and self.wake_at <= at:
                self._pass_to(self.wake_at)
                self.wake_at = None
                self._say("looks again")
            else:
                _, _, happen = heapq.heappop(self._heap)
                self._pass_to(at)
                happen()
            self._step()
            steps += 1
            if steps > 200_000 or self.now >= until:
                raise AssertionError(self.told("it never comes to rest"))
        return self

    def _at(self, at: float, happen: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, happen))

    def _pass_to(self, at: float) -> None:
        assert at >= self.now, self.told("time runs backwards")
        self.now = at

    def _say(self, text: str) -> None:
        self.log.append(f"{self.now:9.3f}  {text}")

    def told(self, problem: str) -> str:
        return "\n".join([problem, str(self.history), *self.log[-60:]])

    def _arrive(self, request: Request) -> None:
        model = self.models[request.arrival.model]
        self._say(f"{model.spec.name}: a request has a place")
        model.arriving += 1
        model.last_used = self.now
        if request.arrival.gap_s:
            self._at(self.now + request.arrival.gap_s, lambda: self._ask(model, request))
        else:
            self._ask(model, request)

    def _ask(self, model: Running, request: Request) -> None:
        model.arriving -= 1
        request.asked_at = self.now
        if self._is_open(model):
            self._serve(model, request)
            return
        if model.is_failed:
            self._end(model, request, "failed")
            return
        self._say(f"{model.spec.name}: a request waits")
        model.waiters.append(request)
        patience_s = request.arrival.patience_s
        if patience_s is not None:
            self._at(self.now + patience_s, lambda: self._lose_patience(model, request))

    def _is_open(self, model: Running) -> bool:
        is_ready = model.tier is Tier.GPU and model.moving_to is None and model.is_up
        return is_ready and model.spec.name not in self.closed

    def _serve(self, model: Running, request: Request) -> None:
        request.served_at = self.now
        model.serving.append(request)
        model.last_used = self.now
        self._say(f"{model.spec.name}: serves a request")
        self._at(self.now + request.arrival.service_s, lambda: self._answered(model, request))

    def _answered(self, model: Running, request: Request) -> None:
        if request in model.serving:
            model.serving.remove(request)
            model.last_used = self.now
            self._end(model, request, "answered")

    def _lose_patience(self, model: Running, request: Request) -> None:
        if request in model.waiters:
            model.waiters.remove(request)
            self._end(model, request, "left")

    def _end(self, model: Running, request: Request, outcome: str) -> None:
        assert request.outcome is None
        request.outcome, request.ended_at = outcome, self.now
        self._say(f"{model.spec.name}: a request was {outcome}")
        if self.on_end is not None:
            self.on_end(self, request)

    def _end_waiters(self, model: Running, outcome: str) -> None:
        waiters, model.waiters = model.waiters, []
        for request in waiters:
            self._end(model, request, outcome)

    def _happen(self, event: Event) -> None:
        self.disturbances += 1
        self._say(f"{event.kind} {event.model} {event.share}")
        if event.kind == "capacity":
            given = self.history.capacity
            self.capacity = {pool: int(n * event.share) for pool, n in given.items()}
            least = self.least_capacity
            self.least_capacity = {p: min(n, self.capacity[p]) for p, n in least.items()}
            return
        model = self.models[event.model]
        if event.kind == "load":
            model.is_wanted = model.tier is not Tier.GPU or model.moving_to is not None
            model.is_failed, model.failures = False, 0
        elif event.kind == "unload":
            if model.moving_to is None and model.tier is not Tier.DISK and not model.in_use:
                self._begin(model, Tier.DISK)
        else:
            self._crash(model)

    def _crash(self, model: Running) -> None:
        if model.moving_to is not None:
            return
        if model.tier is Tier.CPU:
            model.tier = Tier.DISK
        elif model.tier is Tier.GPU:
            serving, model.serving = model.serving, []
            for request in serving:
                self._end(model, request, "failed")
            model.is_up, model.resident_since = False, None
            model.run += 1
            run = model.run
            self._at(self.now + model.spec.load_s, lambda: self._is_up_again(model, run))

    def _is_up_again(self, model: Running, run: int) -> None:
        if model.run == run:
            self._say(f"{model.spec.name}: is up again")
            model.is_up, model.resident_since = True, self.now

    # Moves.

    def _begin(self, model: Running, to: Tier) -> None:
        spec = model.spec
        self._say(f"{spec.name}: {model.tier.value} -> {to.value}")
        model.moving_to = to
        model.run += 1
        model.is_up, model.resident_since = True, None
        run = model.run
        if to is Tier.GPU:
            self.loads[spec.name] += 1
            model.loads += 1
            takes_s = spec.load_s if model.tier is Tier.DISK else spec.wake_s
        else:
            takes_s = spec.sleep_s if to is Tier.CPU else spec.stop_s
        self._at(self.now + takes_s, lambda: self._arrived(model, run, to, takes_s))

    def _arrived(self, model: Running, run: int, to: Tier, took_s: float) -> None:
        if model.run != run:
            return
        spec = model.spec
        model.moving_to = None
        number = model.loads - 1
        if to is Tier.GPU and number in spec.fails:
            model.tier = Tier.DISK
            model.failures += 1
            model.retry_at = self.now + RETRY_S * 2**model.failures
            self.disturbances += 1
            model.is_failed = model.failures >= GIVEN_UP_AFTER
            model.is_wanted = model.is_wanted and not model.is_failed
            self._say(f"{spec.name}: failed to load")
            self._end_waiters(model, "failed")
            return
        if to is Tier.GPU and number in spec.short:
            model.retry_at = self.now + RETRY_S
            self.disturbances += 1
            self._say(f"{spec.name}: had no memory")
            return
        model.tier = Tier.DISK if to is Tier.CPU and spec.unfreed else to
        self._say(f"{spec.name}: is in {model.tier.value}")
        if to is Tier.GPU:
            model.failures = 0
            model.is_wanted = False
            model.resident_since, model.load_s = self.now, took_s

    def _cancel(self, model: Running) -> None:
        """The move ends early, where it began."""
        model.run += 1
        run = model.run
        model.is_cancelling = True
        self._say(f"{model.spec.name}: its load is cancelled")

        def ended() -> None:
            if model.run == run:
                self._say(f"{model.spec.name}: is in {model.tier.value} as before")
                model.moving_to, model.is_cancelling = None, False

        self._at(self.now + model.spec.stop_s, ended)

    # Decisions.

    def world(self, now: float | None = None) -> World:
        """What the planner is told."""
        return World(
            models=tuple(
                ModelState(
                    name=model.spec.name,
                    order=model.order,
                    tier=model.tier,
                    footprint=model.spec.footprint,
                    policy=model.spec.policy,
                    moving_to=model.moving_to,
                    waiting=len(model.waiters),
                    oldest_wait=min((r.asked_at for r in model.waiters), default=None),
                    in_use=model.in_use,
                    is_wanted=model.is_wanted,
                    last_used=model.last_used,
                    resident_since=model.resident_since,
                    load_s=model.load_s,
                    retry_at=model.retry_at,
                    is_failed=model.is_failed,
                )
                for model in self.models.values()
            ),
            capacity=self.capacity,
            away=self.history.away,
            now=self.now if now is None else now,
        )

    def _release(self) -> None:
        for model in self.models.values():
            if model.waiters and self._is_open(model):
                waiters, model.waiters = model.waiters, []
                for request in waiters:
                    self._serve(model, request)

    def _step(self) -> None:
        # The scheduler lets those go on first whose model can answer, and closes only by a plan.
        self._release()
        world = self.world()
        decided = self.decide(world)
        if self.checks:
            check_plan(world, decided, self.told)
        for name in decided.cancelled:
            model = self.models[name]
            if not model.is_cancelling:
                self._cancel(model)
        has_refused = False
        for name in decided.refused:
            model = self.models[name]
            has_refused = has_refused or bool(model.waiters) or model.is_wanted
            self._end_waiters(model, "refused")
            model.is_wanted = False
        self.closed = decided.closed
        for move in decided.moves:
            self._begin(self.models[move.model], move.to)
        self._release()
        self.wake_at = decided.look_again_at
        if self.checks:
            self._check_memory(decided)
            if not has_refused:
                self._check_rest()

    # What must hold.

    def _check_memory(self, decided: Plan) -> None:
        total: dict[str, int] = {}
        for model in self.models.values():
            for pool, n in model.held.items():
                total[pool] = total.get(pool, 0) + n
        for pool, n in total.items():
            if n <= self.capacity.get(pool, 0):
                continue
            if self.least_capacity == dict(self.history.capacity):
                raise AssertionError(self.told(f"{n} of {pool} are held"))
            for move in decided.moves:
                model = self.models[move.model]
                before = model.spec.footprint.of(model.tier).get(pool, 0)
                if model.held.get(pool, 0) > before:
                    raise AssertionError(self.told(f"{move} took of {pool}, which was too full"))

    def _check_rest(self) -> None:
        """Until something happens, or the named moment, the plan stays what it is."""
        again = self.decide(self.world())
        # The end of a move that is under way is a moment to look again.
        if again.moves and all(model.moving_to is None for model in self.models.values()):
            raise AssertionError(self.told(f"forgotten: {again.moves}"))
        moment = again.look_again_at
        end = self._heap[0][0] if self._heap else self.now + 1000.0
        end = end if moment is None else min(end, moment)
        if end <= self.now:
            return
        later = self.decide(self.world(self.now + (end - self.now) * 0.999))
        if _outline(later) != _outline(again):
            raise AssertionError(self.told(f"changed by time alone: {again} -> {later}"))


def _outline(decided: Plan) -> tuple[object, ...]:
    moves = [(move.model, move.to) for move in decided.moves]
    return (moves, decided.closed, decided.cancelled, decided.refused)
