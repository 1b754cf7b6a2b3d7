"""What the planner decides, one rule after the other, and in the situations that raced elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.memory.contract import Footprint, MemoryPolicy, Plan
from common.memory.planner import plan
from tests.memory.worlds import CPU, DISK, GPU, NOW, gib, model, moves, reason, world

PINNED = MemoryPolicy(pinned=True)


# Loading what fits.


def test_nothing_to_do_is_an_empty_plan() -> None:
    assert plan(world(model("a", GPU), model("b"))) == Plan()


def test_a_model_that_fits_is_loaded_at_once() -> None:
    decided = plan(world(model("a", GPU), model("b", waited=0.5, waiting=3)))
    assert moves(decided) == {"b": GPU}
    assert reason(decided, "b") == "3 requests wait, up to 0 s; it takes 4.00 GiB of GPU 0"


def test_all_that_fit_together_are_loaded_at_once_in_the_order_of_turns() -> None:
    decided = plan(world(model("a", waited=1), model("b", waited=3), model("c", waited=2)))
    assert [move.model for move in decided.moves] == ["b", "c"]


def test_a_load_that_is_under_way_counts_with_all_it_takes() -> None:
    loading = model("a", DISK, 8, moving_to=GPU, waiting=1, oldest_wait=NOW)
    assert moves(plan(world(loading, model("b", waited=1)))) == {}


def test_a_model_that_leaves_counts_until_it_has_left() -> None:
    leaving = model("a", GPU, 8, moving_to=DISK)
    decided = plan(world(leaving, model("b", waited=1)))
    assert moves(decided) == {}
    assert decided.look_again_at == NOW - 1 + 30


def test_a_wake_counts_both_tiers_unless_they_share_the_memory() -> None:
    apart = Footprint(gib(gpu0=4, host=3), gib(host=4))
    shared = replace(apart, is_shared=True)
    asleep = model("a", CPU, footprint=apart, waited=1)
    assert moves(plan(world(asleep, host=7))) == {"a": GPU}
    # Never beside what it holds asleep: stopped first, so that it can be loaded.
    assert moves(plan(world(asleep, host=6))) == {"a": DISK}
    assert moves(plan(world(replace(asleep, footprint=shared), host=4))) == {"a": GPU}


def test_a_pool_that_the_move_takes_nothing_of_may_be_over_its_capacity() -> None:
    over = model("a", CPU, asleep=9, in_use=1)  # about to be asked for: it stays
    assert moves(plan(world(over, model("b", waited=1), host=8))) == {"b": GPU}


def test_pools_are_counted_one_by_one() -> None:
    two = Footprint(gib(gpu0=6, gpu1=6))
    one = Footprint(gib(gpu1=6))
    capacity = gib(gpu0=10, gpu1=10)
    resident = model("a", GPU, footprint=two, in_use=1)
    waiting = model("b", footprint=one, waited=1)
    assert moves(plan(world(resident, waiting, capacity=capacity))) == {}
    on_the_other = replace(waiting, footprint=Footprint(gib(gpu0=4)))
    assert moves(plan(world(resident, on_the_other, capacity=capacity))) == {"b": GPU}


def test_wanted_without_a_request_comes_after_those_with_one() -> None:
    decided = plan(world(model("a", size=6, is_wanted=True), model("b", size=6, waited=0)))
    assert moves(decided) == {"b": GPU}
    decided = plan(world(model("a", size=6, is_wanted=True)))
    assert reason(decided, "a") == "it is wanted, and takes 6.00 GiB of GPU 0"


def test_wanted_has_an_unused_one_give_way_and_is_never_overdue() -> None:
    wanted = model("b", size=8, is_wanted=True)
    assert moves(plan(world(model("a", GPU), wanted))) == {"a": DISK}
    busy = plan(world(model("a", GPU, in_use=1), wanted))
    assert busy == Plan()


def test_wanted_and_loaded_is_not_taken_by_another_that_is_wanted() -> None:
    first = model("a", GPU, 8, is_wanted=True)
    assert plan(world(first, model("b", size=8, is_wanted=True))) == Plan()


# After a failure.


def test_a_load_that_failed_is_tried_again_when_it_is_time() -> None:
    failed = model("a", waited=1, retry_at=NOW + 5)
    decided = plan(world(failed))
    assert decided == Plan(look_again_at=NOW + 5)
    assert moves(plan(world(failed, now=NOW + 5))) == {"a": GPU}


def test_a_model_that_was_given_up_is_not_loaded() -> None:
    assert moves(plan(world(model("a", waited=1, is_wanted=True, is_failed=True)))) == {}


def test_nobody_gives_way_to_one_that_is_not_loaded_yet() -> None:
    failed = model("b", size=8, waited=100, retry_at=NOW + 5)
    assert moves(plan(world(model("a", GPU), failed))) == {}


# Whose turn it is.


def test_overdue_by_age_then_priority_then_age() -> None:
    keen = MemoryPolicy(priority=5)
    candidates = [
        model("a", size=9, waited=3),
        model("b", size=9, waited=2, policy=keen),
        model("c", size=9, waited=40),
        model("d", size=9, waited=35, policy=keen),
        model("e", size=9, waited=5),
    ]
    order = []
    while candidates:
        decided = plan(world(*candidates))
        [first] = [move.model for move in decided.moves]
        order.append(first)
        candidates = [each for each in candidates if each.name != first]
    assert order == ["c", "d", "b", "e", "a"]


def test_the_place_in_the_configuration_breaks_a_tie() -> None:
    first, second = model("x", size=9, waited=1, order=0), model("b", size=9, waited=1, order=1)
    assert moves(plan(world(second, first))) == {"x": GPU}


def test_what_fits_passes_one_that_has_not_waited_too_long() -> None:
    busy = model("a", GPU, 6, in_use=1)
    assert moves(plan(world(busy, model("b", size=8, waited=20), model("c", waited=1)))) == {
        "c": GPU
    }


def test_nothing_passes_one_that_has_waited_too_long() -> None:
    busy = model("a", GPU, 6, in_use=1)
    decided = plan(world(busy, model("b", size=8, waited=31), model("c", waited=1)))
    assert moves(decided) == {}
    assert decided.closed == {"a"}


def test_what_does_not_need_its_memory_passes_one_that_has_waited_too_long() -> None:
    busy = model("a", GPU, 6, in_use=1)
    decided = plan(world(busy, model("b", size=6, waited=31), model("c", waited=1)))
    assert moves(decided) == {"c": GPU}  # there is room for both when "a" has left
    assert decided.closed == {"a"}


def test_memory_that_is_becoming_free_is_kept_for_whose_turn_it_is() -> None:
    leaving = model("a", GPU, 9, moving_to=DISK)
    first, second = model("b", size=9, waited=2), model("c", size=1, waited=1)
    assert moves(plan(world(leaving, first, second))) == {"c": GPU}  # one GiB is left beside it
    assert moves(
        plan(world(leaving, first, replace(second, footprint=Footprint(gib(gpu0=2)))))
    ) == ({})


# Who gives way.


def test_the_least_recently_used_gives_way_and_says_for_whom() -> None:
    decided = plan(
        world(
            model("a", GPU, last_used=20),
            model("b", GPU, last_used=10),
            model("c", waited=2, waiting=3),
        )
    )
    assert moves(decided) == {"b": DISK}
    assert reason(decided, "b") == '"c" needs its place (3 requests wait, up to 2 s)'


def test_a_lower_priority_gives_way_before_the_least_recently_used() -> None:
    low = MemoryPolicy(priority=-1)
    decided = plan(
        world(
            model("a", GPU, last_used=10),
            model("b", GPU, last_used=20, policy=low),
            model("c", waited=2),
        )
    )
    assert moves(decided) == {"b": DISK}


def test_no_more_give_way_than_needed() -> None:
    decided = plan(
        world(
            model("a", GPU, 1, last_used=10),
            model("b", GPU, 2, last_used=20),
            model("c", GPU, 7, last_used=30),
            model("d", size=7, waited=2),
        )
    )
    assert moves(decided) == {"c": DISK}


def test_several_give_way_where_one_is_not_enough() -> None:
    decided = plan(
        world(model("a", GPU), model("b", GPU, last_used=5), model("c", size=9, waited=2))
    )
    assert moves(decided) == {"a": DISK, "b": DISK}


def test_nobody_gives_way_in_vain() -> None:
    decided = plan(world(model("a", GPU), model("b", GPU, in_use=1), model("c", size=9, waited=2)))
    assert moves(decided) == {}


def test_models_that_leave_already_are_enough() -> None:
    leaving = model("a", GPU, moving_to=DISK)
    assert moves(plan(world(leaving, model("b", GPU), model("c", size=6, waited=2)))) == {}


def test_two_that_wait_do_not_count_on_the_same_memory() -> None:
    decided = plan(
        world(model("a", GPU, 9), model("b", size=9, waited=2), model("c", size=9, waited=1))
    )
    assert moves(decided) == {"a": DISK}
    assert decided.closed == frozenset()


def test_one_is_loaded_into_what_is_free_while_its_victims_leave_for_another() -> None:
    """The first has had room made for it and waits for that; the second need not wait as well."""
    leaving = model("a", GPU, 6, moving_to=DISK)
    first = model("b", size=8, waited=40)  # takes what is free and what "a" and "c" leave
    decided = plan(world(leaving, model("c", GPU, 2), first, model("d", size=2, waited=35)))
    assert moves(decided) == {"c": DISK, "d": GPU}


@pytest.mark.parametrize("load_s", [0.2, 10.0, 500.0])
def test_one_that_was_just_loaded_keeps_its_place_for_a_while(load_s: float) -> None:
    """As long as its load took, between 1 and 30 seconds."""
    kept_s = min(max(load_s, 1), 30)
    young = model("a", GPU, 8, resident_since=NOW - kept_s + 0.5, load_s=load_s)
    waiting = model("b", waited=0)
    assert plan(world(young, waiting)) == Plan(look_again_at=NOW + 0.5)
    assert moves(plan(world(young, waiting, now=NOW + 0.5))) == {"a": DISK}


def test_one_that_was_just_loaded_gives_way_to_one_that_waited_too_long() -> None:
    young = model("a", GPU, 8, resident_since=NOW - 0.5)
    assert moves(plan(world(young, model("b", waited=30)))) == {"a": DISK}


def test_pinned_never_gives_way() -> None:
    pinned = model("a", GPU, 6, policy=replace(PINNED, idle_offload_s=1.0))
    assert moves(plan(world(pinned, model("b", size=5, waited=100)))) == {}
    assert moves(plan(world(pinned, gpu=3))) == {}


def test_a_model_with_requests_keeps_its_place_until_somebody_has_waited_too_long() -> None:
    busy = model("a", GPU, 8, in_use=2)
    early = plan(world(busy, model("b", waited=29.5)))
    assert early == Plan(look_again_at=NOW + 0.5)
    late = plan(world(busy, model("b", waited=29.5), now=NOW + 0.5))
    assert late == Plan(closed=frozenset({"a"}))
    empty = plan(world(replace(busy, in_use=0, waiting=2, oldest_wait=NOW), model("b", waited=31)))
    assert moves(empty) == {"a": DISK}


def test_unused_ones_give_way_to_an_overdue_one_before_busy_ones() -> None:
    decided = plan(
        world(model("a", GPU, in_use=1), model("b", GPU, last_used=NOW), model("c", waited=31))
    )
    assert moves(decided) == {"b": DISK}
    assert decided.closed == frozenset()


def test_the_choice_among_busy_ones_does_not_change_as_they_become_empty() -> None:
    first = model("a", GPU, in_use=2, resident_since=1.0, last_used=1.0)
    second = model("b", GPU, in_use=2, resident_since=2.0, last_used=2.0)
    waiting = model("c", waited=31)
    assert plan(world(first, second, waiting)).closed == {"a"}
    drained = replace(first, in_use=1, last_used=NOW)
    assert plan(world(drained, second, waiting)).closed == {"a"}


def test_one_whose_engine_is_restarted_is_kept_for_those_who_wait_for_it() -> None:
    restarting = model("a", GPU, 8, waited=2, resident_since=None)
    assert moves(plan(world(restarting, model("b", waited=1)))) == {}
    assert moves(plan(world(restarting, model("b", waited=31)))) == {"a": DISK}


def test_one_that_is_waited_for_longer_is_not_taken_by_the_second_that_is_overdue() -> None:
    """Two that are overdue do not take each other's place in turns before either has answered."""
    just_loaded = model("a", GPU, 8, waited=40, resident_since=NOW)
    assert moves(plan(world(just_loaded, model("b", waited=35)))) == {}
    assert moves(plan(world(just_loaded, model("b", waited=45)))) == {"a": DISK}


