"""Start to ready, and to the first token: through a real queue and agent, and the engine by itself.

The instance is launched as ``make demo`` does it. Its first start on a fresh worker also clones the
repository and downloads the model; that round is shown by itself and left out of the medians.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.engine import bare_engine, engine_label
from benchmarks.figures import between, medians, spread
from benchmarks.instance import instance_of_task
from benchmarks.load import Target, time_to_first_token
from benchmarks.machine import describe_machine
from benchmarks.processes import began_at, end_in_order_on_sigterm, family_of
from benchmarks.report import Report, Table, say, show, warn_if_busy
from benchmarks.through_queue import (
    launch_instance,
    local_world,
    stop_instance,
    watch_until_ready,
)
from common.clearml.api import ClearMLApi
from common.demo.model import packaged_model, register_model
from common.local_server import RunningServer

_STAGES = {
    "launched": "launch call",
    "picked up": "in the queue, until an agent has it",
    "process": "agent: code and environment, until our program runs",
    "loading": "our program, until Status says loading",
    "engine": "names, gateway, model file, until the engine begins",
    "ready": "engine, until Status says ready",
    "first token": "request, until its first token",
}


@dataclass(frozen=True)
class Round:
    """One start each way; seconds by stage, the stages in order.

    Attributes:
        queue: From the launch call to the first token.
        bare: The engine by itself: until /health says 200, and until its first token.
    """

    queue: Mapping[str, float]
    bare: Mapping[str, float]


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Rounds after the first, cold one.")
@click.option("--engine", type=click.Choice(["auto", "llama-server", "xllamacpp"]), default="auto")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(rounds: int, engine: str, as_json: bool) -> None:
    """Measure the start of an instance through the queue against a bare engine start."""
    end_in_order_on_sigterm()
    warn_if_busy()
    machine = describe_machine()
    file = packaged_model()
    parameters: dict[str, object] = {"General/engine": engine}
    found: list[Round] = []
    with local_world(with_agent=True) as server:
        api = ClearMLApi()
        model_id = register_model(api, file, file.stem)
        for number in range(rounds + 1):
            queue = _through_queue(server, api, {**parameters, "Model/model": model_id})
            bare = _bare({**parameters, "Model/model": str(file)}, file)
            found.append(Round(queue, bare))
            name = f"round {number}" if number else "cold round"
            say(f"{name}: {sum(queue.values()):.2f} s, bare {sum(bare.values()):.2f} s")
    settings = {
        "engine": engine_label({**parameters, "Model/model": str(file)}),
        "model": file.name,
        "rounds": rounds,
    }
    show(_report(machine, settings, found), as_json=as_json)


def _through_queue(
    server: RunningServer, api: ClearMLApi, parameters: Mapping[str, object]
) -> dict[str, float]:
    """One launch; seconds by stage."""
    called = time.monotonic()
    task_id = launch_instance(api, parameters)
    launched = time.monotonic()
    try:
        assert server.agent_pid is not None
        state, seen = watch_until_ready(api, task_id, server.agent_pid)
        model = state.models[0]
        target = Target(model["url"], model["name"], key=state.status["api_key"])
        asked = time.monotonic()
        first_token = asked + time_to_first_token(target)
        pid = instance_of_task(task_id).pid
        engine_began = began_at(family_of(pid).engines[0].pid)
        return between(
            {
                "called": called,
                "launched": launched,
                # The agent can be quicker than the answer to the launch call's last request.
                "picked up": max(launched, seen["picked up"]),
                "process": seen["process"],
                "loading": max(seen["process"], seen["loading"]),
                "engine": max(seen["loading"], engine_began),
                "ready": seen["ready"],
                "first token": first_token,
            }
        )
    finally:
        stop_instance(api, task_id)


def _bare(parameters: Mapping[str, object], file: Path) -> dict[str, float]:
    """One start of the engine by itself."""
    with bare_engine(parameters, file) as (target, ready_s):
        return {"ready": ready_s, "first token": time_to_first_token(target)}


def _report(
    machine: Mapping[str, str], settings: Mapping[str, object], found: Sequence[Round]
) -> Report:
    cold, warm = found[0], found[1:] or found
    queue = medians([each.queue for each in warm])
    bare = medians([each.bare for each in warm])
    rows = [
        (
            title,
            f"{queue[name]:.2f}",
            spread(each.queue[name] for each in warm),
            f"{cold.queue[name]:.2f}",
        )
        for name, title in _STAGES.items()
    ]
    rows += [
        _total("**launch to ready**", warm, cold, way="queue", until_ready=True),
        _total("**launch to the first token**", warm, cold, way="queue", until_ready=False),
        _total("bare engine: start to /health", warm, cold, way="bare", until_ready=True),
        _total("bare engine: start to the first token", warm, cold, way="bare", until_ready=False),
    ]
    return Report(
        benchmark="start_time",
        machine=machine,
        settings=settings,
        tables=[Table("Seconds", ("stage", "median", "min-max", "cold round"), rows)],
        figures={
            "stages": queue,
            "bare": bare,
            "rounds": [{"queue": dict(r.queue), "bare": dict(r.bare)} for r in found],
        },
    )


def _total(
    title: str, warm: Sequence[Round], cold: Round, *, way: str, until_ready: bool
) -> tuple[str, str, str, str]:
    def total(each: Round) -> float:
        steps = each.queue if way == "queue" else each.bare
        return sum(s for name, s in steps.items() if not (until_ready and name == "first token"))

    values = [total(each) for each in warm]
    middle = medians([{"total": value} for value in values])["total"]
    return (title, f"{middle:.2f}", spread(values), f"{total(cold):.2f}")


if __name__ == "__main__":
    main()
