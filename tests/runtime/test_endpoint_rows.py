"""Rows of the Model Endpoints table from the recorder's totals."""

from __future__ import annotations

import pytest

from apps.llamacpp.options import LlamaCppSettings
from common.clearml.model_endpoints import EndpointEntry
from common.gateway.models import ModelStatus
from common.options.loading import load_settings
from common.options.settings import ModelOptions
from common.runtime.endpoint_rows import LastMinute, ModelFacts, endpoint_entry
from common.telemetry.machine import MachineUsage
from common.telemetry.recorder import Outcome, Recorder, Snapshot

HUB = "org/repo/model.gguf"
CLEARML = "0123456789abcdef0123456789abcdef"


class Load:
    """A recorder on a clock of the test's own, with its snapshots every five seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.recorder = Recorder(["m"], clock=lambda: self.now)
        self.minute = LastMinute()
        self.minute.add(self.recorder.snapshot())

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 5)
            self.minute.add(self.recorder.snapshot())

    def request(self, seconds: float, status: int = 200) -> None:
        record = self.recorder.open()
        record.assign("m")
        record.start()
        self.now += seconds
        record.close(Outcome.OK if status == 200 else Outcome.REFUSED, status)

    def row(self, status: ModelStatus = "ready") -> EndpointEntry | None:
        now = self.recorder.snapshot()
        return row(now, self.minute.start(now), status)

    def stats(self) -> dict[str, object]:
        found = self.row()
        assert found is not None
        return dict(found.stats)


def options(reference: str, **more: str) -> ModelOptions:
    given = {"Model/model": reference, **{f"Model/{name}": value for name, value in more.items()}}
    (model,) = load_settings(LlamaCppSettings, given).settings.models
    found: ModelOptions = model
    return found


def row(
    now: Snapshot, before: Snapshot, status: ModelStatus, reference: str = HUB
) -> EndpointEntry | None:
    return endpoint_entry(
        ModelFacts("task", "m", options(reference)),
        status,
        "http://h/m/v1",
        now=now,
        before=before,
        uptime_s=12.7,
        machine=MachineUsage(cpu_percent=(10.0,)),
    )


def test_requests_are_counted_over_the_last_minute_and_in_all() -> None:
    load = Load()
    for _ in range(30):
        load.request(0.1)
    load.wait(7)
    assert (load.stats()["requests_num"], load.stats()["requests_min"]) == (30, 30.0)
    load.wait(120)
    assert (load.stats()["requests_num"], load.stats()["requests_min"]) == (30, 0.0)
    for _ in range(6):
        load.request(0.1)
    load.wait(40)
    assert load.stats()["requests_num"] == 36
    assert load.stats()["requests_min"] == pytest.approx(6, rel=0.1)


def test_latency_is_the_mean_of_the_last_minute() -> None:
    load = Load()
    load.request(10.0)
    load.wait(90)
    load.request(0.1)
    load.request(0.3)
    load.request(0.0, status=429)
    assert load.stats()["latency_ms"] == 200
    load.wait(90)
    assert load.stats()["latency_ms"] == 0


def test_every_report_has_every_field() -> None:
    found = Load().row()
    assert found is not None
    report = found.report()
    assert set(report) == {
        "container_id",
        "endpoint_name",
        "endpoint_url",
        "model_name",
        "model_source",
        "model_version",
        "preprocess_artifact",
        "input_type",
        "input_size",
        "reference",
        "uptime_sec",
        "requests_num",
        "requests_min",
        "latency_ms",
        "machine_stats",
    }
    # The server's schema has whole numbers here.
    assert all(type(report[n]) is int for n in ("uptime_sec", "requests_num", "latency_ms"))
    assert report["machine_stats"]["cpu_usage"] == [10.0]


@pytest.mark.parametrize(
    ("status", "url"),
    [
        ("loading", ""),
        ("ready", "http://h/m/v1"),
        ("sleeping", "http://h/m/v1"),
        ("offloaded", "http://h/m/v1"),
    ],
)
def test_a_row_has_an_address_unless_it_loads(status: ModelStatus, url: str) -> None:
    found = Load().row(status)
    assert found is not None
    assert found.endpoint_url == url


def test_a_model_that_failed_has_no_row() -> None:
    assert Load().row("failed") is None


def test_references_lead_to_the_task_and_to_the_model() -> None:
    task = {"type": "task", "value": "task"}
    assert ModelFacts("task", "m", options(HUB)).info()["reference"] == [
        task,
        {"type": "url", "value": "https://huggingface.co/org/repo"},
    ]
    of_registry = ModelFacts("task", "m", options(CLEARML)).info()
    assert of_registry["reference"] == [task, {"type": "model", "value": CLEARML}]
    assert of_registry["model_source"] == "ClearML"


def test_rows_are_unique_per_instance_and_model() -> None:
    one = options(HUB)
    ids = [ModelFacts(t, n, one).container_id for t in ("a", "b") for n in ("m", "n")]
    assert len(set(ids)) == 4
    assert ModelFacts("a", "m", one).container_id == ids[0]


def test_the_last_minute_keeps_few_snapshots() -> None:
    load = Load()
    load.wait(3600)
    assert len(load.minute._snapshots) <= 14
    now = load.recorder.snapshot()
    assert now.at - load.minute.start(now).at == pytest.approx(60, abs=5)
