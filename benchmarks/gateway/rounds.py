"""Rounds: every target once in each, and what is measured once."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import psutil

from benchmarks.gateway.load import Job, Result, run_job
from benchmarks.gateway.starting import Engine, Running
from benchmarks.gateway.wrk import run_wrk, wrk_program
from benchmarks.processes import BenchmarkError

Item = TypeVar("Item")

_SLACK_S = 60.0
# So many times the engine closes its socket after a stream, in `compare`.
CLOSED_STREAMS = 20


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Attributes:
        rounds: How often all targets are measured.
        seconds: Of each measurement of requests; whole ones, as wrk counts them.
        connections: For requests and streams.
        gap_us: Between two events of a paced stream.
        paced_events: Of each paced stream.
        burst_events: Of each stream in a burst.
        held: Streams held open at once; 0: that is left out.
    """

    rounds: int
    seconds: int
    connections: int = 32
    gap_us: int = 20_000
    paced_events: int = 150
    burst_events: int = 1000
    held: int = 2000

    @property
    def load(self) -> str:
        """What asks for requests per second."""
        return "wrk" if wrk_program() else "own"


@dataclass(frozen=True)
class Round:
    """One target in one round."""

    latency: Result
    answers: Result
    paced: Result
    burst: Result


@dataclass
class Measured:
    """All of one target.

    Attributes:
        rounds: In their order.
        compared: What it does to the bytes.
        held: Streams held open; None: left out.
        failure: Why it was given up.
    """

    running: Running
    rounds: list[Round] = field(default_factory=list)
    compared: Result = field(default_factory=Result)
    held: Result | None = None
    failure: str | None = None

    @property
    def faults(self) -> dict[str, int]:
        """Everything that went wrong, by what was measured."""
        named = [("compare", self.compared), *([("hold", self.held)] if self.held else [])]
        for each in self.rounds:
            named += [("latency", each.latency), ("answers", each.answers)]
            named += [("paced", each.paced), ("burst", each.burst)]
        found: dict[str, int] = {}
        for name, result in named:
            for fault, count in result.faults.items():
                found[f"{name}: {fault}"] = found.get(f"{name}: {fault}", 0) + count
        return found


def rotated(items: Sequence[Item], number: int) -> list[Item]:
    """Return the order of a round: each target is first, last and in between in turns (pure)."""
    start = number % len(items) if items else 0
    return [*items[start:], *items[:start]]


def measure_all(
    targets: Sequence[Running], engine: Engine, plan: Plan, say: Callable[[str], None]
) -> list[Measured]:
    """Measure all targets; one that fails is given up and says why."""
    found = [Measured(running) for running in targets]
    for each in found:
        with _given_up_on_failure(each, say):
            each.compared = _job(each.running, engine, plan, "compare", events=CLOSED_STREAMS)
    for number in range(plan.rounds):
        for each in rotated(found, number):
            if each.failure is None:
                say(f"round {number + 1} of {plan.rounds}: {each.running.target.name}")
                with _given_up_on_failure(each, say):
                    each.rounds.append(measure_round(each.running, engine, plan))
    for each in found:
        if each.failure is None and plan.held:
            say(f"{plan.held} streams held open: {each.running.target.name}")
            with _given_up_on_failure(each, say):
                each.held = _job(each.running, engine, plan, "hold", connections=plan.held)
    return found


def measure_round(running: Running, engine: Engine, plan: Plan) -> Round:
    """Measure a target once.

    Raises:
        BenchmarkError: A load did not get to its end.
    """

    def job(kind: str, connections: int = 1, events: int = 0, gap_us: int = 0) -> Result:
        return _job(running, engine, plan, kind, connections, events, gap_us)

    return Round(
        latency=job("latency"),
        answers=_answers(running, engine, plan),
        paced=job("streams", plan.connections, plan.paced_events, plan.gap_us),
        burst=job("streams", plan.connections, plan.burst_events),
    )


def _answers(running: Running, engine: Engine, plan: Plan) -> Result:
    if plan.load == "wrk":
        return run_wrk(running, plan.connections, plan.seconds)
    return _job(running, engine, plan, "answers", plan.connections)


def _job(
    running: Running,
    engine: Engine,
    plan: Plan,
    kind: str,
    connections: int = 1,
    events: int = 0,
    gap_us: int = 0,
) -> Result:
    job = Job(
        kind=kind,
        port=running.port,
        engine_port=engine.port,
        key=running.key,
        pids=running.pids,
        is_exact=running.is_exact,
        connections=connections,
        seconds=plan.seconds,
        events=events,
        gap_us=gap_us,
    )
    # A hold waits twice for up to `timeout_s`.
    return run_job(job, plan.seconds + 2 * job.timeout_s + _SLACK_S)


@contextmanager
def _given_up_on_failure(measured: Measured, say: Callable[[str], None]) -> Iterator[None]:
    """Let the other targets go on when one fails."""
    try:
        yield
    except (BenchmarkError, psutil.Error, subprocess.SubprocessError) as error:
        measured.failure = error.message if isinstance(error, BenchmarkError) else str(error)
        say(f"{measured.running.target.name} is given up: {measured.failure}")