# Where they go.


def test_a_victim_sleeps_where_host_ram_has_room() -> None:
    victim = model("a", GPU, 8, asleep=3)
    decided = plan(world(victim, model("b", waited=1), host=3, away=(CPU,)))
    assert moves(decided) == {"a": CPU}
    decided = plan(world(victim, model("b", waited=1), host=2, away=(CPU,)))
    assert moves(decided) == {"a": DISK}


def test_the_tiers_are_tried_in_their_order() -> None:
    victim, waiting = model("a", GPU, 8, asleep=3), model("b", waited=1)
    assert moves(plan(world(victim, waiting, host=9, away=(DISK, CPU)))) == {"a": DISK}


def test_one_that_sleeps_longer_makes_room_in_host_ram() -> None:
    asleep = model("a", CPU, asleep=3, last_used=10)
    victim = model("b", GPU, 8, asleep=3, last_used=20)
    waiting = model("c", waited=1)
    first = plan(world(asleep, victim, waiting, host=5, away=(CPU,)))
    assert moves(first) == {"a": DISK}  # "b" follows when that has ended
    assert first.closed == frozenset()
    assert reason(first, "a") == '"b" is to sleep in its place'
    stopping = replace(asleep, moving_to=DISK)
    assert moves(plan(world(stopping, victim, waiting, host=5, away=(CPU,)))) == {}
    stopped = replace(asleep, tier=DISK)
    assert moves(plan(world(stopped, victim, waiting, host=5, away=(CPU,)))) == {"b": CPU}


