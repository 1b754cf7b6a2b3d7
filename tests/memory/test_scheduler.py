"""Requests and the models that they wait for: who is loaded, who gives way, and every race of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from common.errors import CapacityError
from common.memory.contract import MemoryPolicy
from tests.memory.fake_gateway import finished
from tests.memory.fake_mover import Step
from tests.memory.scheduled_instance import CPU, DISK, GPU, Instance
from tests.memory.simulated_time import simulate, turns


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    simulate(test())


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_request_loads_its_model_and_then_goes() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10})
        instance.add("a")
        request = instance.ask("a")
        await finished(request)
        assert request.error is None
        assert request.served_at == pytest.approx(request.begun_at + 2.0, abs=0.01)
        assert instance.scheduler.is_open("a")
        begun = now()
        await instance.scheduler.ensure_ready("a", 0.0)
        assert now() == begun
        await instance.close()

    run(main)


def test_many_requests_share_one_load() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10})
        mover = instance.add("a")
        requests = [instance.ask("a") for _ in range(50)]
        await asyncio.sleep(1.0)
        requests += [instance.ask("a") for _ in range(50)]
        await turns()
        assert instance.scheduler.view("a").waiting == 100
        await finished(*requests)
        assert mover.begun == [GPU]
        assert all(request.error is None for request in requests)
        await instance.close()

    run(main)


def test_two_cold_requests_to_two_models_are_both_served() -> None:
    """Also where only one of them fits at a time, and the freshly loaded one serves first."""

    async def main() -> None:
        for capacity in (20, 10):
            instance = Instance({"gpu0": capacity, "host": 100})
            movers = [instance.add("a"), instance.add("b")]
            requests = [instance.ask("a", 3.0), instance.ask("b", 3.0)]
            await finished(*requests)
            assert [request.error for request in requests] == [None, None]
            assert [mover.begun.count(GPU) for mover in movers] == [1, 1]
            await instance.close()

    run(main)


def test_a_loaded_model_serves_those_who_waited_before_it_is_put_aside() -> None:
    """The other model's request is overdue the whole time, and there is nothing between."""

    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        impatient = MemoryPolicy(max_wait_s=0.0)
        instance.add("a", policy=impatient)
        instance.add("b", policy=impatient)
        requests = [instance.ask(name, 0.5) for name in "abab"]
        await finished(*requests)
        assert all(request.error is None for request in requests)
        assert [move[0] for move in instance.moved if move[2] is GPU] == ["a", "b"]
        await instance.close()

    run(main)


def test_no_model_moves_while_it_has_requests_and_none_comes_to_it_then() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a", tier=GPU)
        instance.add("b", policy=MemoryPolicy(max_wait_s=5.0))
        long = instance.ask("a", 60.0)
        await asyncio.sleep(1.0)
        other = instance.ask("b", timeout_s=None)
        await asyncio.sleep(4.0)
        assert instance.scheduler.is_open("a")
        await asyncio.sleep(2.0)  # overdue now: "a" gives way
        assert not instance.scheduler.is_open("a")
        assert a.begun == []
        late = instance.ask("a", timeout_s=None)
        await finished(long)
        assert long.error is None
        assert not instance.scheduler.is_open("a")
        await finished(other, late)
        assert other.error is None
        assert late.error is None
        assert other.served_at is not None
        assert late.served_at is not None
        assert long.ended_at is not None
        assert long.ended_at < other.served_at < late.served_at
        await instance.close()

    run(main)


def test_a_move_begins_in_the_step_in_which_the_model_is_closed() -> None:
    """Between the plan and the first step of the mover, a request comes: it must wait."""

    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a", tier=GPU)
        instance.add("b")
        await asyncio.sleep(5.0)
        instance.ask("b")
        while instance.scheduler.view("a").moving_to is None:
            assert instance.scheduler.is_open("a")
            await asyncio.sleep(0)
        assert a.begun == []
        assert not instance.scheduler.is_open("a")
        request = instance.ask("a")
        await finished(request)
        assert request.error is None
        assert a.begun[:2] == [CPU, GPU]
        await instance.close()

    run(main)


