"""Moves that fail, engines that die, mistakes of our own, and the end of the instance."""

from __future__ import annotations

import asyncio

import pytest

from common.errors import CapacityError, EngineConfigurationError, EngineCrashError, InternalError
from common.memory.contract import MemoryPolicy, Move, Plan, World
from common.memory.planner import plan
from tests.memory.fake_gateway import finished
from tests.memory.fake_mover import Step
from tests.memory.scheduled_instance import CPU, DISK, GPU, Instance
from tests.memory.simulated_time import simulate, turns


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_load_that_fails_for_good_is_told_to_all_and_not_tried_again_until_asked_for() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10})
        a = instance.add("a")
        error = EngineConfigurationError("It refuses --gpu.", exit_code=2, tail=("no such flag",))
        a.steps.append(Step(1.0, error=error))
        requests = [instance.ask("a") for _ in range(3)]
        await finished(*requests)
        errors = [request.error for request in requests]
        assert all(type(each) is EngineConfigurationError for each in errors)
        assert len({id(each) for each in errors}) == 3
        assert {str(each) for each in errors} == {"It refuses --gpu."}
        begun = now()
        late = instance.ask("a")
        await finished(late)
        assert isinstance(late.error, EngineConfigurationError)
        assert late.error.tail == ("no such flag",)
        assert now() == begun
        await asyncio.sleep(600.0)
        assert a.begun == [GPU]
        assert instance.scheduler.view("a").reason == "It refuses --gpu."
        await instance.scheduler.load("a")
        again = instance.ask("a")
        await finished(again)
        assert again.error is None
        await instance.close()

    simulate(main())


def test_a_load_without_memory_is_tried_again_ever_more_rarely_while_its_requests_wait() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10})
        a = instance.add("a")
        shortage = CapacityError("Another process has 5 GiB of GPU 0.")
        a.steps.extend(Step(0.0, error=shortage) for _ in range(8))
        times: list[float] = []
        instance.when_changed = lambda: times.append(now()) if a.is_moving else None
        begun = now()
        impatient = instance.ask("a", timeout_s=10.0)
        patient = instance.ask("a", timeout_s=None)
        await finished(impatient, patient)
        assert patient.error is None
        assert len(a.begun) == 9
        # 1 + 2 + 4 + 8 + 16 + 30 + 30 + 30 seconds, and the load.
        assert patient.served_at == pytest.approx(begun + 121.0 + 2.0, abs=0.1)
        assert isinstance(impatient.error, CapacityError)
        assert impatient.ended_at == pytest.approx(begun + 10.0, abs=0.1)
        assert "Another process has 5 GiB of GPU 0; it takes" in str(impatient.error)
        assert impatient.error.retry_after_s == pytest.approx(7.0, abs=0.2)  # the next try, a load
        assert "next try in 30 s" in "\n".join(instance.said)
        await instance.close()

    simulate(main())


def test_a_wait_that_ends_during_a_second_try_is_told_why_the_first_failed() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10})
        a = instance.add("a")
        a.steps.append(Step(0.0, error=CapacityError("Another process has it.")))
        a.steps.append(Step(60.0))
        request = instance.ask("a", timeout_s=5.0)
        await finished(request)
        assert "its load began 4.0 s ago" in str(request.error)
        assert "its last load failed (Another process has it" in str(request.error)
        await instance.close()

    simulate(main())


def test_a_model_without_memory_does_not_keep_others_from_theirs() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a")
        instance.add("b")
        a.steps.extend(Step(0.1, error=CapacityError("no")) for _ in range(3))
        first = instance.ask("a", timeout_s=None)
        await asyncio.sleep(0.5)
        second = instance.ask("b", timeout_s=None)
        await finished(first, second)
        assert second.served_at is not None
        assert second.served_at - second.begun_at < 4.0
        assert first.error is None
        await instance.close()

    simulate(main())


def test_a_victim_that_cannot_be_put_aside_is_left_alone_for_a_while_and_another_one_taken() -> (
    None
):
    async def main() -> None:
        instance = Instance({"gpu0": 20, "host": 100})
        stuck = instance.add("stuck", tier=GPU)
        other = instance.add("other", tier=GPU)
        instance.add("a")
        stuck.steps.append(Step(1.0, error=EngineCrashError("The engine does not sleep.")))
        await finished(instance.ask("other", 0.1))  # "stuck" was used longer ago
        await asyncio.sleep(5.0)
        request = instance.ask("a")
        await finished(request)
        assert request.error is None
        assert stuck.begun == [CPU]
        assert other.begun == [CPU]
        assert instance.scheduler.is_open("stuck")
        assert "The engine does not sleep" in "\n".join(instance.said)
        await instance.close()

    simulate(main())