def test_one_that_is_to_sleep_for_an_overdue_one_is_closed_until_there_is_room() -> None:
    stopping = model("a", CPU, asleep=3, last_used=10, moving_to=DISK)
    victim = model("b", GPU, 8, asleep=3, last_used=20)
    decided = plan(world(stopping, victim, model("c", waited=31), host=5, away=(CPU,)))
    assert (moves(decided), decided.closed) == ({}, {"b"})


@pytest.mark.parametrize(
    "other",
    [
        model("a", CPU, asleep=3, last_used=30),  # used more recently
        model("a", CPU, asleep=3, last_used=10, waited=1),  # about to be woken
        model("a", CPU, asleep=3, last_used=10, in_use=1),
        model("a", CPU, asleep=3, last_used=10, policy=PINNED),
    ],
)
def test_otherwise_the_victim_is_stopped(other: object) -> None:
    victim = model("b", GPU, 8, asleep=3, last_used=20, in_use=0)
    decided = plan(world(other, victim, model("c", waited=1.5), host=5, away=(CPU,)))  # type: ignore[arg-type]
    assert moves(decided).get("b") == DISK
    assert "a" not in moves(decided)


def test_models_that_would_wait_for_each_others_room_are_not_both_put_to_sleep() -> None:
    both = Footprint(gib(gpu0=4, host=5), gib(host=1))
    decided = plan(
        world(
            model("a", GPU, footprint=both, last_used=1),
            model("b", GPU, footprint=both, last_used=2),
            model("c", size=9, waited=1),
            host=10,
            away=(CPU,),
        )
    )
    assert DISK in moves(decided).values()


