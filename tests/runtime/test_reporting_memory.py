"""What is reported to ClearML of models that are moved: rows, scalars, tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, cast

from apps.llamacpp.options import LlamaCppSettings
from common.clearml.model_endpoints import EndpointEntry
from common.gateway.models import MemoryTier, MemoryView, ModelStatus
from common.options.loading import load_settings
from common.runtime.engine_memory import EngineMemory
from common.runtime.idle import Activity
from common.runtime.reporting import Rates, Reporting
from common.telemetry.recorder import Recorder

GIB = 2**30
AT_ONCE = Rates(status=0, snapshot=0, scalars=0, endpoints=0, plots=0)


class Machine(EngineMemory):
    """A machine that is not read."""

    async def read(self, models: Any) -> None:
        pass


class Task:
    """Keeps the last of everything that is written to the task; the points of one turn."""

    id = "0123456789abcdef"

    def __init__(self) -> None:
        self.status: dict[str, str] = {}
        self.properties: dict[str, str] = {}
        self.points: dict[tuple[str, str], float] = {}
        self.plots: dict[str, Mapping[str, Any]] = {}
        self.rows: dict[str, EndpointEntry] = {}

    def set_status(self, values: Mapping[str, str]) -> None:
        self.status |= values

    def set_properties(self, values: Mapping[str, str]) -> None:
        self.properties |= values

    def report_scalars(self, points: Iterable[tuple[str, str, float]]) -> None:
        self.points |= {(title, series): value for title, series, value in points}

    def report_plot(self, title: str, series: str, figure: Mapping[str, Any]) -> None:
        self.plots[title] = figure

    def set_endpoints(self, entries: Iterable[EndpointEntry]) -> None:
        self.rows = {entry.endpoint_name: entry for entry in entries}

    def ping(self) -> None:
        pass


class Reported:
    """A reporting over two models whose place the test says."""

    def __init__(self) -> None:
        given = [{"model": f"org/repo/{n}.gguf", "model_endpoint_name": n} for n in ("a", "b")]
        settings = load_settings(LlamaCppSettings, {"Models/models": json.dumps(given)}).settings
        self.models = [
            SimpleNamespace(
                name=options.model_endpoint_name,
                options=options,
                status="loading",
                memory=None,
                supervisor=None,
            )
            for options in settings.models
        ]
        self.recorder = Recorder(["a", "b"])
        instance = SimpleNamespace(
            models=self.models,
            recorder=self.recorder,
            gateway=SimpleNamespace(url_for=lambda name: f"http://h/{name}/v1"),
            activity=lambda: Activity(None, None, 0),
            progress_of=lambda model: "",
            access=None,
            tokens=SimpleNamespace(read=self._read),
        )
        self.task = Task()
        self.machine = Machine({})
        self.reporting = Reporting(
            cast(Any, instance),
            cast(Any, self.task),
            settings,
            lambda line: None,
            self.machine,
            AT_ONCE,
        )

    async def _read(self) -> None:
        pass

    def place(
        self,
        name: str,
        status: ModelStatus,
        tier: MemoryTier,
        moving_to: MemoryTier | None = None,
        **pools: int,
    ) -> None:
        model = next(model for model in self.models if model.name == name)
        model.status = status
        model.memory = MemoryView(tier, moving_to, bytes_by_pool=pools)

    async def tick(self) -> Task:
        self.task.points.clear()
        await self.reporting.tick()
        return self.task


async def test_a_model_keeps_its_row_while_it_sleeps_and_wakes() -> None:
    it = Reported()
    it.place("a", "loading", "disk", "gpu")
    it.place("b", "loading", "disk", "gpu")
    task = await it.tick()
    assert {row.endpoint_url for row in task.rows.values()} == {""}
    assert task.properties["models_ready"] == "0/2"
    steps: list[tuple[ModelStatus, MemoryTier, MemoryTier | None]] = [
        ("ready", "gpu", None),
        ("loading", "gpu", None),  # gives way: takes no new requests
        ("loading", "gpu", "cpu"),
        ("sleeping", "cpu", None),
        ("loading", "cpu", "gpu"),
        ("ready", "gpu", None),
        ("offloaded", "disk", None),
        ("loading", "disk", "gpu"),
    ]
    for step in steps:
        it.place("a", *step)
        task = await it.tick()
        assert task.rows["a"].endpoint_url == "http://h/a/v1", step
        assert task.rows["b"].endpoint_url == ""
        assert task.properties["models_ready"] == "1/2"
    it.place("a", "failed", "disk")
    assert set((await it.tick()).rows) == {"b"}


async def test_memory_is_a_series_by_model_and_by_device_until_it_was_left() -> None:
    it = Reported()
    it.machine.models = {"a": 3 * GIB}
    it.place("a", "ready", "gpu", gpu0=2 * GIB, host=GIB)
    it.place("b", "offloaded", "disk")
    task = await it.tick()
    assert {key: value for key, value in task.points.items() if key[0] == "Memory (GiB)"} == {
        ("Memory (GiB)", "a"): 3.0,
        ("Memory (GiB)", "a (gpu0)"): 2.0,
        ("Memory (GiB)", "a (host)"): 1.0,
    }
    it.place("a", "sleeping", "cpu", host=2 * GIB)
    it.recorder.observe_move("a", "sleep", 1.5)
    task = await it.tick()
    assert task.points["Memory (GiB)", "a (gpu0)"] == 0.0
    assert task.points["Memory (GiB)", "a (host)"] == 2.0
    assert task.points["Model Moves (s)", "a (sleep)"] == 1.5
    # The engines have ended: nothing is held any more, whatever was counted last.
    task.points.clear()
    await it.reporting.write_end("stopped")
    assert not [key for key in task.points if key[0] == "Memory (GiB)"]


async def test_memory_of_models_that_stay_is_by_device_as_far_as_it_was_measured() -> None:
    it = Reported()
    it.machine.models = {"a": 3 * GIB, "b": GIB}
    it.machine.by_pool = {"a": {"host": GIB, "gpu0": 2 * GIB}}
    task = await it.tick()
    assert {series: value for (title, series), value in task.points.items() if "GiB" in title} == {
        "a": 3.0,
        "b": 1.0,
        "a (host)": 1.0,
        "a (gpu0)": 2.0,
    }


async def test_the_tables_say_where_models_are() -> None:
    it = Reported()
    it.place("a", "ready", "gpu", gpu0=2 * GIB)
    it.place("b", "loading", "cpu", "gpu", gpu0=GIB, host=GIB)
    task = await it.tick()
    assert "<td>waking</td><td>asleep in RAM → loaded</td>" in task.status["models_table"]
    assert [row["tier"] for row in json.loads(task.status["models"])] == ["gpu", "cpu"]
    (table,) = task.plots["Models"]["data"]
    shown = dict(zip(table["header"]["values"], table["cells"]["values"], strict=True))
    assert shown["Status"] == ["ready", "waking"]
    assert shown["Tier"] == ["loaded", "asleep in RAM → loaded"]
    assert shown["Memory"] == ["GPU 0 2.00 GiB", "GPU 0 1.00 GiB, RAM 1.00 GiB"]