@pytest.mark.parametrize("at", [0.0, 0.5, 0.999, 1.0, 1.001, 2.0, 2.999, 3.0])
def test_a_request_that_comes_at_any_moment_of_an_exchange_is_served(at: float) -> None:
    """During the eviction of its model, its end, and the load of the other one."""

    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        instance.add("a", tier=GPU)
        instance.add("b")
        await asyncio.sleep(5.0)
        first = instance.ask("b", 1.0)
        await turns()
        assert instance.scheduler.view("a").moving_to is CPU
        await asyncio.sleep(at)
        second = instance.ask("a", 1.0)
        await finished(first, second)
        assert first.error is None
        assert second.error is None
        assert second.ended_at is not None
        assert second.ended_at - second.begun_at < 10.0
        await instance.close()

    run(main)


def test_a_request_that_comes_during_a_wake_waits_for_that_wake() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a", tier=CPU)
        first = instance.ask("a")
        await asyncio.sleep(1.9)
        second = instance.ask("a")
        await finished(first, second)
        assert first.served_at == second.served_at
        assert a.begun == [GPU]
        await instance.close()

    run(main)


def test_two_models_that_wait_share_what_one_frees() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 20, "host": 100})
        big = instance.add("big", 20, tier=GPU)
        instance.add("a")
        instance.add("b")
        await asyncio.sleep(5.0)
        requests = [instance.ask("a", 5.0), instance.ask("b", 5.0)]
        await finished(*requests)
        assert requests[0].served_at == requests[1].served_at
        assert big.begun == [CPU]
        assert instance.tiers() == {"big": CPU, "a": GPU, "b": GPU}
        await instance.close()

    run(main)


def test_a_cancelled_wait_gives_up_itself_only() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10})
        a = instance.add("a")
        first, second = instance.ask("a"), instance.ask("a")
        await asyncio.sleep(1.0)
        first.client_leaves()
        await finished(first, second)
        assert first.served_at is None
        assert second.served_at == pytest.approx(second.begun_at + 2.0, abs=0.01)
        assert a.begun == [GPU]
        await instance.close()

    run(main)


def test_a_load_whose_clients_have_gone_is_dropped_when_another_model_wants_the_place() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a", seconds={GPU: 1200.0, CPU: 1.0, DISK: 1.0})
        instance.add("b")
        gone = [instance.ask("a"), instance.ask("a")]
        await asyncio.sleep(1.0)
        other = instance.ask("b")
        await asyncio.sleep(1.0)
        gone[0].client_leaves()
        await asyncio.sleep(1.0)
        assert a.is_moving  # one still waits for it
        gone[1].client_leaves()
        await finished(*gone, other)
        assert other.served_at == pytest.approx(gone[1].ended_at + 2.0, abs=0.1)
        assert a.tier is DISK
        assert not a.is_moving
        await instance.close()

    run(main)


def test_a_load_whose_clients_have_gone_goes_on_while_nobody_wants_the_place() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10})
        instance.add("a", seconds={GPU: 10.0})
        gone = instance.ask("a")
        await asyncio.sleep(1.0)
        gone.client_leaves()
        await asyncio.sleep(10.0)
        assert instance.scheduler.is_open("a")
        await instance.close()

    run(main)


def test_a_request_that_comes_while_its_load_is_being_dropped_is_served_afterwards() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a")
        instance.add("b")
        a.steps.append(Step(100.0, clearing_s=3.0))
        gone = instance.ask("a")
        await asyncio.sleep(1.0)
        other = instance.ask("b", 1.0)
        gone.client_leaves()
        await asyncio.sleep(1.0)
        late = instance.ask("a", 1.0)
        await finished(gone, other, late)
        assert other.error is None
        assert late.error is None
        assert a.begun == [GPU, GPU]
        await instance.close()

    run(main)