def test_sleeping_models_are_stopped_where_a_load_needs_their_host_ram() -> None:
    needs_host = Footprint(gib(gpu0=4, host=4))
    decided = plan(
        world(
            model("a", CPU, asleep=3, last_used=2),
            model("b", CPU, asleep=3, last_used=1),
            model("c", footprint=needs_host, waited=1),
            host=8,
            away=(CPU,),
        )
    )
    assert moves(decided) == {"b": DISK}


def test_without_a_tier_to_be_put_aside_to_nobody_is() -> None:
    idle = model("a", GPU, 8, policy=MemoryPolicy(idle_offload_s=1.0))
    decided = plan(world(idle, model("b", waited=99), away=()))
    assert moves(decided) == {}
    assert decided.refused == {
        "b": '"b" needs 4.00 GiB of GPU 0, and the instance may take 10.00 GiB there, '
        'of which "a" (since no model may be put aside) keeps 8.00 GiB'
    }
    assert moves(plan(world(idle, gpu=3, away=()))) == {}


# What can never fit.


def test_what_can_never_fit_is_refused_at_once_with_the_numbers() -> None:
    decided = plan(world(model("a", GPU), model("big", size=12, waited=0)))
    assert moves(decided) == {}
    assert decided.refused == {
        "big": '"big" needs 12.00 GiB of GPU 0, and the instance may take 10.00 GiB there'
    }


