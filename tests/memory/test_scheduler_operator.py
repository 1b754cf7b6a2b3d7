"""An operator's wishes: load, sleep, unload."""

from __future__ import annotations

import asyncio

import pytest

from common.errors import CapacityError, EngineCrashError, RequestError
from common.memory.contract import Footprint, MemoryPolicy
from tests.memory.fake_gateway import finished
from tests.memory.fake_mover import Step
from tests.memory.scheduled_instance import CPU, DISK, GPU, Instance
from tests.memory.simulated_time import simulate, turns


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_model_is_loaded_without_a_request() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10})
        a = instance.add("a")
        begun = now()
        await asyncio.gather(instance.scheduler.load("a"), instance.scheduler.load("a"))
        assert now() - begun == pytest.approx(2.0, abs=0.01)
        assert instance.scheduler.is_open("a")
        await instance.scheduler.load("a")
        assert a.begun == [GPU]
        await instance.close()

    simulate(main())


def test_a_model_that_is_loaded_takes_the_place_of_an_unused_one() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        instance.add("a")
        instance.add("b", tier=GPU)
        await asyncio.sleep(5.0)
        await instance.scheduler.load("a")
        assert instance.tiers() == {"a": GPU, "b": CPU}
        await instance.close()

    simulate(main())


def test_a_load_that_cannot_be_says_so() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10})
        instance.add("huge", 11)
        a = instance.add("a")
        with pytest.raises(CapacityError, match='"huge" needs'):
            await instance.scheduler.load("huge")
        a.steps.append(Step(1.0, error=CapacityError("Another process has it.")))
        with pytest.raises(CapacityError, match="Another process has it"):
            await instance.scheduler.load("a")
        a.steps.append(Step(1.0, error=EngineCrashError("It died.")))
        with pytest.raises(EngineCrashError, match="It died"):
            await instance.scheduler.load("a")
        await instance.scheduler.load("a")
        await instance.close()

    simulate(main())


def test_a_model_sleeps_when_its_requests_are_answered_and_stays_so() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a", tier=GPU, policy=MemoryPolicy(pinned=True))
        request = instance.ask("a", 20.0)
        await asyncio.sleep(1.0)
        begun = now()
        await instance.scheduler.sleep("a")
        assert request.ended_at == pytest.approx(begun + 19.0)
        assert now() - begun == pytest.approx(20.0, abs=0.01)
        await asyncio.sleep(1000.0)
        assert a.begun == [CPU]
        await instance.scheduler.sleep("a")
        await instance.scheduler.unload("a")
        assert instance.tiers() == {"a": DISK}
        await instance.scheduler.sleep("a")  # it takes even less where it is
        assert a.begun == [CPU, DISK]
        await instance.close()

    simulate(main())


def test_a_process_that_a_model_on_disk_keeps_ends_when_told() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a", tier=GPU)
        b = instance.add("b")
        await instance.scheduler.unload("a")
        assert (a.begun, a.ended) == ([DISK], 1)
        await instance.scheduler.unload("a")
        await instance.scheduler.end_process("a", "no room")
        assert a.ended == 1  # nothing is there any more
        for end in (instance.scheduler.unload("b"), instance.scheduler.end_process("b", "no room")):
            b.keeps_process = True
            await end
            assert not b.keeps_process
        assert b.ended == 2
        assert instance.said[-1] == 'memory: "b" gives up its process: no room'
        assert instance.tiers() == {"a": DISK, "b": DISK}
        b.keeps_process = True
        request = instance.ask("b", 1.0)
        await turns()
        await instance.scheduler.end_process("b", "no room")  # it moves: it has use for it
        assert b.ended == 2
        await finished(request)
        await instance.close()

    simulate(main())


def test_a_model_that_is_put_aside_for_another_may_keep_its_process() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10}, away=(DISK,))
        a = instance.add("a", tier=GPU)
        instance.add("b")
        await asyncio.sleep(40.0)
        await finished(instance.ask("b", 1.0))
        assert instance.tiers() == {"a": DISK, "b": GPU}
        assert a.ended == 0
        await instance.close()

    simulate(main())


