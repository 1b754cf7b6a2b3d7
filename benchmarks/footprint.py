"""Memory and processor time of an idle instance, without its engine.

An instance with a ready model is left alone, for its start to be over and then for a minute that is
measured. Counted is our program with whatever it started except guards and engines; these two are
listed beside it. Memory is the largest reading: RSS, which counts shared pages fully in every
process, and PSS, which divides them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import click
import psutil

from benchmarks.engine import engine_label
from benchmarks.instance import instance_of_task, local_instance
from benchmarks.machine import describe_machine
from benchmarks.processes import (
    Family,
    end_in_order_on_sigterm,
    family_of,
    processor_time,
)
from benchmarks.report import Goal, Report, Table, say, show, warn_if_busy
from benchmarks.through_queue import (
    launch_instance,
    local_world,
    stop_instance,
    watch_until_ready,
)
from common.clearml.api import ClearMLApi
from common.demo.model import packaged_model, register_model

MODES = ("offline", "server", "agent")
"""By hand without a server, by hand with a local server, launched through a queue and an agent."""

_GOAL_RSS_MB = 150.0
_GOAL_CPU_PERCENT = 1.0
_MEMORY_EVERY_S = 5.0
_MB = 1e6


@dataclass(frozen=True)
class Usage:
    """What some processes used while idle.

    Attributes:
        processes: How many.
        rss_mb: Largest sum of their RSS, in 10^6 bytes.
        pss_mb: Largest sum of their PSS; 0 where the system does not tell.
        cpu_percent: Of one processor, over the whole time.
        threads: At the end.
    """

    processes: int
    rss_mb: float
    pss_mb: float
    cpu_percent: float
    threads: int


@dataclass(frozen=True)
class Idle:
    """One idle instance, by mode; its parts."""

    mode: str
    instance: Usage
    guards: Usage
    engines: Usage


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="Measured idle time.")
@click.option("--settle", default=20.0, show_default=True, help="Seconds to wait before it.")
@click.option("--mode", "modes", multiple=True, type=click.Choice(MODES), default=MODES)
@click.option("--engine", type=click.Choice(["auto", "llama-server", "xllamacpp"]), default="auto")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(seconds: float, settle: float, modes: tuple[str, ...], engine: str, as_json: bool) -> None:
    """Measure memory and processor time of an idle instance without its engine."""
    end_in_order_on_sigterm()
    warn_if_busy()
    machine = describe_machine()
    file = packaged_model()
    parameters = {"Model/model": str(file), "General/engine": engine}
    found = []
    for mode in modes:
        with _idle_instance(mode, parameters) as pid:
            say(f"{mode}: settling {settle:g} s, then measuring {seconds:g} s")
            time.sleep(settle)
            found.append(_measure(mode, family_of(pid), seconds))
    settings = {
        "engine": engine_label(parameters),
        "model": file.name,
        "seconds": f"{seconds:g} after {settle:g}",
    }
    show(_report(machine, settings, found), as_json=as_json)


@contextmanager
def _idle_instance(mode: str, parameters: Mapping[str, object]) -> Iterator[int]:
    """An instance with a ready model; yields its process's id."""
    if mode == "offline":
        with local_instance(parameters) as instance:
            yield instance.pid
        return
    with local_world(with_agent=mode == "agent") as server:
        if mode == "server":
            with local_instance(parameters, environ=server.environment) as instance:
                yield instance.pid
            return
        assert server.agent_pid is not None
        api = ClearMLApi()
        model_id = register_model(api, packaged_model(), packaged_model().stem)
        task_id = launch_instance(api, {**parameters, "Model/model": model_id})
        try:
            watch_until_ready(api, task_id, server.agent_pid)
            yield instance_of_task(task_id).pid
        finally:
            stop_instance(api, task_id)


def _measure(mode: str, family: Family, seconds: float) -> Idle:
    parts = (family.instance, family.guards, family.engines)
    before = [processor_time(part) for part in parts]
    started = time.monotonic()
    memory = [_memory_mb(part) for part in parts]
    while (left := started + seconds - time.monotonic()) > 0:
        time.sleep(min(_MEMORY_EVERY_S, left))
        now = [_memory_mb(part) for part in parts]
        memory = [(max(a[0], b[0]), max(a[1], b[1])) for a, b in zip(memory, now, strict=True)]
    elapsed = time.monotonic() - started
    usages = [
        Usage(
            processes=len(part),
            rss_mb=rss,
            pss_mb=pss,
            cpu_percent=(processor_time(part) - cpu) / elapsed * 100,
            threads=sum(process.num_threads() for process in part),
        )
        for part, cpu, (rss, pss) in zip(parts, before, memory, strict=True)
    ]
    return Idle(mode, *usages)


def _memory_mb(processes: Sequence[psutil.Process]) -> tuple[float, float]:
    full = [process.memory_full_info() for process in processes]
    rss = sum(each.rss for each in full)
    return rss / _MB, sum(getattr(each, "pss", 0) for each in full) / _MB


def _report(
    machine: Mapping[str, str], settings: Mapping[str, object], found: Sequence[Idle]
) -> Report:
    rows = [
        _cells(f"{idle.mode}: {name}", usage)
        for idle in found
        for name, usage in (
            ("instance", idle.instance),
            ("guards", idle.guards),
            ("engines", idle.engines),
        )
    ]
    columns = ("processes", "RSS MB", "PSS MB", "CPU % of a core", "number", "threads")
    return Report(
        benchmark="footprint",
        machine=machine,
        settings=settings,
        tables=[Table("Idle, with one ready model", columns, rows)],
        goals=[goal for idle in found for goal in _goals(idle)],
        figures={"modes": [asdict(idle) for idle in found]},
    )


def _cells(title: str, usage: Usage) -> tuple[str, ...]:
    return (
        title,
        f"{usage.rss_mb:.1f}",
        f"{usage.pss_mb:.1f}",
        f"{usage.cpu_percent:.2f}",
        str(usage.processes),
        str(usage.threads),
    )


def _goals(idle: Idle) -> Iterator[Goal]:
    used = idle.instance
    yield Goal(f"{idle.mode}: RSS under {_GOAL_RSS_MB:g} MB", used.rss_mb < _GOAL_RSS_MB)
    yield Goal(
        f"{idle.mode}: under {_GOAL_CPU_PERCENT:g} % of a core",
        used.cpu_percent < _GOAL_CPU_PERCENT,
    )


if __name__ == "__main__":
    main()