def test_what_cannot_fit_beside_the_pinned_ones_is_refused() -> None:
    pinned = [model("p", GPU, 3, policy=PINNED), model("q", DISK, 2, policy=PINNED, moving_to=GPU)]
    decided = plan(world(*pinned, model("b", size=6, waited=0)))
    assert decided.refused == {
        "b": '"b" needs 6.00 GiB of GPU 0, and the instance may take 10.00 GiB there, '
        'of which "p", "q" (pinned) keep 5.00 GiB'
    }


def test_a_pinned_model_is_not_in_its_own_way() -> None:
    asleep = model("p", CPU, 10, asleep=3, policy=PINNED, waited=1)
    assert moves(plan(world(asleep, host=3))) == {"p": GPU}


def test_a_pool_that_there_is_not_holds_nothing() -> None:
    decided = plan(world(model("a", footprint=Footprint(gib(gpu1=1)), waited=1)))
    assert decided.refused == {
        "a": '"a" needs 1.00 GiB of GPU 1, and the instance may take 0 GiB there'
    }


def test_whoever_is_refused_takes_nobodys_turn() -> None:
    decided = plan(world(model("big", size=12, waited=99), model("b", waited=1)))
    assert moves(decided) == {"b": GPU}


# Loads that nobody waits for any more.


def test_a_load_that_nobody_waits_for_goes_on_while_nobody_wants_the_place() -> None:
    assert plan(world(model("a", DISK, 8, moving_to=GPU))) == Plan()


def test_a_load_that_nobody_waits_for_is_cancelled_where_another_model_wants_the_place() -> None:
    abandoned = model("a", DISK, 8, moving_to=GPU)
    decided = plan(world(abandoned, model("b", waited=0)))
    assert (decided.cancelled, moves(decided)) == (("a",), {})


@pytest.mark.parametrize(
    "more", [{"waiting": 1, "oldest_wait": NOW}, {"in_use": 1}, {"is_wanted": True}]
)
def test_a_load_that_somebody_waits_for_is_not_cancelled(more: dict[str, int]) -> None:
    loading = replace(model("a", DISK, 8, moving_to=GPU), **more)  # type: ignore[arg-type]
    assert plan(world(loading, model("b", waited=99))).cancelled == ()


def test_a_load_that_is_not_in_the_way_is_not_cancelled() -> None:
    assert plan(world(model("a", moving_to=GPU), model("b", waited=0))).cancelled == ()