def test_a_request_that_comes_while_its_model_is_unloaded_has_it_loaded_again() -> None:
    async def main() -> None:
        for at in (0.0, 1.0, 5.0, 5.2, 5.5):
            instance = Instance({"gpu0": 10, "host": 100})
            a = instance.add("a", tier=GPU)
            long = instance.ask("a", 6.0)
            await asyncio.sleep(1.0)
            unloading = asyncio.create_task(instance.scheduler.unload("a"))
            await turns()
            assert not instance.scheduler.is_open("a")
            await asyncio.sleep(at)
            late = instance.ask("a")
            await finished(long, late)
            await unloading
            assert long.error is None
            assert late.error is None
            assert a.begun == [DISK, GPU]
            await instance.close()

    simulate(main())


def test_a_load_that_somebody_waits_for_serves_them_before_it_is_undone() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a")
        request = instance.ask("a", 3.0)
        await asyncio.sleep(1.0)
        await instance.scheduler.unload("a")
        assert request.error is None
        assert request.ended_at == pytest.approx(request.begun_at + 5.0, abs=0.01)
        assert a.begun == [GPU, DISK]
        await instance.close()

    simulate(main())


def test_a_load_that_nobody_waits_for_is_cancelled_by_an_unload() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a", seconds={GPU: 1000.0})
        loading = asyncio.create_task(instance.scheduler.load("a"))
        await asyncio.sleep(1.0)
        begun = now()
        await instance.scheduler.unload("a")
        assert now() - begun < 0.1
        with pytest.raises(RequestError) as caught:
            await loading
        assert (caught.value.http_status, caught.value.code) == (409, "superseded")
        assert a.tier is DISK
        await instance.close()

    simulate(main())


def test_a_newer_wish_takes_the_place_of_an_older_one() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        instance.add("a", tier=GPU)
        request = instance.ask("a", 10.0)
        await asyncio.sleep(1.0)
        sleeping = asyncio.create_task(instance.scheduler.sleep("a"))
        await asyncio.sleep(1.0)
        await instance.scheduler.load("a")
        with pytest.raises(RequestError, match="asked to be elsewhere"):
            await sleeping
        assert instance.scheduler.is_open("a")
        await finished(request)
        await instance.close()

    simulate(main())


def test_a_model_that_finds_no_room_to_sleep_stays_and_the_operator_is_told() -> None:
    async def main() -> None:
        gib = 2**30
        instance = Instance({"gpu0": 10 * gib, "host": 4 * gib})
        instance.add("a", gib, 3 * gib, tier=GPU)
        instance.add("b", gib, 3 * gib, tier=CPU)
        with pytest.raises(RequestError, match=r"that takes 3\.00 GiB of host RAM") as caught:
            await instance.scheduler.sleep("a")
        assert (caught.value.http_status, caught.value.code) == (409, "no_room")
        assert instance.scheduler.is_open("a")
        await instance.scheduler.unload("a")
        assert instance.tiers() == {"a": DISK, "b": CPU}
        await instance.close()

    simulate(main())


def test_a_model_whose_tiers_share_their_memory_needs_no_more_to_sleep() -> None:
    async def main() -> None:
        instance = Instance({"resident": 10, "host": 10})
        footprint = Footprint({"resident": 10, "host": 10}, {"host": 8}, is_shared=True)
        instance.add("a", footprint=footprint, tier=GPU)
        await instance.scheduler.sleep("a")
        assert instance.tiers() == {"a": CPU}
        await instance.scheduler.load("a")
        assert instance.said[-1] == 'memory: "a" is in memory after 2.0 s'
        await instance.close()

    simulate(main())


def test_an_operator_whose_move_fails_is_told_and_the_model_serves_on() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a", tier=GPU)
        a.steps.append(Step(1.0, error=EngineCrashError("It does not sleep.")))
        with pytest.raises(EngineCrashError, match="It does not sleep"):
            await instance.scheduler.sleep("a")
        assert instance.scheduler.is_open("a")
        await instance.scheduler.sleep("a")  # an operator need not wait until it is tried again
        assert instance.tiers() == {"a": CPU}
        await instance.close()

    simulate(main())


def test_an_operator_who_leaves_does_not_undo_the_wish() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        instance.add("a", tier=GPU)
        request = instance.ask("a", 10.0)
        sleeping = asyncio.create_task(instance.scheduler.sleep("a"))
        await asyncio.sleep(1.0)
        sleeping.cancel()
        await asyncio.wait({sleeping})
        await finished(request)
        await instance.until(lambda: instance.scheduler.view("a").tier is CPU)
        await instance.close()

    simulate(main())
