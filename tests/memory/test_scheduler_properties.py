"""Random histories: nothing is lost, nobody starves, no rule about memory or requests is broken."""

from __future__ import annotations

import asyncio
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import CapacityError, DeployError, EngineCrashError, InternalError
from common.memory.contract import Footprint, MemoryPolicy, Plan, World
from common.memory.planner import plan
from tests.memory.fake_gateway import Request
from tests.memory.fake_mover import Step
from tests.memory.scheduled_instance import CPU, DISK, GPU, Instance
from tests.memory.simulated_time import simulate

LONGEST_REQUEST_S = 8.0
LONGEST_MOVE_S = 6.0
LONGEST_MAX_WAIT_S = 20.0


def _add_models(instance: Instance, rng: random.Random, count: int, *, may_pin: bool) -> None:
    for number in range(count):
        gpu, host = rng.randint(1, 10), rng.randint(0, 3)
        cpu = rng.randint(1, 10)
        instance.add(
            f"m{number}",
            footprint=Footprint(
                {"gpu0": gpu, "gpu1": rng.choice([0, 0, gpu]), "host": host},
                {"host": cpu},
                is_shared=rng.random() < 0.3,
            ),
            policy=MemoryPolicy(
                priority=rng.choice([0, 0, 0, 5]),
                pinned=may_pin and rng.random() < 0.1,
                idle_offload_s=rng.choice([None, None, 5.0]),
                max_wait_s=rng.choice([0.0, 3.0, LONGEST_MAX_WAIT_S]),
            ),
            seconds={tier: rng.choice([0.0, 0.5, LONGEST_MOVE_S]) for tier in (GPU, CPU, DISK)},
        )


def _plan_by_the_rules(world: World) -> Plan:
    decided = plan(world)
    moved = [move.model for move in decided.moves]
    assert len(set(moved)) == len(moved), (world, decided)
    for model in world.models:
        is_fixed = model.moving_to is not None or (model.tier is GPU and model.in_use)
        assert not (is_fixed and model.name in moved), (world, decided)
    return decided


def _instance(rng: random.Random) -> Instance:
    capacity = {"gpu0": rng.randint(10, 25), "gpu1": 10, "host": rng.randint(13, 40)}
    return Instance(
        capacity, decide=_plan_by_the_rules, away=rng.choice([(CPU, DISK), (CPU,), (DISK,)])
    )


async def _client(instance: Instance, rng: random.Random, count: int, made: list[Request]) -> None:
    """Makes requests one after the other, mostly for one model."""
    names = list(instance.movers)
    favourite = rng.choice(names)
    for _ in range(count):
        name = favourite if rng.random() < 0.7 else rng.choice(names)
        await asyncio.sleep(rng.choice([0.0, 0.0, 0.1, 1.0, 7.0]))
        request = instance.ask(name, rng.choice([0.0, 0.5, LONGEST_REQUEST_S]), timeout_s=None)
        made.append(request)
        assert request.task is not None
        await asyncio.wait({request.task})


async def _impatient_client(
    instance: Instance, rng: random.Random, count: int, made: list[Request]
) -> None:
    """Makes requests, each with a time limit, and leaves before the end of some."""
    names = list(instance.movers)
    for _ in range(count):
        request = instance.ask(
            rng.choice(names),
            rng.choice([0.0, 0.5, LONGEST_REQUEST_S]),
            timeout_s=rng.choice([0.0, 1.0, 30.0]),
        )
        made.append(request)
        assert request.task is not None
        await asyncio.wait({request.task}, timeout=rng.choice([0.0, 0.5, 2.0, 100.0]))
        if not request.task.done():
            request.client_leaves()


