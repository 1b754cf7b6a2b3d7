"""``python -m benchmarks.gateway``: one table of what proxies cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import click

from benchmarks.gateway.cores import Cores, allow_open_files, this_machine
from benchmarks.gateway.loop import loop_name
from benchmarks.gateway.rounds import Measured, Plan, measure_all
from benchmarks.gateway.starting import Running, running_target, stub_engine
from benchmarks.gateway.summary import SATURATED, Row, goals_of, header_changes, summarize, table
from benchmarks.gateway.targets import NotInstalledError, Target, all_targets
from benchmarks.machine import describe_machine
from benchmarks.processes import BenchmarkError, end_in_order_on_sigterm
from benchmarks.report import Report, say, show, warn_if_busy

PEERS_VARIABLE = "BENCH_GATEWAY_PEERS"
_OPEN_FILES = 16_384


def read_peers(
    context: click.Context, parameter: click.Parameter, given: Sequence[str]
) -> dict[str, str]:
    """Turn ``name=python`` words into a mapping.

    Raises:
        BadParameter: A word is none, or names no peer.
    """
    peers = {}
    for word in given:
        name, equals, python = word.partition("=")
        if not equals or not python or name not in all_targets():
            raise click.BadParameter(f"{word!r} is not NAME=PYTHON with the name of a target")
        peers[name] = python
    return peers


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Interleaved rounds.")
@click.option("--seconds", default=2, show_default=True, help="Of each measurement of requests.")
@click.option("--held", default=2000, show_default=True, help="Streams held open; 0: left out.")
@click.option(
    "--targets",
    "names",
    multiple=True,
    type=click.Choice(tuple(all_targets())),
    help="May be repeated; default: all but the controls (aiohttp-...). direct is always measured.",
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    callback=read_peers,
    envvar=PEERS_VARIABLE,
    metavar="NAME=PYTHON",
    help=f"The Python that has a peer installed; may be repeated, or words in {PEERS_VARIABLE}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    rounds: int,
    seconds: int,
    held: int,
    names: tuple[str, ...],
    peers: dict[str, str],
    as_json: bool,
) -> None:
    """Measure what the gateway and other proxies cost in front of a stub engine."""
    end_in_order_on_sigterm()
    warn_if_busy()
    machine = describe_machine()
    plan = Plan(rounds=rounds, seconds=seconds, held=held)
    cores = this_machine()
    if not cores.are_apart:
        say(f"WARNING: {cores.note}")
    if allow_open_files(_OPEN_FILES) < 2 * held + 100:
        raise BenchmarkError(f"{held} streams need a higher limit of open files (ulimit -Hn)")
    chosen, left_out = choose(names, peers)
    for name, reason in left_out.items():
        say(f"{name} is skipped: {reason}")
    everywhere = os.sched_getaffinity(0)
    # Whatever is started without a word about it, wrk and the load, runs here too.
    os.sched_setaffinity(0, {cores.load})
    try:
        with ExitStack() as stack:
            engine = stack.enter_context(stub_engine(cores.load))
            running: list[Running] = []
            for target, version in chosen:
                say(f"starting {target.name} {version}")
                started = running_target(target, version, engine, cores.proxy, peers)
                try:
                    running.append(stack.enter_context(started))
                except BenchmarkError as error:
                    left_out[target.name] = error.message
                    say(f"{target.name} is skipped: {error.message}")
            measured = measure_all(running, engine, plan, say)
    finally:
        os.sched_setaffinity(0, everywhere)
    show(_report(machine, plan, cores, measured, left_out), as_json=as_json)


def choose(
    names: Sequence[str], peers: Mapping[str, str]
) -> tuple[list[tuple[Target, str]], dict[str, str]]:
    """Return the targets to measure with their versions, and why others are left out."""
    targets = all_targets()
    wanted = names or [name for name, target in targets.items() if not target.is_control]
    chosen: list[tuple[Target, str]] = []
    left_out: dict[str, str] = {}
    for name in dict.fromkeys(("direct", *wanted)):
        try:
            chosen.append((targets[name], targets[name].version(peers)))
        except NotInstalledError as error:
            left_out[name] = str(error)
    return chosen, left_out


def _report(
    machine: Mapping[str, str],
    plan: Plan,
    cores: Cores,
    measured: Sequence[Measured],
    left_out: Mapping[str, str],
) -> Report:
    rows = summarize(measured)
    load = "wrk" if plan.load == "wrk" else f"our generator ({loop_name()}): wrk is not installed"
    settings: dict[str, Any] = {
        "processors": cores.note,
        "stub engine": loop_name(),
        "requests asked by": load,
        "rounds": f"{plan.rounds}, {plan.seconds} s of requests each",
        "bodies": "1024 bytes each way, events of 200 bytes",
        "connections": f"{plan.connections}; paced: {plan.gap_us / 1000:g} ms apart",
        **_notes(measured, rows),
        **{f"skipped: {name}": reason for name, reason in left_out.items()},
    }
    gateway = rows.get("gateway")
    return Report(
        benchmark="gateway",
        machine=machine,
        settings=settings,
        tables=[table(rows)],
        goals=goals_of(gateway, plan.held) if gateway and measured else (),
        figures={
            "rows": {name: asdict(row) for name, row in rows.items()},
            "rounds": {
                each.running.target.name: [_brief(asdict(one)) for one in each.rounds]
                for each in measured
            },
        },
    )


def _notes(measured: Sequence[Measured], rows: Mapping[str, Row]) -> dict[str, str]:
    """What the table has no room for."""
    found: dict[str, str] = {}
    direct = next(each for each in measured if each.running.target.name == "direct")
    limited = [name for name, row in rows.items() if row.busy is not None and row.busy < SATURATED]
    if limited:
        found["* not limited by the proxy's processor"] = ", ".join(
            f"{name} ({rows[name].busy:.0%} of it used)" for name in limited
        )
    for each in measured:
        name = each.running.target.name
        if each.failure is not None:
            found[f"{name} failed"] = each.failure
        for fault, count in each.faults.items():
            found[f"{name}, fault of {fault.partition(':')[0]}, {count} times"] = fault
        changed = {
            change
            for kind, before in direct.compared.headers.items()
            for change in header_changes(before, each.compared.headers.get(kind, {}))
        }
        if changed:
            found[f"{name}, headers"] = " ".join(sorted(changed))
    return found


def _brief(one: dict[str, Any]) -> dict[str, Any]:
    """A round without each single latency."""
    one["latency"]["latencies_s"] = len(one["latency"]["latencies_s"])
    return one


if __name__ == "__main__":
    main()
