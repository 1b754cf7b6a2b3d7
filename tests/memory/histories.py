"""Random histories for `tests.memory.simulation`, and how long a request may wait in one."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st

from common.memory.contract import HOST, RESIDENT, Bytes, Footprint, MemoryPolicy, Tier
from tests.memory.simulation import RETRY_S, Arrival, Event, History, Simulation, Spec

# Coarse, so that much happens at the same moment.
SECONDS = st.integers(0, 160).map(lambda quarters: quarters / 4)
SHORT = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 5.0])
POOLS = st.sampled_from([("gpu0",), ("gpu0", "gpu1"), (RESIDENT,)])


@st.composite
def footprints(draw: st.DrawFn, pools: tuple[str, ...]) -> Footprint:
    """Small numbers of bytes, so that they often fit exactly."""
    if pools == (RESIDENT,):  # where there is no GPU, all is host RAM
        n = draw(st.integers(1, 8))
        return Footprint(
            {RESIDENT: n, HOST: n}, {HOST: draw(st.integers(1, n))}, is_shared=draw(st.booleans())
        )
    used = draw(st.sets(st.sampled_from(pools), min_size=1))
    gpu = {pool: draw(st.integers(1, 8)) for pool in sorted(used)}
    if held := draw(st.integers(0, 3)):
        gpu[HOST] = held
    asleep = draw(st.integers(0, 6))
    return Footprint(gpu, {HOST: asleep} if asleep else {}, is_shared=draw(st.booleans()))


@st.composite
def specs(draw: st.DrawFn, name: str, pools: tuple[str, ...]) -> Spec:
    """A model; most load without a failure and have no wishes."""
    policy = MemoryPolicy(
        priority=draw(st.sampled_from([0, 0, 0, 1, -1])),
        pinned=draw(st.integers(0, 9)) == 9,
        idle_offload_s=draw(st.sampled_from([None, None, 3.0, 20.0])),
        max_wait_s=draw(st.sampled_from([30.0, 10.0, 5.0, 1.0, 0.0])),
    )
    numbers = st.frozensets(st.integers(0, 4), max_size=2)
    is_unlucky = draw(st.integers(0, 4)) == 4
    return Spec(
        name=name,
        footprint=draw(footprints(pools)),
        policy=policy,
        load_s=draw(st.sampled_from([0.5, 2.0, 8.0, 40.0])),
        wake_s=draw(st.sampled_from([0.25, 1.0])),
        sleep_s=draw(st.sampled_from([0.25, 1.0, 3.0])),
        stop_s=draw(st.sampled_from([0.0, 0.5])),
        fails=draw(numbers) if is_unlucky else frozenset(),
        short=draw(numbers) if is_unlucky else frozenset(),
        unfreed=draw(st.integers(0, 5)) == 5,
    )


@st.composite
def histories(draw: st.DrawFn, most_requests: int = 14) -> History:
    """Two to five models, requests in the first forty seconds, and what else may happen."""
    pools = draw(POOLS)
    names = "abcde"[: draw(st.integers(2, 5))]
    models = tuple(draw(specs(name, pools)) for name in names)
    capacity: Bytes = {
        **{pool: draw(st.integers(4, 14)) for pool in pools},
        HOST: draw(st.integers(0, 20)),
    }
    away = draw(
        st.sampled_from([(Tier.CPU,), (Tier.CPU,), (Tier.DISK,), (Tier.CPU, Tier.DISK), ()])
    )
    arrival = st.builds(
        Arrival,
        at=SECONDS,
        model=st.sampled_from(names),
        service_s=SHORT,
        gap_s=st.sampled_from([0.0, 0.0, 0.25]),
        patience_s=st.sampled_from([None, None, None, 0.5, 4.0]),
    )
    event = st.one_of(
        st.builds(
            Event,
            at=SECONDS,
            kind=st.sampled_from(["crash", "load", "unload"]),
            model=st.sampled_from(names),
        ),
        st.builds(
            Event,
            at=SECONDS,
            kind=st.just("capacity"),
            share=st.sampled_from([1.0, 1.0, 0.75, 0.5, 0.0]),
        ),
    )
    return History(
        models=models,
        capacity=capacity,
        away=tuple(away),
        arrivals=tuple(draw(st.lists(arrival, min_size=1, max_size=most_requests))),
        events=tuple(draw(st.lists(event, max_size=4))) if draw(st.booleans()) else (),
    )


def crowded(number: int) -> History:
    """A longer history that is full of requests, so that models are hardly ever unused.

    In a third of them one model has requests without a pause, for much longer than others may wait.
    """
    random = Random(number)
    has_favourite = number % 3 == 0
    names = "abcdef"[: random.randint(3, 6)]
    specs = []
    for name in names:
        size = random.choice([2, 3, 4, 5, 6, 6, 6, 15])
        size = 6 if has_favourite and name == "a" else size
        asleep = random.randint(0, 4)
        footprint = Footprint({"gpu0": size, HOST: 1}, {HOST: asleep} if asleep else {})
        policy = MemoryPolicy(
            priority=random.choice([0, 0, 1]), max_wait_s=random.choice([2.0, 5.0, 15.0])
        )
        specs.append(Spec(name, footprint, policy, load_s=random.choice([0.5, 2.0, 6.0])))
    arrivals = [Arrival(0.75 * n, "a", 1.0) for n in range(400)] if has_favourite else []
    for _ in range(random.randint(60, 120)):
        at = random.uniform(10.0 if has_favourite else 0.0, 60.0)
        service_s, gap_s = random.choice([0.5, 2.0, 4.0, 10.0]), random.choice([0.0, 0.1])
        patience_s = random.choice([None, None, None, None, 3.0])
        arrivals.append(Arrival(at, random.choice(names), service_s, gap_s, patience_s))
    events = []
    for _ in range(0 if has_favourite else random.randint(0, 3)):
        kind = random.choice(["crash", "load", "unload"])
        events.append(Event(random.uniform(0, 60), kind, random.choice(names)))
    capacity = {
        "gpu0": 6 if has_favourite else random.randint(6, 14),
        HOST: random.randint(4, 14),
    }
    return History(tuple(specs), capacity, (Tier.CPU,), tuple(arrivals), tuple(events))


def check_end(done: Simulation) -> None:
    """Check that every request of a history came to an end, and in time."""
    for request in done.requests:
        assert request.outcome is not None, done.told(f"lost: {request.arrival}")
        ended_at = request.ended_at if request.served_at is None else request.served_at
        waited_s = ended_at - request.asked_at
        bound_s = longest_wait_s(done, request.arrival.model)
        assert waited_s <= bound_s + 1e-6, done.told(f"waited {waited_s} s, not {bound_s}")


def longest_wait_s(done: Simulation, model: str) -> float:
    """The longest that a request for a model may wait in a history, in seconds.

    It waits `max_wait_s` at most before it is overdue. Then no load begins that takes of what it
    needs, but for models that have been overdue for longer. Each other model is one of those once at
    most: when it has been loaded, those who wait for it go on, and who comes later is behind. A turn
    takes: requests that are served until the models that have them are empty (those are closed, and
    stay chosen but for a model that is unused and leaves at once), a sleeping one that is stopped to
    make room in host RAM, a victim that is put to sleep, the load. Before the first turn the move
    that is under way ends. Whatever else happens (a crash, a failure, a change of capacity, an
    operator) costs a turn and the time until the next try at most.
    """
    specs = [each.spec for each in done.models.values()]
    arrivals = done.history.arrivals
    longest_s = max((a.service_s + a.gap_s for a in arrivals), default=0.0)
    load_s = max(max(s.load_s, s.wake_s) for s in specs)
    away_s = max(max(s.sleep_s, s.stop_s) for s in specs)
    turn_s = longest_s + 2 * away_s + load_s
    retry_s = RETRY_S * 4
    own = done.models[model].spec.policy.max_wait_s
    return own + load_s + away_s + len(specs) * turn_s + done.disturbances * (turn_s + retry_s)