def test_a_load_that_ends_although_it_was_cancelled_is_used() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a")
        instance.add("b")
        a.steps.append(Step(100.0, clearing_s=1.0, ignores_cancel=True))
        gone = instance.ask("a")
        await asyncio.sleep(1.0)
        other = instance.ask("b", 1.0)
        gone.client_leaves()
        await turns(30)
        late = instance.ask("a", 1.0)
        await finished(other, late)
        assert late.served_at == pytest.approx(late.begun_at + 1.0, abs=0.01)
        assert other.error is None
        await instance.close()

    run(main)


def test_a_move_that_is_cancelled_before_its_first_step_is_over() -> None:
    """Nothing of the mover ever runs then, so that nothing in it could tell the end."""
    begun_in_vain = []

    async def main() -> None:
        for count in range(8):
            instance = Instance({"gpu0": 10})
            a = instance.add("a")
            request = instance.ask("a")
            await turns(count)
            await instance.close()
            await finished(request)
            assert isinstance(request.error, CapacityError)
            assert instance.scheduler.view("a").moving_to is None
            begun_in_vain.append(bool(instance.said) and not a.begun)

    run(main)
    assert any(begun_in_vain)


def test_who_leaves_while_waiting_is_never_taken_for_one_that_was_answered() -> None:
    """Its place is given back some turns before its wait ends: the model still has a request."""

    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a", tier=GPU)
        instance.add("b", policy=MemoryPolicy(max_wait_s=0.0))
        long = instance.ask("a", 30.0)
        await asyncio.sleep(2.0)
        other = instance.ask("b", timeout_s=None)
        await asyncio.sleep(1.0)
        assert not instance.scheduler.is_open("a")
        waiting = [instance.ask("a", timeout_s=None) for _ in range(5)]
        await asyncio.sleep(1.0)
        for request in waiting:
            request.client_leaves()
        await finished(long, other)
        assert long.error is None
        assert other.error is None
        assert a.begun[0] is CPU
        assert instance.moved[0][0] == "a"
        await instance.close()

    run(main)


def test_a_request_that_was_released_and_then_leaves_does_not_hold_the_model() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        instance.add("a")
        instance.add("b")
        first = instance.ask("a", 50.0)

        def leave() -> None:  # in the very step that released it
            if instance.scheduler.is_open("a") and first.ended_at is None:
                first.client_leaves()

        instance.when_changed = leave
        await asyncio.sleep(3.0)
        assert first.ended_at is not None
        assert first.served_at is None
        other = instance.ask("b")
        await finished(other)
        assert other.error is None
        await instance.close()

    run(main)


def test_a_model_in_constant_use_gives_way_to_one_that_waits_too_long() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        instance.add("a", tier=GPU)
        instance.add("b", policy=MemoryPolicy(max_wait_s=10.0))

        async def keep_busy(after_s: float) -> None:
            await asyncio.sleep(after_s)
            while True:
                await finished(instance.ask("a", 2.0, timeout_s=None))

        clients = [asyncio.create_task(keep_busy(0.5 * number)) for number in range(4)]
        await asyncio.sleep(5.0)
        request = instance.ask("b", timeout_s=None)
        await finished(request)
        assert request.served_at is not None
        # Its limit, the requests that "a" had, and the two moves.
        assert 10.0 <= request.served_at - request.begun_at <= 10.0 + 2.0 + 1.0 + 2.0 + 0.1
        for client in clients:
            client.cancel()
        await asyncio.wait(clients)
        await instance.until(lambda: instance.gateway.requests["a"].in_flight == 0)
        await instance.close()

    run(main)


def test_requests_for_a_resident_model_are_batched_until_another_waits_too_long() -> None:
    """Alternating requests must not swap at each."""

    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 1000})
        instance.add("a", policy=MemoryPolicy(max_wait_s=20.0))
        instance.add("b", policy=MemoryPolicy(max_wait_s=20.0))

        async def alternate(first: str, second: str) -> list[float]:
            waits = []
            for number in range(60):
                request = instance.ask((first, second)[number % 2], 0.2, timeout_s=None)
                await finished(request)
                assert request.served_at is not None
                waits.append(request.served_at - request.begun_at)
            return waits

        tasks = [asyncio.create_task(alternate(*pair)) for pair in ["ab", "ba"] * 10]
        await asyncio.wait(tasks)
        waits = [wait for task in tasks for wait in task.result()]
        assert len(waits) == 1200
        assert max(waits) < 60.0
        assert len(instance.moved) < 400
        await instance.close()

    run(main)


