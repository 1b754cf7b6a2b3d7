"""The real SDK on a real server that is stopped and started again: late points, and nothing else."""

from __future__ import annotations

import json
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.local_server import RunningServer, dispatch, start_background, stop
from common.local_server.call import Call
from common.local_server.wire import JsonDict
from tests.clearml.own_server import Change, server_in_this_process
from tests.clearml.reporter import Reporter, reporting
from tests.fixtures_clearml import traffic_file

SERIES = 8
REPORTS = 240  # an hour, one every 15 s


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    yield start(tmp_path)
    stop(tmp_path / "server")


def start(folder: Path) -> RunningServer:
    """On the ports of the last time, with the data of the last time."""
    is_first = not (folder / "server").exists()
    port = 0 if is_first else None
    return start_background(
        folder / "server",
        api_port=port,
        files_port=port,
        agent_queue=None,
        record=folder / "traffic.jsonl",
    )


def load_events(server: RunningServer, task: str) -> list[dict[str, Any]]:
    """All points of the load, as the server got them."""
    with server.client() as client:
        events = client.call(
            "events.get_task_events",
            task=task,
            event_type="training_stats_scalar",
            batch_size=10_000,
            order="asc",
        )["events"]
    return [event for event in events if event["metric"] == "Load"]


def batches(server: RunningServer) -> list[int]:
    """Points of the load in each call that brought some."""
    lines = traffic_file(server).read_text(encoding="utf-8").splitlines()
    calls = [json.loads(line) for line in lines]
    sizes = [
        call["request"].count('"Load"') for call in calls if call["endpoint"] == "events.add_batch"
    ]
    return [size for size in sizes if size]


def until_away(reporter: Reporter) -> None:
    """Short of it a try that is under way may still bridge a restart."""
    deadline = time.monotonic() + 60
    while not any("delayed" in line for line in reporter.said()[0]):
        assert time.monotonic() < deadline, "nothing is said of the outage"
        assert not reporter.flush(0.2)


def outage(reporter: Reporter, folder: Path) -> RunningServer:
    """An hour without the server, on a shortened clock; it comes back on its port with its data."""
    reporter.hour(2, 15, SERIES)
    assert reporter.flush(30)
    stop(folder / "server")
    started = time.monotonic()
    reporter.hour(REPORTS, 15, SERIES)
    reporter.status({"status": "idle"})
    reporter.plot("Models", "models", {"data": [], "layout": {"title": "first"}})
    reporter.plot("Models", "models", {"data": [], "layout": {"title": "newest"}})
    assert time.monotonic() - started < 5, "reporting waits for the server"
    until_away(reporter)
    server = start(folder)
    assert reporter.flush(60)
    reporter.hour(2, 15, SERIES)
    assert reporter.flush(30)
    return server


def test_an_outage_of_an_hour_leaves_late_points_and_nothing_else(
    server: RunningServer, tmp_path: Path
) -> None:
    with reporting(server, tmp_path) as reporter:
        began_ms = reporter.wall_ms()
        server = outage(reporter, tmp_path)
        events = load_events(server, reporter.id())
        curves = reporter.read_scalars()["Load"]
        plots = reporter.read_plots()
        lines, _ = reporter.said()
    moments = [15 * (n + 1) for n in range(REPORTS + 4)]
    for series in range(SERIES):
        curve = [event for event in events if event["variant"] == f"m{series}"]
        # The server gives them back by time, and each says itself when it was measured.
        assert [event["iter"] for event in curve] == moments
        assert [event["value"] for event in curve] == [float(moment) for moment in moments]
        stamps = [round((event["timestamp"] - began_ms) / 1000) for event in curve]
        assert stamps == moments
        assert curves[f"m{series}"]["x"] == moments
        assert curves[f"m{series}"]["y"] == moments
    assert json.loads(plots[-1]["plot_str"])["layout"]["title"] == "newest"
    assert len(plots) == 1
    # Twice told: that they are late, and that the server is back.
    assert ["answers again" in line for line in lines] == [False, True]


def test_the_backlog_goes_in_few_calls_and_in_order(server: RunningServer, tmp_path: Path) -> None:
    with reporting(server, tmp_path) as reporter:
        server = outage(reporter, tmp_path)
    sizes = batches(server)
    assert sum(sizes) == (REPORTS + 4) * SERIES
    assert len(sizes) <= 6
    assert max(sizes) > REPORTS * SERIES / 2


def test_what_the_server_knows_of_the_status_is_the_newest(
    server: RunningServer, tmp_path: Path
) -> None:
    with reporting(server, tmp_path) as reporter:
        reporter.status({"status": "active"})
        assert reporter.flush(30)
        stop(tmp_path / "server")
        for number in range(50):
            reporter.status({"status": f"state {number}", "idle_hours": f"{number}"})
        until_away(reporter)
        server = start(tmp_path)
        assert reporter.flush(60)
        with server.client() as client:
            task = client.call("tasks.get_by_id", task=reporter.id())["task"]
    assert task["hyperparams"]["Status"]["status"]["value"] == "state 49"
    assert task["hyperparams"]["properties"]["idle_hours"]["value"] == "49"
    lines = traffic_file(server).read_text(encoding="utf-8").splitlines()
    sent = [line for line in lines if "edit_hyper_params" in line and "state " in line]
    assert len(sent) == 1


