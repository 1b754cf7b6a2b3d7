"""What the scheduler's loop sleeps on: nothing that rings is lost, and nothing makes it spin."""

from __future__ import annotations

import asyncio

import pytest

from common.memory.alarm import Alarm
from common.memory.contract import MemoryPolicy, Plan, World
from common.memory.planner import plan
from tests.memory.fake_gateway import finished
from tests.memory.scheduled_instance import CPU, GPU, Instance
from tests.memory.simulated_time import simulate


def test_what_rings_while_the_task_is_busy_is_kept() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        alarm = Alarm(loop.time)
        alarm.ring()
        begun = loop.time()
        await alarm.wait()  # else the simulation says that this waits for ever
        assert loop.time() == begun
        alarm.ring_at(begun + 5.0)
        await alarm.wait()
        assert loop.time() == pytest.approx(begun + 5.0)

    simulate(main())


def test_the_earliest_time_counts_until_it_has_rung() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        alarm = Alarm(loop.time)
        begun = loop.time()
        alarm.ring_at(begun + 5.0)
        loop.call_later(1.0, alarm.ring_at, begun + 9.0)
        loop.call_later(1.0, alarm.ring_at, begun + 3.0)
        await alarm.wait()
        assert loop.time() == pytest.approx(begun + 3.0)
        alarm.ring_at(begun + 100.0)  # those before are forgotten
        await alarm.wait()
        assert loop.time() == pytest.approx(begun + 100.0)

    simulate(main())


def test_a_time_that_is_over_does_not_make_the_task_spin() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        alarm = Alarm(loop.time)
        begun = loop.time()
        for _ in range(10):
            alarm.ring_at(begun - 1.0)
            await alarm.wait()
        assert loop.time() > begun + 0.01

    simulate(main())


def test_the_plan_is_made_anew_only_when_something_happened() -> None:
    plans = []

    def decide(world: World) -> Plan:
        plans.append(world.now)
        return plan(world)

    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100}, decide=decide)
        instance.add("a", policy=MemoryPolicy(idle_offload_s=60.0))
        await finished(instance.ask("a", 1.0))
        await instance.until(lambda: instance.scheduler.view("a").tier is CPU)
        await asyncio.sleep(3600.0)
        assert len(plans) < 12
        await instance.close()

    simulate(main())


def test_what_a_listener_asks_for_is_done() -> None:
    """It is called in the loop's own step: what it leaves must not wait for the next event."""

    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a", tier=GPU)
        await asyncio.sleep(5.0)

        def shrink() -> None:
            instance.scheduler.set_capacity({"gpu0": 5, "host": 100})

        instance.when_changed = shrink
        instance.add("b")
        await asyncio.sleep(5.0)
        assert a.tier is CPU
        await instance.close()

    simulate(main())