def test_a_cancelled_wake_still_holds_what_it_held_asleep() -> None:
    both = Footprint(gib(gpu0=4, host=4), gib(host=4))
    abandoned = model("a", CPU, footprint=both, moving_to=GPU)
    waiting = model("b", footprint=Footprint(gib(gpu0=9, host=5)), waited=0)
    assert plan(world(abandoned, waiting, host=9)).cancelled == ("a",)
    assert plan(world(abandoned, waiting, host=8)).cancelled == ()  # it would not be enough


# Models that nobody uses.


def test_a_model_is_put_aside_when_nobody_used_it_for_long_enough() -> None:
    policy = MemoryPolicy(idle_offload_s=600.0)
    idle = model("a", GPU, asleep=3, policy=policy, last_used=NOW - 599)
    assert plan(world(idle, host=4, away=(CPU,))) == Plan(look_again_at=NOW + 1)
    decided = plan(world(idle, host=4, away=(CPU,), now=NOW + 1))
    assert moves(decided) == {"a": CPU}
    assert reason(decided, "a") == "nobody used it for 10 minutes"


@pytest.mark.parametrize(
    "more", [{"in_use": 1}, {"waiting": 1, "oldest_wait": NOW}, {"is_wanted": True}]
)
def test_a_model_that_is_used_is_not_idle(more: dict[str, int]) -> None:
    used = model("a", GPU, policy=MemoryPolicy(idle_offload_s=60.0))
    assert moves(plan(world(replace(used, **more)))) == {}  # type: ignore[arg-type]


def test_an_idle_model_gives_way_though_it_was_just_loaded() -> None:
    policy = MemoryPolicy(idle_offload_s=3.0)
    idle = model("a", GPU, 8, policy=policy, resident_since=NOW - 5, load_s=20.0)
    decided = plan(world(idle, model("b", waited=1)))
    assert reason(decided, "a") == '"b" needs its place (a request waits, 1 s)'


def test_one_that_was_loaded_and_never_used_is_idle_since_then() -> None:
    loaded = model("a", GPU, policy=MemoryPolicy(idle_offload_s=60.0), resident_since=NOW - 59)
    assert plan(world(loaded)) == Plan(look_again_at=NOW + 1)


# Less memory than before.


def test_unused_models_leave_where_the_memory_shrank() -> None:
    decided = plan(
        world(
            model("a", GPU, in_use=1),
            model("b", GPU, last_used=2),
            model("c", GPU, last_used=1, resident_since=NOW),
            gpu=9,
        )
    )
    assert moves(decided) == {"c": DISK}
    assert reason(decided, "c") == ("the models hold 3.00 GiB of GPU 0 more than there is")


def test_as_many_leave_as_can_where_that_is_not_enough() -> None:
    decided = plan(
        world(model("a", GPU, in_use=1), model("b", GPU), model("c", size=1, waited=1), gpu=3)
    )
    assert moves(decided) == {"b": DISK}
    assert decided.closed == frozenset()


def test_nothing_is_loaded_where_more_is_held_than_there_is() -> None:
    busy = model("a", GPU, 6, in_use=1)
    assert moves(plan(world(busy, model("b", size=1, waited=1), gpu=5))) == {}


# What went wrong elsewhere, as far as it is decided here.


def test_1_a_model_with_requests_is_never_put_aside() -> None:
    for waited in (1, 31, 1000):
        decided = plan(world(model("a", GPU, 8, in_use=1), model("b", waited=waited)))
        assert moves(decided) == {}


def test_2_two_cold_requests_at_the_same_moment_are_both_served() -> None:
    decided = plan(world(model("a", waited=0), model("b", waited=0)))
    assert moves(decided) == {"a": GPU, "b": GPU}
    # Where one fits at a time, the other has its turn as soon as the first is unused.
    one_place = [model("a", GPU, 8, resident_since=NOW - 1), model("b", size=8, waited=5)]
    assert moves(plan(world(*one_place))) == {"a": DISK}


