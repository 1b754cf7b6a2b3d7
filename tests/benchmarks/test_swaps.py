"""The fewest loads that could have served given requests, and the benchmark that compares with them."""

from __future__ import annotations

from random import Random

import pytest

from benchmarks.fewest_loads import fewest_loads
from benchmarks.planner import LOADS, world
from benchmarks.swaps import GOAL, Setting, alternating, simulate
from common.memory.planner import plan


def test_one_load_for_each_model_where_all_fit() -> None:
    assert fewest_loads({"a": [0, 5], "b": [1, 7], "c": []}, 2, 1.0, 1.0) == 2


def test_one_place_is_handed_over_for_each_that_cannot_wait() -> None:
    arrivals = {"a": [0.0, 20.0], "b": [10.0]}
    assert fewest_loads(arrivals, 1, 1.0, 5.0) == 3
    # "a" may wait until all of its requests are there.
    assert fewest_loads(arrivals, 1, 1.0, 25.0) == 2


def test_who_is_asked_for_last_leaves() -> None:
    """The best choice knows the future: "b" is not wanted again, "a" is at once."""
    arrivals = {"a": [0.0, 12.0], "b": [0.0], "c": [10.0]}
    assert fewest_loads(arrivals, 2, 0.5, 0.5) == 3


def test_requests_that_come_while_a_place_is_handed_over_are_not_answered_by_who_leaves() -> None:
    arrivals = {"a": [0.0, 9.0], "b": [8.0]}
    assert fewest_loads(arrivals, 1, 1.5, 2.5) == 2
    assert fewest_loads(arrivals, 1, 2.0, 2.5) == 3


def test_one_that_was_just_loaded_has_answered_all_until_then() -> None:
    arrivals = {"a": [0.0, 3.0], "b": [0.0], "c": [0.5]}
    assert fewest_loads(arrivals, 1, 3.0, 3.0) == 3


def test_a_wait_that_is_shorter_than_a_switch_is_refused() -> None:
    with pytest.raises(ValueError, match="a switch takes 2 s, and none may wait 1 s"):
        fewest_loads({"a": [0.0]}, 1, 2.0, 1.0)


@pytest.mark.parametrize("seed", range(12))
def test_nothing_that_was_simulated_needed_fewer(seed: int) -> None:
    random = Random(seed)
    setting = Setting(
        every_s=random.choice([2.0, 8.0, 30.0]),
        service_s=random.choice([0.5, 5.0]),
        load_s=random.choice([0.5, 4.0]),
        clients=random.randint(2, 8),
        requests=120,
        max_wait_s=random.choice([0.0, 3.0, 20.0]),
    )
    outcome = simulate(setting, alternating(setting, seed))
    assert outcome.answered == setting.requests // setting.clients * setting.clients
    assert 4 <= outcome.fewest <= outcome.loads


def test_busy_models_are_swapped_hardly_more_often_than_they_must_be() -> None:
    setting = Setting(every_s=5.0, service_s=10.0, load_s=5.0)
    outcome = simulate(setting, alternating(setting, 1))
    assert outcome.answered == 1000
    assert outcome.ratio <= GOAL


@pytest.mark.parametrize("name", list(LOADS))
def test_a_plan_for_a_hundred_models_is_one_that_decides_something(name: str) -> None:
    load = LOADS[name]
    decided = plan(world(load, 100))
    assert bool(decided.moves or decided.closed) == bool(load.waiting)