def test_the_only_victim_that_cannot_be_put_aside_is_tried_again_ever_more_rarely() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        stuck = instance.add("stuck", tier=GPU)
        instance.add("a", policy=MemoryPolicy(max_wait_s=0.0))
        stuck.steps.extend(Step(0.0, error=CapacityError("Nothing was freed.")) for _ in range(5))
        request = instance.ask("a", timeout_s=None)
        await finished(request)
        assert request.served_at is not None
        # 1 + 2 + 4 + 8 + 16 s, the move and the load.
        assert request.served_at - request.begun_at == pytest.approx(34.0, abs=0.2)
        assert len(stuck.begun) == 6
        await instance.close()

    simulate(main())


def test_a_move_that_goes_further_than_asked_is_taken_as_it_is() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        b = instance.add("b", tier=GPU)
        instance.add("a")
        b.steps.append(Step(3.0, ends_in=DISK))
        await asyncio.sleep(5.0)
        request = instance.ask("a")
        await finished(request)
        assert request.error is None
        assert instance.moved[0][:3] == ("b", GPU, DISK)
        assert instance.tiers() == {"a": GPU, "b": DISK}
        await instance.close()

    simulate(main())


def test_an_engine_that_dies_asleep_is_loaded_from_disk() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a", tier=CPU)
        await asyncio.sleep(1.0)
        a.fall(DISK)
        instance.scheduler.changed("a")
        request = instance.ask("a")  # in the same step
        await finished(request)
        assert request.error is None
        assert instance.moved == [("a", DISK, GPU, pytest.approx(2.0), instance.moved[0][4])]
        assert 'memory: "a" is on disk by itself' in instance.said
        await instance.close()

    simulate(main())


def test_an_engine_that_dies_while_it_is_woken_fails_its_requests() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a", tier=CPU)
        a.steps.append(Step(1.0, error=EngineCrashError("It died."), ends_in=DISK))
        early = instance.ask("a")
        await asyncio.sleep(0.9)
        late = instance.ask("a")
        await finished(early, late)
        assert isinstance(early.error, EngineCrashError)
        assert isinstance(late.error, EngineCrashError)
        assert instance.tiers() == {"a": DISK}
        assert instance.moved[0][:3] == ("a", CPU, DISK)
        await instance.close()

    simulate(main())


def test_an_engine_that_was_given_up_takes_no_request_without_a_new_load() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10})
        a = instance.add("a", tier=GPU)
        await asyncio.sleep(1.0)
        assert instance.scheduler.is_open("a")
        a.fall(DISK)
        instance.scheduler.changed("a")
        await turns(3)
        assert not instance.scheduler.is_open("a")
        request = instance.ask("a")
        await finished(request)
        assert request.error is None
        assert a.begun == [GPU]
        await instance.close()

    simulate(main())


def test_an_engine_given_up_at_rest_is_not_started_anew_until_an_operator_asks() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10})
        a = instance.add("a", tier=GPU)
        await asyncio.sleep(1.0)
        a.fall(DISK)
        instance.scheduler.changed("a", EngineCrashError("It failed 6 times in a row."))
        # In the very step in which it is known: nobody may be sent to an engine that is gone.
        assert not instance.scheduler.is_open("a")
        early = instance.ask("a")
        await asyncio.sleep(5.0)
        late = instance.ask("a")
        await finished(early, late)
        assert [str(request.error) for request in (early, late)] == [
            "It failed 6 times in a row."
        ] * 2
        assert a.begun == []
        assert instance.scheduler.view("a").reason == "It failed 6 times in a row."
        await instance.scheduler.load("a")
        again = instance.ask("a")
        await finished(again)
        assert again.error is None
        await instance.close()

    simulate(main())