def test_what_can_never_fit_is_refused_at_once_with_the_numbers() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10 * 2**30, "host": 2**40})
        instance.add("a", 8 * 2**30, 2**30)
        instance.add("huge", 100 * 2**30, 2**30)
        begun = now()
        for _ in range(3):
            request = instance.ask("huge")
            await finished(request)
            assert isinstance(request.error, CapacityError)
            assert "100.00 GiB" in str(request.error)
            assert "10.00 GiB" in str(request.error)
        assert now() - begun < 0.1
        assert "100.00 GiB" in instance.scheduler.view("huge").reason
        served = instance.ask("a")
        await finished(served)
        assert served.error is None
        instance.scheduler.set_capacity({"gpu0": 200 * 2**30, "host": 2**40})
        instance.devices.capacity["gpu0"] = 200 * 2**30
        request = instance.ask("huge")
        await finished(request)
        assert request.error is None
        await instance.close()

    run(main)


def test_a_wait_that_takes_too_long_says_who_has_the_memory_and_when_to_come_again() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 20, "host": 100})
        instance.add("a")
        instance.add("busy", tier=GPU)
        instance.add("kept", tier=GPU, policy=MemoryPolicy(pinned=True))
        instance.add("elsewhere", footprint=instance.movers["a"].footprint.__class__({"gpu1": 0}))
        held = [instance.ask("busy", 20.0), instance.ask("busy", 20.0)]
        await asyncio.sleep(1.0)
        request = instance.ask("a", timeout_s=3.0)
        await finished(request)
        assert request.ended_at == pytest.approx(request.begun_at + 3.0, abs=0.01)
        assert isinstance(request.error, CapacityError)
        assert str(request.error) == (
            'The model "a" was not ready within 3 s: "busy" (2 requests), "kept" (pinned) hold the '
            "memory that it needs. Try again in 2 s."
        )
        assert request.error.retry_after_s == 2.0
        assert instance.scheduler.view("a").waiting == 0
        await finished(*held)
        await instance.close()

    run(main)


def test_a_wait_that_takes_too_long_during_a_load_says_how_far_it_is() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 20, "host": 100})
        instance.add("a", seconds={GPU: 10.0, CPU: 1.0})
        request = instance.ask("a", timeout_s=1.5)
        await finished(request)
        assert isinstance(request.error, CapacityError)
        assert "its load began 1.5 s ago and may take 2.0 s" in str(request.error)
        assert request.error.retry_after_s == 1.0
        await instance.close()
        assert instance.tiers() == {"a": DISK}

    run(main)


def test_a_model_that_need_not_give_way_any_more_serves_those_who_waited() -> None:
    """The one who waited too long has gone, and no event but that opens the model again."""

    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a", tier=GPU)
        instance.add("b", policy=MemoryPolicy(max_wait_s=0.0))
        long = instance.ask("a", 50.0)
        await asyncio.sleep(2.0)
        other = instance.ask("b")
        await asyncio.sleep(1.0)
        waiting = instance.ask("a", 1.0)
        await asyncio.sleep(1.0)
        assert waiting.served_at is None
        other.client_leaves()
        await finished(waiting)
        assert waiting.served_at == pytest.approx(other.ended_at, abs=0.01)
        await finished(long)
        assert a.begun == []
        await instance.close()

    run(main)


def test_a_load_that_is_dropped_is_cancelled_once() -> None:
    """A second cancellation, at the next event, would break into its clearing up."""

    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a")
        instance.add("b")
        a.steps.append(Step(100.0, clearing_s=3.0))
        gone = instance.ask("a")
        await asyncio.sleep(1.0)
        other = instance.ask("b", 1.0)
        gone.client_leaves()
        for _ in range(4):
            await asyncio.sleep(0.5)
            instance.scheduler.changed("b")
        assert a.is_moving
        await finished(other)
        assert other.served_at == pytest.approx(gone.ended_at + 3.0 + 2.0, abs=0.1)
        await instance.close()

    run(main)


