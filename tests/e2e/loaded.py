"""An instance with two models on a real server, the fixed load that it gets, and what it tells of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from common.demo.model import packaged_model
from common.local_server import RunningServer
from tests.e2e.instances import KEY, ROOT, Instance, end_process, wait_for
from tests.e2e.load_client import Asked, Kind, Load, Seen
from tests.e2e.load_reports import Exposition, Reports
from tests.fixtures_clearml import clearml_environment

AT_ONCE = 8
# Five equal parts: no percentile that is compared lies between two of them.
_SECONDS = (0.3, 0.4, 0.55, 0.75, 0.9)
_TOKENS = (8, 12, 20, 28, 36)
SETTLED_S = 60.0


@dataclass(frozen=True)
class Setting:
    """How an instance is run and what it is asked; 200 requests in all.

    Attributes:
        parameters: Of the instance.
        flags: Of the stub engines; None: llama.cpp.
        ledgers: Files of the stub engines' own counts, by model.
        loading: Requests that come before the models can answer.
        first: The first part of the load, at most `AT_ONCE` at a time.
        burst: Requests that come all at once, more than their model takes.
        second: The rest; before it `unloaded` is unloaded.
        unloaded: A model.
    """

    parameters: dict[str, Any]
    flags: dict[str, list[str]] | None
    ledgers: dict[str, Path]
    loading: Sequence[Asked]
    first: Sequence[Asked]
    burst: Sequence[Asked]
    second: Sequence[Asked]
    unloaded: str = "b"


def stub_setting(folder: Path) -> Setting:
    """Two stub engines: they count their tokens in files, and answer as slowly as they are asked."""
    models: list[dict[str, Any]] = []
    flags: dict[str, list[str]] = {}
    for name in ("a", "b"):
        (folder / f"{name}.gguf").write_bytes(b"GGUF" + b"\0" * 60)
        models.append({"model": str(folder / f"{name}.gguf"), "model_endpoint_name": name})
        flags[name] = ["--as-asked", "--ledger", str(folder / f"{name}.tokens")]
    models[1] |= {"max_concurrent_requests": 4, "max_waiting_requests": 2}
    flags["b"] += ["--load-seconds", "2"]
    seconds = itertools.cycle(_SECONDS)
    wanted: dict[Kind, int] = {"chat": 60, "usage_stream": 35, "stream": 30, "completion": 20}
    wanted |= {"embedding": 10, "unknown": 8, "key": 7, "bad": 8, "aborted": 10}
    main = [
        Asked(kind, model, tokens, next(seconds))
        for kind, model, tokens in _mixed(wanted, ("a", "b"))
    ]
    return Setting(
        parameters=_parameters(models),
        flags=flags,
        ledgers={name: folder / f"{name}.tokens" for name in ("a", "b")},
        loading=[Asked("chat", "b", 8, 0.3), Asked("usage_stream", "b", 8, 0.3)],
        first=main[:90],
        burst=[Asked("chat", "b", 8, 1.0)] * 10,
        second=main[90:],
    )


def llama_setting(folder: Path) -> Setting:
    """Two llama-servers, one for chats and one for embeddings."""
    file = str(packaged_model())
    small = {"model": file, "context_size": 1024, "parallel": 4}
    models = [
        {**small, "model_endpoint_name": "a", "max_concurrent_requests": 8},
        {**small, "model_endpoint_name": "b", "embedding": True},
    ]
    wanted: dict[Kind, int] = {"chat": 50, "usage_stream": 35, "stream": 25, "completion": 20}
    wanted |= {"embedding": 23, "unknown": 8, "key": 7, "bad": 8, "aborted": 10}
    main = [
        Asked(kind, "b" if kind == "embedding" else "a", tokens)
        for kind, _, tokens in _mixed(wanted, ("a",))
    ]
    return Setting(
        parameters=_parameters(models) | {"General/engine": "llama-server"},
        flags=None,
        ledgers={},
        loading=[Asked("chat", "a"), Asked("embedding", "b")],
        first=main[:90],
        burst=[Asked("chat", "a", 20)] * 12,
        second=main[90:],
    )


def _parameters(models: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "Models/models": json.dumps(models),
        "General/host": "127.0.0.1",
        "General/api_key": KEY,
        "General/drain_seconds": "5",
    }


def _mixed(wanted: dict[Kind, int], models: tuple[str, ...]) -> Iterator[tuple[Kind, str, int]]:
    """All kinds evenly over the whole load, each of them with all models and lengths."""
    places = sorted(
        ((index + 0.5) / count, kind, index)
        for kind, count in wanted.items()
        for index in range(count)
    )
    for _, kind, index in places:
        yield kind, models[index % len(models)], _TOKENS[index % len(_TOKENS)]


@dataclass
class Told:
    """What an instance told of a load, and what its clients saw of it.

    Attributes:
        seen: By the clients.
        setting: What was asked.
        exposition: Prometheus.
        page: The data of the instance's page.
        rows: Of the table of Model Endpoints, by model.
        details: Of the endpoints' pages.
        reports: For what the server has when the instance is gone.
        began: Unix time of the first request.
    """

    seen: list[Seen]
    setting: Setting
    exposition: Exposition
    page: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    details: dict[str, dict[str, Any]]
    reports: Reports
    began: float
    models: tuple[str, ...] = ("a", "b")

    def of(self, model: str) -> list[Seen]:
        return [one for one in self.seen if one.model == model]


@dataclass
class Loaded:
    """A running instance of a setting."""

    instance: Instance
    setting: Setting
    server: RunningServer
    load: Load = field(default_factory=lambda: Load("", KEY))

    def open(self) -> None:
        """Wait until it takes requests; its models may still load."""
        self.wait(lambda: "Serving on" in self.instance.console, "a gateway")
        self.load.url = self.instance.url

    @property
    def reports(self) -> Reports:
        line = next(x for x in self.instance.console.splitlines() if ": load (" in x)
        task = line.rpartition("(")[2].rstrip(")")
        return Reports(self.instance.url, KEY, self.server, task)

    def make(self, requests: Sequence[Asked], at_once: int = AT_ONCE) -> None:
        asyncio.run(self.load.make(requests, at_once))

    def unload(self, model: str) -> None:
        answer = requests.post(
            f"{self.instance.url}/admin/models/{model}/unload",
            headers=self.instance.headers,
            timeout=30,
        )
        assert answer.status_code == 200, answer.text

    def make_all(self) -> None:
        """All 200 of them."""
        setting = self.setting
        self.make(setting.loading)
        self.make(setting.first)
        self.make(setting.burst, len(setting.burst))
        self.unload(setting.unloaded)
        self.make(setting.second)

    def told(self) -> Told:
        """What it tells when all have ended and every report has had its turn."""
        reports, seen = self.reports, self.load.seen
        total = {model: sum(one.model == model for one in seen) for model in ("a", "b")}
        self._until_settled(reports, total)
        return Told(
            seen=seen,
            setting=self.setting,
            exposition=reports.exposition(),
            page=reports.page(),
            rows={model: reports.row(model) for model in total},
            details={model: reports.details(model) for model in total},
            reports=reports,
            began=min(one.began for one in seen),
        )

    def _until_settled(self, reports: Reports, total: dict[str, int]) -> None:
        """Wait for the slowest; what disagrees to the end is for the tests to say."""

        def is_settled() -> bool:
            charts = reports.page()["charts"]["models"]
            return all(
                sum(charts[model]["requests"]) >= count
                and reports.row(model)["requests"] >= count
                and reports.curve("Total Number of Requests", model)[-1][1] >= count
                for model, count in total.items()
            )

        deadline = time.monotonic() + SETTLED_S
        while not is_settled() and time.monotonic() < deadline:
            time.sleep(0.5)
        # For an engine that counts a moment later, and for the last tokens to get into a point.
        time.sleep(3)

    def stop(self) -> int:
        self.instance.process.send_signal(signal.SIGTERM)
        return self.instance.wait_end(30)

    def wait(self, condition: Any, what: str, timeout_s: float = 60) -> Any:
        def check() -> Any:
            assert self.instance.process.poll() is None, self.instance.console
            return condition()

        return wait_for(check, timeout_s, what)


@contextmanager
def loaded(
    setting: Setting, server: RunningServer, folder: Path, *, every_s: float, speed: float = 0
) -> Iterator[Loaded]:
    """Run an instance that reports every `every_s`, on a clock that is faster by `speed`."""
    given = {"parameters": setting.parameters, "every_s": every_s, "speed": speed}
    given["points"] = str(folder / "points")
    if setting.flags is not None:
        given["flags"] = setting.flags
    output = folder / "console"
    environ = {**clearml_environment(server, folder / "cache"), "PYTHONUNBUFFERED": "1"}
    if "HOME" in os.environ and setting.flags is not None:
        environ["HOME"] = str(folder)
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.load_instance", json.dumps(given)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environ,
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        yield Loaded(Instance(process, output), setting, server)
    finally:
        end_process(process)