def test_a_load_asked_for_before_a_failure_was_taken_in_is_not_told_of_it() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10})
        a = instance.add("a", tier=GPU)
        await asyncio.sleep(1.0)
        a.fall(DISK)
        instance.scheduler.changed("a", EngineCrashError("It failed 6 times in a row."))
        await instance.scheduler.load("a")
        assert instance.scheduler.is_open("a")
        assert a.begun == [GPU]
        await instance.close()

    simulate(main())


def test_an_engine_that_changes_during_its_move_is_looked_at_afterwards() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a")
        request = instance.ask("a", 0.1)
        await asyncio.sleep(1.0)
        instance.scheduler.changed("a")  # it restarts, for all that is known
        await finished(request)
        assert request.error is None
        assert a.begun == [GPU]
        await instance.close()

    simulate(main())


def test_a_mover_with_a_mistake_fails_its_model_only(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 20})
        a = instance.add("a")
        instance.add("b")
        a.steps.append(Step(1.0, error=ZeroDivisionError("oops")))
        requests = [instance.ask("a"), instance.ask("b")]
        await finished(*requests)
        assert isinstance(requests[0].error, InternalError)
        assert "ZeroDivisionError: oops" in str(requests[0].error)
        assert requests[1].error is None
        await instance.close()

    simulate(main())
    assert "moving a failed" in caplog.text


def test_a_mistake_of_the_plan_is_told_and_the_loop_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mistakes = [True] * 3

    def decide(world: World) -> Plan:
        is_first = len(mistakes) == 3
        if mistakes and (not is_first or any(model.waiting for model in world.models)):
            mistakes.pop()
            raise ZeroDivisionError("oops")
        return plan(world)

    async def main() -> None:
        instance = Instance({"gpu0": 20}, decide=decide)
        instance.add("a")
        instance.add("b", tier=GPU)
        told = instance.ask("a")
        await finished(told)
        assert isinstance(told.error, InternalError)
        assert "ZeroDivisionError" in str(told.error)
        fine = instance.ask("b")
        await finished(fine)
        assert fine.error is None
        again = instance.ask("a")
        await finished(again)
        assert isinstance(again.error, InternalError)
        patient = instance.ask("a")  # before the next attempt
        await asyncio.sleep(1.0)
        assert patient.ended_at is None
        await finished(patient)
        assert patient.error is None
        assert patient.served_at == pytest.approx(told.begun_at + 1.0 + 2.0 + 4.0 + 2.0, abs=0.1)
        await instance.close()

    simulate(main())
    assert caplog.text.count("the memory scheduler failed") == 3


def test_a_plan_that_would_move_a_model_with_requests_is_not_followed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def decide(world: World) -> Plan:
        is_used = world.models[0].in_use
        return Plan(moves=(Move("a", CPU, "for nothing"),) if is_used else ())

    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 10}, decide=decide)
        a = instance.add("a", tier=GPU)
        await turns()
        request = instance.ask("a", 3.0)
        instance.scheduler.changed("a")
        await finished(request)
        assert request.error is None
        assert a.begun == []
        await instance.close()

    simulate(main())
    assert "a move against the rules was planned: Move(model='a'" in caplog.text


@pytest.mark.parametrize("at", [0.0, 0.5, 1.5, 4.0])
def test_at_the_end_those_who_wait_are_told_and_nothing_is_left(at: float) -> None:
    """During the eviction of one model, and the load of another."""

    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        instance.add("a", tier=GPU)
        b = instance.add("b", seconds={GPU: 10.0})
        await asyncio.sleep(5.0)
        requests = [instance.ask("b"), instance.ask("b", timeout_s=None)]
        b.steps.append(Step(10.0, clearing_s=0.7))
        await asyncio.sleep(at)
        begun = now()
        await instance.close()
        assert now() - begun == pytest.approx(0.7 if b.begun else 0.0, abs=0.01)
        await finished(*requests)
        for request in requests:
            assert isinstance(request.error, CapacityError)
            assert "is stopping" in str(request.error)
        late = instance.ask("a")
        await finished(late)
        assert isinstance(late.error, CapacityError)
        with pytest.raises(CapacityError, match="is stopping"):
            await instance.scheduler.load("b")
        await instance.scheduler.close()
        assert instance.scheduler.view("b").moving_to is None
        assert instance.tiers()["b"] is DISK

    simulate(main())


def test_the_end_comes_for_a_scheduler_that_never_did_anything() -> None:
    async def main() -> None:
        await Instance({}).close()

    simulate(main())
