"""From a request for a model that was put aside to its first token, against the engine by hand.

An instance has two models and memory for one. The engine by hand is the same command on copies of the
same files, ended and started as the instance has to. Two tiers: weights in RAM, and files that are read
from the disk (their pages are dropped from the page cache before each start, both ways). Two cases in
each: the place is free, and another model has to leave first.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from apps.llamacpp.app import app
from apps.llamacpp.asked_memory import read_request
from apps.llamacpp.command import as_llamacpp
from benchmarks.engine import bare_engine, engine_label
from benchmarks.figures import Comparison, medians, spread
from benchmarks.instance import RunningInstance, running_instance
from benchmarks.load import Target, time_to_first_token
from benchmarks.machine import describe_machine
from benchmarks.page_cache import make_cold, make_warm
from benchmarks.processes import BenchmarkError, end_in_order_on_sigterm, wait_until
from benchmarks.report import Goal, Report, Table, say, show, warn_if_busy
from common.demo.model import packaged_model
from common.engines.cpu import default_threads
from common.models.footprint import read_shape
from common.models.gguf import read_model
from common.models.gpu_split import plan_memory
from common.runtime.checking import check_parameters

_GOAL = 1.1
_WAIT_S = 90.0
_TOLD_S = 10.0
# A model keeps its place for as long as its load took, at least so long (common.memory.victims).
_LEAST_PLACE_S = 1.0
_SPARE_S = 0.4
_NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
_NAMES = ("one", "two")


@dataclass(frozen=True)
class Tier:
    """Where models are put aside to.

    Attributes:
        title: In the table.
        field: The option that has an instance do so.
        operation: Puts a model there by hand.
        is_cold: Its file is read from the disk.
    """

    title: str
    field: str
    operation: str
    is_cold: bool


_TIERS = {
    "ram": Tier("in RAM", "General/enable_automatic_cpu_offloading", "sleep", False),
    "disk": Tier("on disk", "General/enable_disk_swapping", "unload", True),
}


@dataclass(frozen=True)
class Sample:
    """One way to a first token.

    Attributes:
        total_s: From the request, or from the end of the other engine, to the first token.
        parts: Of that by name: ``leave`` (the other model; 0 where none had to), ``load`` (until the
            engine answers), ``rest``.
    """

    total_s: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """All rounds of one tier, with another model in the place or without.

    Attributes:
        tier: Its key.
        is_switch: Another model has to leave.
        instance: By the instance, one a round.
        bare: The engine by hand, in the same order.
    """

    tier: str
    is_switch: bool
    instance: tuple[Sample, ...]
    bare: tuple[Sample, ...]

    @property
    def title(self) -> str:
        """The row's name."""
        return f"{_TIERS[self.tier].title}, {'another leaves' if self.is_switch else 'place free'}"

    @property
    def comparison(self) -> Comparison:
        """Seconds both ways."""
        return Comparison(
            direct=tuple(sample.total_s for sample in self.bare),
            through=tuple(sample.total_s for sample in self.instance),
        )


