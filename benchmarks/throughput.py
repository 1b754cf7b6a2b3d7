"""Tokens per second through the gateway against the same engine process direct.

Rounds measure both ways one after the other and take turns in who is first. The work is fixed:
every request generates the same number of tokens from the same prompt, so a ratio of rates is a
ratio of times. The engine has one slot per stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import click
import psutil

from benchmarks.engine import ENGINES, engine_label, installed_engines
from benchmarks.figures import Comparison, load_order, spread
from benchmarks.instance import ServedInstance, local_instance
from benchmarks.load import Load, LoadResult, run_load
from benchmarks.machine import describe_machine
from benchmarks.processes import BenchmarkError, end_in_order_on_sigterm, processor_time
from benchmarks.report import Goal, Report, Table, say, show, warn_if_busy
from common.demo.model import packaged_model

_GOAL = 0.98
_CONTEXT = 1024
_LOAD_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Row:
    """One engine at one number of streams.

    Attributes:
        rates: Tokens per second each way.
        direct: Every round's load.
        gateway: Every round's load.
        gateway_cpu_s: Processor time of the gateway's process during each round's load.
    """

    engine: str
    streams: int
    rates: Comparison
    direct: tuple[LoadResult, ...]
    gateway: tuple[LoadResult, ...]
    gateway_cpu_s: tuple[float, ...]


@click.command()
@click.option("--rounds", default=10, show_default=True, help="Rounds for each engine and load.")
@click.option("--tokens", default=128, show_default=True, help="Generated in each request.")
@click.option("--streams", multiple=True, type=int, default=(1, 8, 32), show_default=True)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    type=click.Choice(ENGINES),
    help="May be repeated; default: those installed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    rounds: int, tokens: int, streams: tuple[int, ...], engines: tuple[str, ...], as_json: bool
) -> None:
    """Measure generated tokens per second through the gateway against the engine direct."""
    end_in_order_on_sigterm()
    warn_if_busy()
    machine = describe_machine()
    file = packaged_model()
    rows: list[Row] = []
    labels: list[str] = []
    for engine in engines or installed_engines():
        parameters = {
            "Model/model": str(file),
            "Model/context_size": _CONTEXT,
            "Model/parallel": max(streams),
            "General/engine": engine,
        }
        labels.append(engine_label(parameters))
        with local_instance(parameters) as instance:
            for count in streams:
                say(f"{engine}, {count} streams")
                rows.append(_measure(instance, engine, count, rounds, tokens))
    if not rows:
        raise BenchmarkError(f"none of {', '.join(ENGINES)} is installed")
    settings = {
        "engines": "; ".join(labels),
        "model": file.name,
        "rounds": rounds,
        "tokens per request": tokens,
    }
    show(_report(machine, settings, rows), as_json=as_json)


def requests_per_stream(streams: int) -> int:
    """As many as make the loads alike in length: a stream among many is slower."""
    if streams <= 2:
        return 4
    return 2 if streams <= 16 else 1


def _measure(instance: ServedInstance, engine: str, streams: int, rounds: int, tokens: int) -> Row:
    process = psutil.Process(instance.pid)
    requests = requests_per_stream(streams)
    loads = {
        "direct": Load(instance.engine, streams, requests, tokens),
        "gateway": Load(instance.gateway, streams, requests, tokens),
    }
    for target in (instance.engine, instance.gateway):
        run_load(Load(target, streams, 1, 16), _LOAD_TIMEOUT_S)  # slots and code warm up
    results: dict[str, list[LoadResult]] = {"direct": [], "gateway": []}
    cpu_s: list[float] = []
    for number in range(rounds):
        for way in load_order(number):
            before = processor_time([process])
            results[way].append(run_load(loads[way], _LOAD_TIMEOUT_S))
            if way == "gateway":
                cpu_s.append(processor_time([process]) - before)
        direct, gateway = (results[way][-1].tokens_per_s for way in ("direct", "gateway"))
        say(f"  {direct:.1f} direct, {gateway:.1f} through the gateway: {gateway / direct:.3f}")
    return Row(
        engine,
        streams,
        Comparison(
            tuple(result.tokens_per_s for result in results["direct"]),
            tuple(result.tokens_per_s for result in results["gateway"]),
        ),
        tuple(results["direct"]),
        tuple(results["gateway"]),
        tuple(cpu_s),
    )


def _report(
    machine: Mapping[str, str], settings: Mapping[str, object], rows: Sequence[Row]
) -> Report:
    columns = (
        "engine, streams",
        "direct tok/s",
        "gateway tok/s",
        "ratio",
        "median of rounds",
        "rounds",
        "first token ms",
        "CPU us/token",
    )
    return Report(
        benchmark="throughput",
        machine=machine,
        settings=settings,
        tables=[Table("Tokens per second, medians", columns, [_cells(row) for row in rows])],
        goals=[
            Goal(
                f"at least {_GOAL:g} of the engine direct ({row.engine}, {row.streams} streams)",
                row.rates.ratio >= _GOAL,
            )
            for row in rows
        ],
        figures={"rows": [_record(row) for row in rows]},
    )


def _cells(row: Row) -> tuple[str, ...]:
    rates = row.rates
    first = "/".join(
        f"{median(s for load in loads for s in load.first_token_s) * 1000:.0f}"
        for loads in (row.direct, row.gateway)
    )
    cpu_us = [s * 1e6 / load.tokens for s, load in zip(row.gateway_cpu_s, row.gateway, strict=True)]
    return (
        f"{row.engine}, {row.streams}",
        f"{median(rates.direct):.1f}",
        f"{median(rates.through):.1f}",
        f"{rates.ratio:.3f}",
        f"{median(rates.round_ratios):.3f}",
        spread(rates.round_ratios, 3),
        first,
        f"{median(cpu_us):.0f}",
    )


def _record(row: Row) -> dict[str, Any]:
    rates = row.rates
    return {**asdict(row), "ratio": rates.ratio, "round_ratios": rates.round_ratios}


if __name__ == "__main__":
    main()