def test_when_to_come_again_counts_those_in_line_before_and_what_loads_took() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        seconds = {GPU: 7.0, CPU: 1.0, DISK: 1.0}
        instance.add("a", seconds=seconds)
        instance.add("b", seconds=seconds)
        instance.add("busy", seconds=seconds)
        for name in ("a", "b", "busy"):  # each now knows that it takes 7 s
            await finished(instance.ask(name, 0.0))
            await asyncio.sleep(10.0)
        long = instance.ask("busy", 15.0)
        await asyncio.sleep(1.0)
        first = instance.ask("a", timeout_s=3.0)
        await asyncio.sleep(1.0)
        second = instance.ask("b", timeout_s=1.0)
        await finished(second, first)
        assert isinstance(first.error, CapacityError)
        assert isinstance(second.error, CapacityError)
        assert first.error.retry_after_s == pytest.approx(7.0)
        assert second.error.retry_after_s == pytest.approx(14.0)
        await finished(long)
        await instance.close()

    run(main)


def test_an_idle_model_is_put_aside_and_comes_back() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        a = instance.add("a", tier=GPU, policy=MemoryPolicy(idle_offload_s=60.0))
        await finished(instance.ask("a", 100.0))  # as long as a job may be
        assert a.begun == []
        await asyncio.sleep(59.0)
        assert a.begun == []
        await asyncio.sleep(1.5)
        assert a.begun == [CPU]
        await finished(instance.ask("a", 1.0))
        await asyncio.sleep(62.5)
        assert a.begun == [CPU, GPU, CPU]
        await instance.close()

    run(main)


def test_footprints_and_capacity_that_change_are_taken_into_account() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 15, "host": 100})
        instance.add("a", 20)
        refused = instance.ask("a")
        await finished(refused)
        assert isinstance(refused.error, CapacityError)
        instance.movers["a"].footprint = smaller = instance.movers["a"].footprint.__class__(
            {"gpu0": 12}, {"host": 5}
        )
        instance.scheduler.set_footprint("a", smaller)
        assert instance.scheduler.view("a").footprint is smaller
        served = instance.ask("a")
        await finished(served)
        assert served.error is None
        instance.scheduler.set_capacity({"gpu0": 5, "host": 100})
        await instance.until(lambda: instance.scheduler.view("a").tier is CPU)
        await instance.close()

    run(main)


def test_moves_are_said_and_told_with_their_reasons_and_seconds() -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        instance.add("b", tier=GPU)
        instance.add("a")
        await asyncio.sleep(5.0)
        requests = [instance.ask("a") for _ in range(3)]
        await finished(*requests)
        assert len(instance.said) == 4
        assert instance.said[0] == (
            'memory: "b" goes to CPU RAM: "a" needs its place (3 requests wait, up to 0 s)'
        )
        assert instance.said[1] == 'memory: "b" is in CPU RAM after 1.0 s'
        assert instance.said[2].startswith(
            'memory: "a" goes to the GPU: 3 requests wait, up to 1 s; it takes'
        )
        assert instance.said[3] == 'memory: "a" is on the GPU after 2.0 s'
        names = [(move[0], move[1], move[2], round(move[3], 2)) for move in instance.moved]
        assert names == [("b", GPU, CPU, 1.0), ("a", DISK, GPU, 2.0)]
        assert instance.moved[0][4].startswith('"a" needs its place')
        assert instance.changes >= 4
        await instance.close()

    run(main)


def test_listeners_that_fail_break_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        instance = Instance({"gpu0": 10, "host": 100})
        instance.add("a")

        def fail(*_: object) -> None:
            raise ValueError("no")

        announcer = instance.scheduler._loop._announcer
        announcer._say = announcer._on_move = announcer._on_change = fail
        request = instance.ask("a")
        await finished(request)
        assert request.error is None
        await instance.close()

    run(main)
    assert len(caplog.records) >= 4
