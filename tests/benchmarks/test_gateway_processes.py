"""The gateway's benchmark with its real processes: what it must notice, and that ours is clean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks.gateway.load import Job, Result, run_job
from benchmarks.gateway.starting import Engine, Running, running_target, stub_engine
from benchmarks.gateway.summary import header_changes
from benchmarks.gateway.targets import aiohttp_command, all_targets

TIMEOUT_S = 120.0
CLOSED = 5


@pytest.fixture(scope="module")
def core() -> int:
    return min(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def engine(core: int) -> Iterator[Engine]:
    with stub_engine(core) as running:
        yield running


def run(engine: Engine, running: Running, kind: str, **changes: object) -> Result:
    job = Job(kind, running.port, engine.port, running.key, running.pids, running.is_exact)
    return run_job(replace(job, **changes), TIMEOUT_S)


def spoiled_result(engine: Engine, core: int, fault: str) -> Result:
    target = replace(all_targets()["aiohttp"], command=aiohttp_command("--fault", fault))
    with running_target(target, "", engine, core, {}) as running:
        return run(engine, running, "compare")


def direct_headers(engine: Engine, core: int) -> dict[str, dict[str, str]]:
    with running_target(all_targets()["direct"], "", engine, core, {}) as running:
        return run(engine, running, "compare").headers


@pytest.mark.parametrize("fault", ["drop", "change", "swap"])
def test_a_proxy_that_spoils_bodies_is_noticed(engine: Engine, core: int, fault: str) -> None:
    result = spoiled_result(engine, core, fault)
    assert any("differ" in each for each in result.faults)
    assert not result.headers


@pytest.mark.parametrize(
    ("fault", "change"), [("header", "content-type"), ("request", "x-stub-body=")]
)
def test_a_proxy_that_spoils_headers_or_requests_is_noticed(
    engine: Engine, core: int, fault: str, change: str
) -> None:
    result = spoiled_result(engine, core, fault)
    changes = header_changes(direct_headers(engine, core)["answer"], result.headers["answer"])
    assert any(change in each for each in changes)


@pytest.mark.parametrize("name", ["gateway", "gateway-unix"])
def test_the_gateway_passes_everything_on(engine: Engine, core: int, name: str) -> None:
    with running_target(all_targets()[name], "", engine, core, {}) as running:
        compared = run(engine, running, "compare", events=CLOSED)
        held = run(engine, running, "hold", connections=20)
    assert compared.faults == {}
    assert compared.reused == CLOSED
    changes = header_changes(direct_headers(engine, core)["answer"], compared.headers["answer"])
    assert not [change for change in changes if not change.startswith("+")]
    assert (held.held, held.done, held.faults) == (20, 20, {})


def test_loads_count_what_was_done_and_the_proxys_processor_time(engine: Engine, core: int) -> None:
    with running_target(all_targets()["aiohttp"], "", engine, core, {}) as running:
        answers = run(engine, running, "answers", connections=4, seconds=0.5)
        latency = run(engine, running, "latency", seconds=0.2)
        streams = run(engine, running, "streams", connections=4, events=30, gap_us=1000)
    assert answers.done > 0
    assert answers.cpu_s > 0
    assert latency.done == len(latency.latencies_s) > 0
    assert latency.latencies_s == sorted(latency.latencies_s)
    assert streams.done == 4 * 30
    assert answers.faults == latency.faults == streams.faults == {}
