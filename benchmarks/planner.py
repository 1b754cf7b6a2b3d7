"""Time of one plan of Universal Memory for 100 models, in various states."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from statistics import median

import click

from benchmarks.machine import describe_machine
from benchmarks.report import Goal, Report, Table, show, warn_if_busy
from common.memory.contract import HOST, Footprint, MemoryPolicy, ModelState, Tier, World
from common.memory.planner import plan

GOAL_MS = 1.0
"""The most that a plan for 100 models may take, in milliseconds."""

_NOW = 1000.0
_GPUS = 4
_GIB = 2**30


@dataclass(frozen=True)
class Load:
    """How many models are on the GPUs, which share of them has requests, and how many wait."""

    resident: int
    busy: float = 0.5
    waiting: int = 0
    overdue: int = 0


LOADS: Mapping[str, Load] = {
    "20 resident, nobody waits": Load(20),
    "20 resident, 5 wait": Load(20, waiting=5),
    "20 resident, all others wait": Load(20, waiting=80),
    "20 resident, all others wait too long": Load(20, waiting=80, overdue=80),
    "80 resident and unused, all others wait": Load(80, busy=0.0, waiting=20),
    "80 resident and busy, all others wait too long": Load(80, busy=1.0, waiting=20, overdue=20),
    "none resident, all wait": Load(0, waiting=100),
}


def world(load: Load, models: int, seed: int = 1) -> World:
    """Models of 1 to 8 GiB on four GPUs that are full, the others asleep or on disk."""
    random = Random(seed)
    states = [_state(number, load, random) for number in range(models)]
    capacity = {f"gpu{n}": 8 * _GIB for n in range(_GPUS)}
    for state in states[: load.resident]:
        for pool, n in state.footprint.gpu.items():
            if pool != HOST:
                capacity[pool] += n
    capacity[HOST] = 6 * models * _GIB
    return World(tuple(states), capacity, (Tier.CPU,), _NOW)


def _state(number: int, load: Load, random: Random) -> ModelState:
    size = random.randint(1, 8) * _GIB
    footprint = Footprint({f"gpu{number % _GPUS}": size, HOST: _GIB}, {HOST: size})
    is_resident = number < load.resident
    place = number - load.resident
    is_waited_for = not is_resident and place < load.waiting
    waited_s = 60.0 if place < load.overdue else 5.0
    return ModelState(
        name=f"model-{number}",
        order=number,
        tier=Tier.GPU if is_resident else (Tier.CPU if number % 3 else Tier.DISK),
        footprint=footprint,
        policy=MemoryPolicy(priority=random.randint(-1, 1), idle_offload_s=600.0),
        waiting=3 if is_waited_for else 0,
        oldest_wait=_NOW - waited_s - random.random() if is_waited_for else None,
        in_use=1 if is_resident and random.random() < load.busy else 0,
        last_used=_NOW - random.uniform(0, 500),
        resident_since=_NOW - random.uniform(60, 900) if is_resident else None,
    )


def measure(given: World, plans: int) -> float:
    """Milliseconds of one plan: the median."""
    times = []
    for _ in range(plans):
        started = time.perf_counter()
        plan(given)
        times.append(time.perf_counter() - started)
    return median(times) * 1000


@click.command()
@click.option("--models", default=100, show_default=True, help="Models of the instance.")
@click.option("--plans", default=500, show_default=True, help="Plans of each state.")
@click.option("--json", "as_json", is_flag=True, help="Everything measured, as JSON.")
def main(models: int, plans: int, as_json: bool) -> None:
    """Time of one plan of Universal Memory."""
    warn_if_busy()
    worlds = {name: world(load, models) for name, load in LOADS.items()}
    found = {name: measure(given, plans) for name, given in worlds.items()}
    decided = {name: plan(given) for name, given in worlds.items()}
    slowest = max(found.values())
    show(
        Report(
            benchmark="planner",
            machine=describe_machine(),
            settings={"models": models, "plans of each state": plans},
            tables=[
                Table(
                    "One plan (median)",
                    ("state", "ms", "moves", "closed", "refused"),
                    [
                        (
                            name,
                            f"{took:.3f}",
                            str(len(decided[name].moves)),
                            str(len(decided[name].closed)),
                            str(len(decided[name].refused)),
                        )
                        for name, took in found.items()
                    ],
                )
            ],
            goals=[Goal(f"a plan takes at most {GOAL_MS:g} ms", slowest <= GOAL_MS)],
            figures={"ms": found},
        ),
        as_json=as_json,
    )


if __name__ == "__main__":
    main()