async def _trouble(instance: Instance, rng: random.Random, count: int) -> None:
    """Moves fail, engines die asleep."""
    for _ in range(count):
        await asyncio.sleep(rng.choice([0.0, 0.5, 5.0]))
        name, mover = rng.choice(list(instance.movers.items()))
        if rng.random() < 0.3:
            if mover.tier is CPU and not mover.is_moving:
                mover.fall(DISK)
            instance.scheduler.changed(name)
        else:
            error = rng.choice([EngineCrashError("It died."), CapacityError("No memory."), None])
            mover.steps.append(
                Step(
                    rng.choice([None, 0.0, 3.0]),
                    error=error,
                    clearing_s=rng.choice([0.0, 1.0]),
                    ignores_cancel=rng.random() < 0.2,
                )
            )


async def _operator(instance: Instance, rng: random.Random, count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(rng.choice([0.0, 1.0, 10.0]))
        wish = rng.choice(
            [instance.scheduler.load, instance.scheduler.sleep, instance.scheduler.unload]
        )
        task = asyncio.create_task(wish(rng.choice(list(instance.movers))))
        await asyncio.wait({task}, timeout=rng.choice([0.0, 1000.0]))
        if task.done():
            assert isinstance(task.exception(), DeployError | None)
        else:
            task.cancel()
            await asyncio.wait({task})


async def _all(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)
    for task in tasks:
        task.result()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), count=st.integers(1, 6), clients=st.integers(1, 8))
def test_nothing_is_lost_and_no_rule_is_broken_whatever_fails(
    seed: int, count: int, clients: int
) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        loop = asyncio.get_running_loop()
        instance = _instance(rng)
        _add_models(instance, rng, count, may_pin=True)
        made: list[Request] = []
        tasks = [
            loop.create_task(_impatient_client(instance, random.Random(rng.random()), 8, made))
            for _ in range(clients)
        ]
        tasks.append(loop.create_task(_trouble(instance, random.Random(rng.random()), 10)))
        tasks.append(loop.create_task(_operator(instance, random.Random(rng.random()), 5)))
        await _all(tasks)
        await asyncio.wait([request.task for request in made if request.task is not None])
        for request in made:
            assert request.ended_at is not None
            assert request.error is None or isinstance(request.error, DeployError)
            assert not isinstance(request.error, InternalError)
        for name, requests in instance.gateway.requests.items():
            assert (requests.in_flight, requests.at_engine) == (0, 0)
            assert instance.scheduler.view(name).waiting == 0
        # Whatever failed: who asks now, and may be loaded at all, is served.
        for mover in instance.movers.values():
            mover.steps.clear()
        await instance.until(lambda: not any(mover.is_moving for mover in instance.movers.values()))
        for name in instance.movers:
            loading = loop.create_task(instance.scheduler.load(name))
            await asyncio.wait({loading})
            error = loading.exception()
            if error is None:
                await instance.scheduler.ensure_ready(name, 0.0)
            else:  # it never fits beside the pinned ones
                assert isinstance(error, CapacityError)
                assert "needs" in str(error)
        await instance.close()

    simulate(main())


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), count=st.integers(1, 6), clients=st.integers(1, 12))
def test_every_request_is_served_within_a_bound(seed: int, count: int, clients: int) -> None:
    """With several models in line, and clients that always want the ones that are resident."""

    async def main() -> None:
        rng = random.Random(seed)
        loop = asyncio.get_running_loop()
        instance = _instance(rng)
        _add_models(instance, rng, count, may_pin=False)
        made: list[Request] = []
        tasks = [
            loop.create_task(_client(instance, random.Random(rng.random()), 8, made))
            for _ in range(clients)
        ]
        await _all(tasks)
        # Once it has waited too long, each other model may have its turn before: its requests are
        # answered, sleeping ones are stopped for it, it is put aside, and this one is loaded.
        turn_s = LONGEST_REQUEST_S + 3 * LONGEST_MOVE_S
        bound_s = LONGEST_MAX_WAIT_S + count * turn_s + 1.0
        for request in made:
            assert request.error is None
            assert request.served_at is not None
            assert request.served_at - request.begun_at <= bound_s
        await instance.close()

    simulate(main())
