"""A whole run on a real server: what ClearML shows of it while it serves, and afterwards."""

from __future__ import annotations

import json
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from common.local_server import RunningServer
from tests.runtime.test_runtime_run import Process, instance

KEY = "a-fixed-key-0123456789"
PARAMETERS = {
    "General/api_key": KEY,
    "Model/model_endpoint_name": "m",
    "Idle/last_action_report_interval_seconds": "1",
}


def chat(it: Process) -> None:
    request = urllib.request.Request(
        f"{it.status()['endpoint']}/m/v1/chat/completions",
        json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        assert response.status == 200


def properties(it: Process) -> dict[str, str]:
    found = it.task()["hyperparams"].get("properties", {})
    return {name: item["value"] for name, item in found.items()}


def rows(server: RunningServer, it: Process) -> tuple[list[str], list[str]]:
    """Endpoints of the instance's rows: those that load, and those that are served."""
    task = it.task()["id"]
    with server.client() as client:
        loading = client.call("serving.get_loading_instances")["instances"]
        served = [
            row["endpoint"]
            for row in client.call("serving.get_endpoints")["endpoints"]
            # Other tests' instances may have left rows of the same address.
            for part in client.call("serving.get_endpoint_details", endpoint_url=row["url"])[
                "instances"
            ]
            if part["id"].startswith(task)
        ]
    return [row["endpoint"] for row in loading if row["id"].startswith(task)], served


def events(server: RunningServer, it: Process, kind: str) -> list[dict[str, Any]]:
    with server.client() as client:
        found: list[dict[str, Any]] = client.call(
            "events.get_task_events",
            task=it.task()["id"],
            event_type=kind,
            batch_size=10_000,
            order="asc",
        )["events"]
    return found


def curve(server: RunningServer, it: Process, title: str, series: str) -> list[float]:
    return [
        event["value"]
        for event in events(server, it, "training_stats_scalar")
        if (event["metric"], event["variant"]) == (title, series)
    ]


def plot(server: RunningServer, it: Process, title: str) -> dict[str, Any]:
    (only,) = [event for event in events(server, it, "plot") if event["metric"] == title]
    figure: dict[str, Any] = json.loads(only["plot_str"])
    return figure


def serve(it: Process) -> None:
    it.wait_for(lambda: it.status().get("status") in ("active", "idle"))


def test_what_is_left_of_an_instance_is_what_it_did(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    with instance(clearml_server, tmp_path, "plain", **PARAMETERS) as it:
        serve(it)
        for _ in range(3):
            chat(it)
        it.wait_for(lambda: it.status()["status"] == "active")
        assert not it.task()["status_message"]  # SDK and agent look for "stopping" in it
        assert it.stop() == 0
        assert it.status()["status"] == "stopped"
        shown = properties(it)
        assert shown["status"] == "stopped"
        assert shown["requests"] == "3"
        assert shown["idle_hours"] == "0.0"
        assert shown["last_action"].startswith("20")
        assert curve(clearml_server, it, "Total Number of Requests", "m")[-1] == 3
        table = plot(clearml_server, it, "Models")["data"][0]
        cells = dict(zip(table["header"]["values"], table["cells"]["values"], strict=True))
        assert cells["Model"] == ["m"]
        assert cells["Requests"] == [3]
        assert cells["Endpoint"][0].endswith("/m/v1")
        (bars,) = plot(clearml_server, it, "Latency Histogram")["data"]
        assert (bars["name"], sum(bars["y"])) == ("m", 3)
        assert rows(clearml_server, it) == ([], [])
        assert it.console.count("Status: active") == 1


def test_an_instance_that_nobody_used_shows_no_latency_and_at_its_end_no_ready_model(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    with instance(clearml_server, tmp_path, "plain", **PARAMETERS) as it:
        serve(it)
        it.wait_for(lambda: properties(it)["models_ready"] == "1/1")
        assert it.stop() == 0
        assert properties(it)["models_ready"] == "0/1"
        assert {event["metric"] for event in events(clearml_server, it, "plot")} == {"Models"}


def test_a_model_has_a_row_from_loading_to_gone(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    with instance(clearml_server, tmp_path, "slow", **PARAMETERS) as it:
        it.wait_for(lambda: it.status().get("endpoint"))
        it.wait_for(lambda: rows(clearml_server, it) == (["m"], []))
        assert properties(it)["models_ready"] == "0/1"
        serve(it)
        it.wait_for(lambda: rows(clearml_server, it) == ([], ["m"]))
        it.wait_for(lambda: properties(it)["models_ready"] == "1/1")
        with clearml_server.client() as client:
            client.call("tasks.stop", task=it.task()["id"], status_reason="test")
        it.wait_for(lambda: "aborted" in it.console)
        wait_gone(clearml_server, it)


def wait_gone(server: RunningServer, it: Process) -> None:
    deadline = time.monotonic() + 20
    while rows(server, it) != ([], []):
        assert time.monotonic() < deadline, it.console
        time.sleep(0.1)


def test_the_last_action_is_reported_at_its_rate(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    with instance(clearml_server, tmp_path, "plain", **PARAMETERS) as it:
        serve(it)
        first = it.wait_for(lambda: it.status().get("last_action"))
        it.wait_for(lambda: len(curve(clearml_server, it, "Idle Time (Hours)", "instance")) > 3)
        # Nobody used it since.
        assert abs(seconds_between(first, it.status()["last_action"])) <= 15
        before = it.status()["last_action"]
        time.sleep(2)
        chat(it)
        it.wait_for(lambda: seconds_between(before, it.status()["last_action"]) >= 2)
        it.wait_for(lambda: properties(it)["last_action"] == it.status()["last_action"])
        pinged = it.task()["last_update"]
        it.wait_for(lambda: it.task()["last_update"] > pinged)


def seconds_between(early: str, late: str) -> float:
    return (datetime.fromisoformat(late) - datetime.fromisoformat(early)).total_seconds()


@pytest.mark.timeout(120)
def test_the_sdks_resource_monitor_reports_the_machine(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    with instance(clearml_server, tmp_path, "plain", **PARAMETERS) as it:
        serve(it)
        it.wait_for(lambda: curve(clearml_server, it, ":monitor:machine", "cpu_usage"))
        points = [
            event
            for event in events(clearml_server, it, "training_stats_scalar")
            if event["metric"] == ":monitor:machine"
        ]
    # On the axis of our own points: seconds since the start.
    assert all(5 < point["iter"] < 60 for point in points)
    assert {
        "cpu_usage",
        "memory_used_gb",
        "memory_free_gb",
        "network_rx_mbs",
        "network_tx_mbs",
        "disk_free_percent",
    } <= {point["variant"] for point in points}
