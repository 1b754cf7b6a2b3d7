"""Loads of the planner for alternating requests, against the fewest that could have served them.

Four models of one size, two of which fit. Each of several clients sends a request every so often, to
one model after the other, whether the last is answered or not, so that the arrivals are the same
whatever is decided. They are served in the simulation of `tests.memory.simulation`, which checks every
step. What is compared with is in `benchmarks.fewest_loads`: a proven lower bound for anyone who knows
all arrivals beforehand and may let any request wait as long as the longest one did here, or as long as
the planner promises for one model's turn (`max_wait_s`, the requests that are answered until then, the
leaving and the load), whichever is longer.

The planner does not let requests wait only to save loads: where a model is unused, another one that is
waited for has its place at once. Where models are hardly ever unused, it is a schedule of few loads;
where requests are rare, it is one of short waits, and the bound tells how many loads those cost. The longer a
load takes beside `max_wait_s`, the less the bound says: it lets a place be handed on at any moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random
from statistics import mean

import click

from benchmarks.fewest_loads import fewest_loads
from benchmarks.machine import describe_machine
from benchmarks.report import Goal, Report, Table, say, show
from common.memory.contract import Footprint, MemoryPolicy, Tier
from tests.memory.simulation import Arrival, History, Simulation, Spec

GOAL = 1.2
"""The most loads, over the fewest that are possible."""
BUSY = 2.5
"""Requests that each model would have on average, were all of them resident, from which on a resident
model is hardly ever unused (less than a tenth of the time, were arrivals independent)."""

_NAMES = ("a", "b", "c", "d")
_PLACES = 2
_LEAVES_S = 0.5
_LOADS_S = (1.0, 5.0, 15.0)


@dataclass(frozen=True)
class Setting:
    """How requests come, and how long things take, in seconds."""

    every_s: float
    service_s: float
    load_s: float
    clients: int = 8
    requests: int = 1000
    max_wait_s: float = 30.0

    @property
    def in_use(self) -> float:
        """Requests at once for each model, were all of them resident."""
        return self.clients / self.every_s * self.service_s / len(_NAMES)

    @property
    def switch_s(self) -> float:
        """From the last request of a model that gives way to the first of the next."""
        return self.service_s + _LEAVES_S + self.load_s


@dataclass(frozen=True)
class Outcome:
    """What came of some rounds: loads in all, the fewest possible, and the waits in seconds."""

    loads: int
    fewest: int
    answered: int
    longest_wait_s: float
    mean_wait_s: float

    @property
    def ratio(self) -> float:
        """Loads over the fewest possible."""
        return self.loads / self.fewest


def alternating(setting: Setting, seed: int) -> tuple[Arrival, ...]:
    """Requests of several clients, each to one model after the other."""
    random = Random(seed)
    found = []
    for client in range(setting.clients):
        at = random.uniform(0, setting.every_s)
        for number in range(setting.requests // setting.clients):
            model = _NAMES[(client + number) % len(_NAMES)]
            found.append(Arrival(at, model, setting.service_s))
            at += setting.every_s * random.uniform(0.5, 1.5)
    return tuple(sorted(found, key=lambda arrival: arrival.at))


def simulate(setting: Setting, arrivals: Sequence[Arrival]) -> Outcome:
    """Serve requests as the planner decides, and find the fewest loads for them."""
    policy = MemoryPolicy(max_wait_s=setting.max_wait_s)
    specs = tuple(
        Spec(name, Footprint({"gpu0": 1}), policy, load_s=setting.load_s, stop_s=_LEAVES_S)
        for name in _NAMES
    )
    done = Simulation(History(specs, {"gpu0": _PLACES}, (Tier.DISK,), tuple(arrivals))).run()
    waits = [r.served_at - r.asked_at for r in done.requests if r.served_at is not None]
    times = {name: [a.at for a in arrivals if a.model == name] for name in _NAMES}
    longest_s = max(waits)
    promised_s = setting.max_wait_s + setting.switch_s
    return Outcome(
        loads=sum(done.loads.values()),
        fewest=fewest_loads(times, _PLACES, setting.switch_s, max(longest_s, promised_s)),
        answered=sum(request.outcome == "answered" for request in done.requests),
        longest_wait_s=longest_s,
        mean_wait_s=mean(waits),
    )


def measure(setting: Setting, rounds: int) -> Outcome:
    """Take several rounds together."""
    found = [simulate(setting, alternating(setting, seed)) for seed in range(rounds)]
    return Outcome(
        loads=sum(each.loads for each in found),
        fewest=sum(each.fewest for each in found),
        answered=sum(each.answered for each in found),
        longest_wait_s=max(each.longest_wait_s for each in found),
        mean_wait_s=mean(each.mean_wait_s for each in found),
    )


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Rounds with other arrivals.")
@click.option("--service", default=10.0, show_default=True, help="Seconds that an answer takes.")
@click.option("--json", "as_json", is_flag=True, help="Everything measured, as JSON.")
def main(rounds: int, service: float, as_json: bool) -> None:
    """Loads for alternating requests over four models of which two fit."""
    settings = [
        Setting(every_s, service, load_s)
        for load_s in _LOADS_S
        for every_s in (1.0, 2.5, 5.0, 10.0, 20.0)
    ]
    found = []
    for setting in settings:
        say(f"load {setting.load_s:g} s, a request every {setting.every_s:g} s of a client ...")
        found.append((setting, measure(setting, rounds)))
    requests = sum(setting.requests for setting in settings) * rounds
    answered = sum(outcome.answered for _, outcome in found)
    goals = [Goal(f"every request answered ({answered} of {requests})", answered == requests)]
    for load_s in _LOADS_S:
        same = [(s.in_use >= BUSY, o.ratio) for s, o in found if s.load_s == load_s]
        for is_busy, name in ((True, "hardly ever"), (False, "often")):
            if ratios := [ratio for busy, ratio in same if busy is is_busy]:
                text = f"load {load_s:g} s, models {name} unused: at most {GOAL:g} times the fewest"
                goals.append(Goal(f"{text} ({max(ratios):.2f})", max(ratios) <= GOAL))
    show(
        Report(
            benchmark="swaps",
            machine=describe_machine(),
            settings={
                "requests of a round": settings[0].requests,
                "clients": settings[0].clients,
                "rounds": rounds,
                "an answer takes (s)": service,
                "max_wait_seconds": settings[0].max_wait_s,
            },
            tables=[
                Table(
                    "Four models, two of which fit; all rounds together",
                    (
                        "load (s), one request of a client every (s)",
                        "at once a model",
                        "loads",
                        "fewest",
                        "ratio",
                        "mean wait (s)",
                        "longest wait (s)",
                    ),
                    [
                        (
                            f"{setting.load_s:g}, {setting.every_s:g}",
                            f"{setting.in_use:.1f}",
                            str(outcome.loads),
                            str(outcome.fewest),
                            f"{outcome.ratio:.2f}",
                            f"{outcome.mean_wait_s:.1f}",
                            f"{outcome.longest_wait_s:.1f}",
                        )
                        for setting, outcome in found
                    ],
                )
            ],
            goals=goals,
            figures={"settings": [{**asdict(s), **asdict(o)} for s, o in found]},
        ),
        as_json=as_json,
    )


if __name__ == "__main__":
    main()
