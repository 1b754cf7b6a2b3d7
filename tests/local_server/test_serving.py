"""The `serving` service: instances, their endpoints, their history."""

from __future__ import annotations

import time
from typing import Any

import pytest

from common.errors import ControlPlaneError
from common.local_server import RunningServer


def entry(container: str, **fields: Any) -> dict[str, Any]:
    return {"container_id": container, "endpoint_name": "chat", "model_name": "tiny", **fields}


def test_instance_loads_serves_and_leaves(clearml_server: RunningServer) -> None:
    url = "http://127.0.0.1:8800/leaves"
    with clearml_server.client() as client:
        client.call("serving.register_container", **entry("c1", model_source="hub"))
        loading = client.call("serving.get_loading_instances")["instances"]
        assert [(i["id"], i["endpoint"], i["model_source"]) for i in loading] == [
            ("c1", "chat", "hub")
        ]
        for container, requests, latency in (("c1", 10, 100), ("c2", 30, 300)):
            client.call(
                "serving.container_status_report",
                **entry(
                    container,
                    endpoint_url=url,
                    requests_num=requests,
                    requests_min=2.0,
                    latency_ms=latency,
                    uptime_sec=requests,
                    machine_stats={"cpu_usage": [10.0, 30.0]},
                    reference=[{"type": "task", "value": "t"}],
                ),
            )
        (row,) = [
            row for row in client.call("serving.get_endpoints")["endpoints"] if row["url"] == url
        ]
        assert (row["instances"], row["requests"], row["latency_ms"], row["uptime_sec"]) == (
            2,
            40,
            200,
            30,
        )
        details = client.call("serving.get_endpoint_details", endpoint_url=url)
        # A report replaces the whole entry: what it does not repeat is gone.
        assert "model_source" not in details
        assert [i["id"] for i in details["instances"]] == ["c1", "c2"]
        assert details["instances"][0]["reference"] == [{"type": "task", "value": "t"}]
        assert details["instances"][0]["cpu_count"] == 2
        client.call("serving.unregister_container", container_id="c1")
        client.call("serving.unregister_container", container_id="c2")
        with pytest.raises(ControlPlaneError, match="no endpoint"):
            client.call("serving.get_endpoint_details", endpoint_url=url)
        assert client.call("serving.get_loading_instances")["instances"] == []


def test_history_has_a_line_per_instance_and_a_total(clearml_server: RunningServer) -> None:
    url = "http://127.0.0.1:8800/history"
    with clearml_server.client() as client:
        for container, requests in (("h1", 5), ("h2", 7)):
            client.call(
                "serving.container_status_report",
                **entry(
                    container,
                    endpoint_url=url,
                    requests_num=requests,
                    machine_stats={
                        "cpu_usage": [10.0, 30.0],
                        "memory_used": 300,
                        "memory_free": 700,
                        "gpu_memory_used": [100, 300],
                        "gpu_memory_free": [500, 700],
                    },
                ),
            )
        now = time.time()

        def history(metric: str) -> dict[str, Any]:
            return client.call(
                "serving.get_endpoint_metrics_history",
                endpoint_url=url,
                from_date=now - 100,
                to_date=now + 100,
                interval=1,
                metric_type=metric,
            )

        requests_ = history("requests")
        assert requests_["computed_interval"] == 40
        assert sum(requests_["total"]["values"]) == 12
        assert {title: sum(line["values"]) for title, line in requests_["instances"].items()} == {
            "h1": 5,
            "h2": 7,
        }
        assert set(history("cpu_util")["total"]["values"]) == {20.0}
        # Counted and added up by the server: no report has them.
        assert sum(history("cpu_count")["total"]["values"]) == 4
        assert sum(history("ram_total")["total"]["values"]) == 2000
        assert sum(history("gpu_ram_total")["total"]["values"]) == 1600
        assert history("gpu_count")["total"]["values"] == []
        with pytest.raises(ControlPlaneError, match="metric_type"):
            history("nonsense")


def test_instance_without_reports_expires(clearml_server: RunningServer) -> None:
    with clearml_server.client() as client:
        client.call("serving.register_container", **entry("short", timeout=1))
        ids = [i["id"] for i in client.call("serving.get_loading_instances")["instances"]]
        assert "short" in ids
        time.sleep(1.1)
        ids = [i["id"] for i in client.call("serving.get_loading_instances")["instances"]]
        assert "short" not in ids


@pytest.mark.parametrize("missing", ["container_id", "endpoint_name", "model_name", "endpoint_url"])
def test_report_needs_its_required_fields(clearml_server: RunningServer, missing: str) -> None:
    report = entry("c9", endpoint_url="http://x")
    del report[missing]
    with clearml_server.client() as client, pytest.raises(ControlPlaneError, match=missing):
        client.call("serving.container_status_report", **report)