def test_an_end_while_the_server_is_away_is_in_time(server: RunningServer, tmp_path: Path) -> None:
    with reporting(server, tmp_path) as reporter:
        reporter.scalars([["Load", "m", 1.0]])
        assert reporter.flush(30)
        stop(tmp_path / "server")
        reporter.hour(REPORTS, 15, SERIES)
        started = time.monotonic()
        assert reporter.finish("stopped", 6.0) is False
        assert time.monotonic() - started < 8


def test_an_end_after_an_outage_still_brings_the_backlog(
    server: RunningServer, tmp_path: Path
) -> None:
    with reporting(server, tmp_path) as reporter:
        assert reporter.flush(30)
        stop(tmp_path / "server")
        reporter.hour(REPORTS, 15, SERIES)
        until_away(reporter)
        server = start(tmp_path)
        assert reporter.finish("stopped", 30.0) is True
        task_id = reporter.id()
    assert len(load_events(server, task_id)) == REPORTS * SERIES
    with server.client() as client:
        assert client.call("tasks.get_by_id", task=task_id)["task"]["status"] == "stopped"


def test_only_changes_are_written(server: RunningServer, tmp_path: Path) -> None:
    with reporting(server, tmp_path) as reporter:
        for _ in range(5):
            reporter.status({"status": "idle", "models_table": "<table>"})
            reporter.properties({"requests": "7"})
            assert reporter.flush(30)
    lines = traffic_file(server).read_text(encoding="utf-8").splitlines()
    calls = [json.loads(line) for line in lines if "edit_hyper_params" in line]
    written = [
        (item["section"], item["name"])
        for call in calls
        for item in json.loads(call["request"])["hyperparams"]
        if item["value"] in ("idle", "<table>", "7")
    ]
    assert sorted(written) == [
        ("Status", "models_table"),
        ("Status", "status"),
        ("properties", "requests"),
        ("properties", "status"),
    ]


def test_numbers_among_the_user_properties_are_numbers(
    server: RunningServer, tmp_path: Path
) -> None:
    with reporting(server, tmp_path) as reporter:
        reporter.status({"idle_hours": "1.5", "last_action": "2026-01-01T00:00:00+00:00"})
        reporter.properties({"requests": "12", "models_ready": "1/2"})
        assert reporter.flush(30)
        with server.client() as client:
            task = client.call("tasks.get_by_id", task=reporter.id())["task"]
    kinds = {n: (p["type"], p["value"]) for n, p in task["hyperparams"]["properties"].items()}
    assert kinds["idle_hours"] == ("float", "1.5")
    assert kinds["requests"] == ("int", "12")
    assert kinds["models_ready"] == ("str", "1/2")
    assert not task["status_message"]


def test_an_offline_instance_records_its_points_and_plots(
    server: RunningServer, tmp_path: Path
) -> None:
    with reporting(server, tmp_path, "offline") as reporter:
        reporter.hour(2, 15, 1)
        reporter.plot("Models", "models", {"data": [{"type": "table"}], "layout": {}})
        reporter.status({"status": "idle"})
        reporter.endpoints([])
        assert reporter.finish("completed", 30.0) is True
        task_id = reporter.id()
    (archive,) = tmp_path.rglob(f"{task_id}*.zip")
    with zipfile.ZipFile(archive) as content:
        lines = content.read("metrics.jsonl").decode().splitlines()
    events = [event for line in lines for event in json.loads(line)]
    points = [event for event in events if event.get("metric") == "Load"]
    assert [(point["iter"], point["value"]) for point in points] == [(15, 15.0), (30, 30.0)]
    (plot,) = [event for event in events if event.get("type") == "plot"]
    assert plot["metric"] == "Models"
    assert json.loads(plot["plot_str"])["data"] == [{"type": "table"}]


@pytest.mark.parametrize("endpoint", ["events.add_batch", "tasks.edit_hyper_params"])
def test_a_server_in_trouble_gets_everything_when_it_is_over(
    endpoint: str, tmp_path: Path, changed: Callable[[Change], None]
) -> None:
    """As a database that is down behind a server that answers."""
    service, _, action = endpoint.partition(".")
    is_broken = threading.Event()
    working = dispatch.SERVICES[service][action]

    def troubled(call: Call) -> JsonDict:
        if is_broken.is_set():
            raise RuntimeError("no database")
        return working(call)

    handlers = {**dispatch.SERVICES[service], action: troubled}
    changed(lambda services: services.update({service: handlers}))
    with server_in_this_process(tmp_path / "server") as server, reporting(server, tmp_path) as it:
        assert it.flush(30)
        is_broken.set()
        it.hour(3, 15, 1)
        it.status({"status": "idle"})
        until_away(it)
        is_broken.clear()
        assert it.flush(60)
        with server.client() as client:
            task = client.call("tasks.get_by_id", task=it.id())["task"]
        assert task["hyperparams"]["Status"]["status"]["value"] == "idle"
        assert [event["iter"] for event in load_events(server, it.id())] == [15, 30, 45]


def test_a_task_that_is_gone_is_told_once_and_nothing_piles_up(
    server: RunningServer, tmp_path: Path
) -> None:
    with reporting(server, tmp_path) as reporter:
        assert reporter.flush(30)
        with server.client() as client:
            client.call("tasks.delete", task=reporter.id(), force=True)
        for _ in range(3):
            reporter.hour(1, 15, 1)
            assert reporter.flush(30)
        lines, _ = reporter.said()
        assert len(lines) == 1
        assert "events.add_batch" in lines[0]