def test_2_a_model_that_was_just_loaded_is_not_put_aside_before_its_own_request() -> None:
    loaded = model("a", GPU, 8, waited=3, resident_since=NOW)
    assert moves(plan(world(loaded, model("b", waited=5)))) == {}
    released = model("a", GPU, 8, in_use=1, resident_since=NOW)
    assert moves(plan(world(released, model("b", waited=5)))) == {}


def test_3_a_victim_that_is_asked_for_again_before_it_leaves_stays_and_nothing_hangs() -> None:
    chosen = model("a", GPU, 8)
    waiting = model("b", waited=5)
    assert moves(plan(world(chosen, waiting))) == {"a": DISK}
    back = replace(chosen, in_use=1)
    decided = plan(world(back, waiting))
    assert moves(decided) == {}
    assert decided.look_again_at == NOW + 25  # then it is closed
    late = plan(world(back, replace(waiting, oldest_wait=NOW - 30)))
    assert late.closed == {"a"}


def test_3_a_model_that_can_never_fit_has_nobody_put_aside() -> None:
    decided = plan(world(model("a", GPU), model("b", GPU), model("c", size=11, waited=1000)))
    assert moves(decided) == {}
    assert list(decided.refused) == ["c"]


def test_4_alternating_requests_do_not_swap_on_each_of_them() -> None:
    busy = model("a", GPU, 8, in_use=1, last_used=NOW)
    assert moves(plan(world(busy, model("b", waited=10, waiting=7)))) == {}


def test_5_a_request_for_a_model_that_is_leaving_brings_it_back_once_it_has_left() -> None:
    leaving = model("a", GPU, moving_to=DISK, waited=1)
    assert moves(plan(world(leaving))) == {}
    assert moves(plan(world(replace(leaving, tier=DISK, moving_to=None)))) == {"a": GPU}


def test_5_an_overdue_request_for_a_model_that_is_leaving_keeps_its_place() -> None:
    leaving = model("a", GPU, 8, moving_to=DISK, waited=31)
    assert moves(plan(world(leaving, model("b", size=2, waited=1)))) == {"b": GPU}
    assert moves(plan(world(leaving, model("b", size=2.5, waited=1)))) == {}


def test_6_a_long_request_is_not_idle() -> None:
    long = model("a", GPU, in_use=1, last_used=NOW - 1200, policy=MemoryPolicy(idle_offload_s=60))
    assert plan(world(long)) == Plan()


def test_7_the_load_of_a_client_that_left_makes_room() -> None:
    left = model("a", DISK, 8, moving_to=GPU)
    assert plan(world(left, model("b", waited=0))).cancelled == ("a",)


def test_8_whoever_waits_has_a_moment_at_which_more_is_done() -> None:
    decided = plan(world(model("a", GPU, 8, in_use=1), model("b", waited=1)))
    assert decided.look_again_at == NOW + 29


def test_11_victims_are_chosen_on_the_device_that_is_short() -> None:
    on_0, on_1 = Footprint(gib(gpu0=8)), Footprint(gib(gpu1=8))
    decided = plan(
        world(
            model("a", GPU, footprint=on_0, last_used=1),
            model("b", GPU, footprint=on_1, last_used=2),
            model("c", footprint=Footprint(gib(gpu1=4)), waited=1),
            capacity=gib(gpu0=10, gpu1=10),
        )
    )
    assert moves(decided) == {"b": DISK}


def test_12_a_big_and_a_small_model_take_turns_by_their_size_not_their_number() -> None:
    small = model("a", GPU, 29)
    decided = plan(world(small, model("b", size=100, waited=1), gpu=110))
    assert moves(decided) == {"a": DISK}
    decided = plan(world(small, model("b", size=100, waited=1), gpu=130))
    assert moves(decided) == {"b": GPU}


def test_the_same_world_gives_the_same_plan_whatever_the_order_of_its_models() -> None:
    models = [
        model("a", GPU, last_used=5),
        model("b", GPU, last_used=5),
        model("c", waited=3),
        model("d", waited=3),
    ]
    first = plan(world(*models))
    assert plan(world(*models)) == first
    assert moves(plan(world(*reversed(models)))) == moves(first)