@click.command()
@click.option(
    "--rounds", default=10, show_default=True, help="Rounds of each case, after a warm-up."
)
@click.option("--tier", type=click.Choice(["all", *_TIERS]), default="all", show_default=True)
@click.option("--engine", type=click.Choice(["llama-server", "xllamacpp"]), default="llama-server")
@click.option(
    "--model",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="GGUF file. Default: the demo's model.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(rounds: int, tier: str, engine: str, model: Path | None, as_json: bool) -> None:
    """Measure how fast a model that was put aside is back, against the engine by hand."""
    end_in_order_on_sigterm()
    warn_if_busy()
    os.environ.update(_NO_GPU)
    machine = describe_machine()
    file = model or packaged_model()
    # The same for both ways: by itself an instance with two models divides the processors.
    options = {"context_size": 2048, "parallel": 1, "threads": default_threads(1)}
    parameters: dict[str, object] = {"General/engine": engine}
    bare = parameters | {f"Model/{name}": value for name, value in options.items()}
    found: list[Case] = []
    with _copies(file) as copies:
        for name in _TIERS if tier == "all" else (tier,):
            found += _measure(name, rounds, copies, parameters, options, bare)
    settings = {
        "engine": engine_label({**bare, "Model/model": str(file)}),
        "model": f"{file.name}, {file.stat().st_size / 2**20:.0f} MiB, two copies",
        "rounds": rounds,
    }
    show(_report(machine, settings, found), as_json=as_json)


@dataclass(frozen=True)
class _Copies:
    """Files with the same content: what the instance maps or locks cannot be dropped."""

    instance: Mapping[str, Path]
    bare: tuple[Path, Path]


@contextmanager
def _copies(file: Path) -> Iterator[_Copies]:
    with tempfile.TemporaryDirectory(prefix="cd-bench-models-") as folder:
        paths = [Path(folder) / f"{name}.gguf" for name in (*_NAMES, "bare-one", "bare-two")]
        for path in paths:
            shutil.copyfile(file, path)
        yield _Copies(dict(zip(_NAMES, paths, strict=False)), (paths[2], paths[3]))


def _measure(
    name: str,
    rounds: int,
    copies: _Copies,
    parameters: Mapping[str, object],
    options: Mapping[str, object],
    bare: Mapping[str, object],
) -> list[Case]:
    """All cases of one tier, the ways of a round one after the other."""
    tier = _TIERS[name]
    first = copies.instance[_NAMES[0]]
    models = [
        {"model": str(path), "model_endpoint_name": name, **options}
        for name, path in copies.instance.items()
    ]
    given = {
        **parameters,
        tier.field: True,
        "General/max_cuda_memory_gib": round(1.5 * _needed({**bare, "Model/model": str(first)}), 3),
        "Models/models": json.dumps(models),
    }
    by_case: dict[bool, tuple[list[Sample], list[Sample]]] = {False: ([], []), True: ([], [])}
    with running_instance(given) as running:
        instance = _Instance(running, tier, copies.instance)
        for number in range(rounds + 1):
            # Each case loads another model than is there.
            for is_switch, (through, direct) in by_case.items():
                ways = [
                    (through, lambda switch=is_switch: instance.ask(is_switch=switch)),
                    (direct, lambda switch=is_switch: _bare(bare, copies, tier, is_switch=switch)),
                ]
                for samples, measure in ways if number % 2 else reversed(ways):
                    samples.append(measure())
                told = f"{through[-1].total_s:.2f} s, by hand {direct[-1].total_s:.2f} s"
                what = f"round {number}" if number else "warm-up"
                say(f"{tier.title}, {'switch' if is_switch else 'free'}, {what}: {told}")
    return [
        Case(name, is_switch, tuple(through[1:]), tuple(direct[1:]))
        for is_switch, (through, direct) in by_case.items()
    ]


def _needed(parameters: Mapping[str, object]) -> float:
    """What one of the models takes, in GiB, as the instance counts it."""
    settings = check_parameters(app(), parameters, {}).settings
    options = as_llamacpp(settings.models[0])
    shape = read_shape(read_model((Path(options.model or ""),)))
    return plan_memory(shape, read_request(options, shape).request, 0, ()).host_bytes / 2**30


class _Instance:
    """Asks an instance for the model that is not there."""

    def __init__(self, running: RunningInstance, tier: Tier, files: Mapping[str, Path]) -> None:
        self._running = running
        self._tier = tier
        self._files = files
        wait_until(lambda: self._in_tier("gpu"), _WAIT_S, "a model is loaded")
        # Each was loaded once, so that each has been put aside as it always will be.
        for name in (*_NAMES, _NAMES[0]):
            time_to_first_token(self._target(name))
            self._keep_place()

    def ask(self, *, is_switch: bool) -> Sample:
        """Ask for the model that was put aside.

        Args:
            is_switch: The other one is there; else it is put aside before.
        """
        here = self._in_tier("gpu")
        if here is None:
            raise BenchmarkError(f"no model is loaded:\n{self._running.text()}")
        name = next(other for other in _NAMES if other != here)
        self._keep_place()
        if not is_switch:
            self._running.ask(f"/admin/models/{here}/{self._tier.operation}", "POST")
        if self._tier.is_cold:
            make_cold(self._files[name])
        asked_at = time.time()
        total_s = time_to_first_token(self._target(name))
        load_s = self._move(name, "gpu", asked_at)
        leave_s = self._move(here, None, asked_at) if is_switch else 0.0
        rest_s = total_s - load_s - leave_s
        return Sample(total_s, {"leave": leave_s, "load": load_s, "rest": rest_s})

    def _target(self, name: str) -> Target:
        return Target(f"{self._running.url}/v1", name, key=self._running.key)

    def _in_tier(self, tier: str) -> str | None:
        self._running.check()
        for model in self._running.ask("/v1/models")["data"]:
            if model["status"] == "failed":
                raise BenchmarkError(f"a model failed:\n{self._running.text()}")
            if model.get("tier") == tier and model["status"] == "ready":
                return str(model["id"])
        return None

    def _moves(self) -> list[dict[str, Any]]:
        moves: list[dict[str, Any]] = self._running.ask("/?data=state")["memory"]["moves"]
        return moves

    def _move(self, name: str, to: str | None, since: float) -> float:
        """Seconds that a model's last move took; `to` None: away from its place."""

        def find() -> float | None:
            for move in reversed(self._moves()):
                is_it = move["model"] == name and (
                    move["to"] == to if to else move["from"] == "gpu"
                )
                if is_it and move["at"] >= since - 0.1:  # told in tenths
                    return float(move["seconds"])
            return None  # the page is up to 2 s late

        return wait_until(find, _TOLD_S, f'the move of "{name}" is told')

    def _keep_place(self) -> None:
        """Wait until the loaded model may be put aside for any other one."""
        loads = [move for move in self._moves() if move["to"] == "gpu"]
        if loads:
            last = loads[-1]
            until = last["at"] + max(_LEAST_PLACE_S, last["seconds"]) + _SPARE_S
            time.sleep(max(0.0, until - time.time()))


def _bare(
    parameters: Mapping[str, object], copies: _Copies, tier: Tier, *, is_switch: bool
) -> Sample:
    """End one engine if there is one, start the other, and ask it."""
    leaving, coming = copies.bare
    leave_s = 0.0
    if is_switch:
        with bare_engine({**parameters, "Model/model": str(leaving)}, leaving) as (target, _):
            time_to_first_token(target)
            ended_at = time.monotonic()
        leave_s = time.monotonic() - ended_at
    (make_cold if tier.is_cold else make_warm)(coming)
    with bare_engine({**parameters, "Model/model": str(coming)}, coming) as (target, ready_s):
        rest_s = time_to_first_token(target)
    parts = {"leave": leave_s, "load": ready_s, "rest": rest_s}
    return Sample(sum(parts.values()), parts)


def _report(
    machine: Mapping[str, str], settings: Mapping[str, object], found: Sequence[Case]
) -> Report:
    rows: list[tuple[str, ...]] = []
    for case in found:
        comparison = case.comparison
        rows.append(
            (
                case.title,
                *_cells(case.instance),
                *_cells(case.bare),
                f"{comparison.ratio:.2f}",
                spread(comparison.round_ratios),
            )
        )
    way = ("min-max", "leave+load+rest")
    columns = ("model", "instance", *way, "by hand", *way, "ratio", "of rounds")
    return Report(
        benchmark="switch_time",
        machine=machine,
        settings=settings,
        tables=[Table("Seconds until the first token, medians", columns, rows)],
        goals=[
            Goal(
                f"{case.title}: at most {_GOAL:g} times the engine by hand",
                is_met=case.comparison.ratio <= _GOAL,
            )
            for case in found
        ],
        figures={
            case.title: {
                way: [{"total": sample.total_s, **sample.parts} for sample in samples]
                for way, samples in (("instance", case.instance), ("by hand", case.bare))
            }
            for case in found
        },
    )


def _cells(samples: Sequence[Sample]) -> tuple[str, str, str]:
    middle = medians([{"total": sample.total_s, **sample.parts} for sample in samples])
    parts = "+".join(f"{middle[name]:.2f}" for name in ("leave", "load", "rest"))
    return f"{middle['total']:.2f}", spread(sample.total_s for sample in samples), parts


if __name__ == "__main__":
    main()
