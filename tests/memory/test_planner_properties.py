"""What always holds, whatever arrives, fails, leaves and changes: thousands of random histories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.memory.contract import Plan, Tier, World
from common.memory.planner import plan
from tests.memory.histories import check_end, crowded, histories
from tests.memory.simulation import History, Simulation

MANY = settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CROWDED = 250
BLOCK = 50


@MANY
@given(histories())
def test_every_request_ends_in_time_and_no_rule_is_broken(history: History) -> None:
    """The simulation checks each step, and the end is checked here."""
    check_end(Simulation(history).run())


@pytest.mark.parametrize("block", range(0, CROWDED, BLOCK))
def test_the_same_where_models_are_hardly_ever_unused(block: int) -> None:
    for number in range(block, block + BLOCK):
        check_end(Simulation(crowded(number)).run())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(), st.randoms(use_true_random=False))
def test_the_plan_depends_on_the_world_alone(history: History, random: Random) -> None:
    """Asked again, and with the models in another order, it decides the same."""

    def decide(world: World) -> Plan:
        first = plan(world)
        assert plan(world) == first
        models = list(world.models)
        random.shuffle(models)
        other = plan(replace(world, models=tuple(models)))
        assert (set(other.moves), other.closed, set(other.cancelled), other.refused.keys()) == (
            set(first.moves),
            first.closed,
            set(first.cancelled),
            first.refused.keys(),
        )
        assert other.look_again_at == first.look_again_at
        return first

    Simulation(history, decide=decide, checks=False).run()


def _without_closing(world: World) -> Plan:
    return replace(plan(world), closed=frozenset())


def _without_looking_again(world: World) -> Plan:
    return replace(plan(world), look_again_at=None)


def _taking_busy_ones(world: World) -> Plan:
    return plan(replace(world, models=tuple(replace(m, in_use=0) for m in world.models)))


def _believing_in_more_memory(world: World) -> Plan:
    return plan(replace(world, capacity={pool: n + 2 for pool, n in world.capacity.items()}))


def _forgetting_what_moves(world: World) -> Plan:
    return plan(
        replace(
            world,
            models=tuple(
                m
                if m.moving_to is not Tier.GPU
                else replace(m, tier=Tier.DISK, footprint=replace(m.footprint, gpu={}))
                for m in world.models
            ),
        )
    )


def _without_a_time_to_stay(world: World) -> Plan:
    return plan(replace(world, models=tuple(_long_resident(world))))


def _long_resident(world: World):  # type: ignore[no-untyped-def]
    for model in world.models:
        yield model if model.resident_since is None else replace(model, resident_since=-100.0)


def _refusing_none(world: World) -> Plan:
    return replace(plan(world), refused={})


def _never_making_room(world: World) -> Plan:
    decided = plan(world)
    return replace(decided, moves=tuple(m for m in decided.moves if m.to is Tier.GPU))


@pytest.mark.parametrize(
    "decide",
    [
        _without_closing,
        _without_looking_again,
        _taking_busy_ones,
        _believing_in_more_memory,
        _forgetting_what_moves,
        _without_a_time_to_stay,
        _refusing_none,
        _never_making_room,
    ],
)
def test_a_planner_that_breaks_a_rule_is_found_out(decide: Callable[[World], Plan]) -> None:
    """The checks can fail: each of these is right but for one thing."""
    for number in range(60):
        try:
            check_end(Simulation(crowded(number), decide=decide).run())
        except AssertionError:
            return
    raise AssertionError("not found out")
