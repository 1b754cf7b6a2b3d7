"""Rows of the Model Endpoints table on a real server, which has the service, has not, or forgets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.local_server import RunningServer
from common.local_server.call import SERVING, Call
from common.local_server.services import serving
from common.local_server.wire import CallError, JsonDict
from tests.clearml.own_server import Change, server_in_this_process
from tests.clearml.reporter import reporting

URL = "http://127.0.0.1:8800/of-this-file/v1"


def entry(**fields: Any) -> dict[str, Any]:
    return {
        "container_id": "task-1",
        "endpoint_name": "m",
        "model_name": "org/repo",
        "info": {"model_source": "Hugging Face", "reference": [{"type": "task", "value": "t"}]},
        **fields,
    }


def served(requests: int = 0) -> dict[str, Any]:
    stats = {"requests_num": requests, "requests_min": 2.5, "latency_ms": 40, "uptime_sec": 9}
    return entry(endpoint_url=URL, stats={**stats, "machine_stats": {"cpu_usage": [5.0]}})


def loading(server: RunningServer) -> list[str]:
    """IDs of this file's rows that load; the server is everybody's."""
    with server.client() as client:
        rows = client.call("serving.get_loading_instances")["instances"]
    return [row["id"] for row in rows if row["id"].startswith("task-")]


def serving_rows(server: RunningServer) -> list[tuple[str, int]]:
    with server.client() as client:
        rows = client.call("serving.get_endpoints")["endpoints"]
    return [(row["url"], row["requests"]) for row in rows if row["url"] == URL]


def test_a_row_goes_from_loading_to_served_to_gone(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    with reporting(clearml_server, tmp_path) as reporter:
        reporter.endpoints([entry()])
        assert reporter.flush(30)
        assert loading(clearml_server) == ["task-1"]
        assert serving_rows(clearml_server) == []
        reporter.endpoints([served(3)])
        assert reporter.flush(30)
        assert loading(clearml_server) == []
        assert serving_rows(clearml_server) == [(URL, 3)]
        with clearml_server.client() as client:
            details = client.call("serving.get_endpoint_details", endpoint_url=URL)
        assert details["model_source"] == "Hugging Face"
        assert details["instances"][0]["reference"] == [{"type": "task", "value": "t"}]
        assert details["instances"][0]["latency_ms"] == 40
        reporter.endpoints([entry()])  # its engine is started again
        assert reporter.flush(30)
        assert (loading(clearml_server), serving_rows(clearml_server)) == (["task-1"], [])
        reporter.endpoints([served(4)])
        assert reporter.finish("stopped", 30.0)
        assert (loading(clearml_server), serving_rows(clearml_server)) == ([], [])
        assert reporter.said() == [[], []]


def test_a_row_that_failed_goes_and_the_others_stay(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    with reporting(clearml_server, tmp_path) as reporter:
        other = {**entry(), "container_id": "task-2", "endpoint_name": "n"}
        reporter.endpoints([entry(), other])
        assert reporter.flush(30)
        assert sorted(loading(clearml_server)) == ["task-1", "task-2"]
        reporter.endpoints([other])
        assert reporter.flush(30)
        assert loading(clearml_server) == ["task-2"]
        assert reporter.finish("failed", 30.0)
        assert loading(clearml_server) == []


def test_a_server_without_the_table_is_asked_once_and_left_alone(
    tmp_path: Path, changed: Callable[[Change], None]
) -> None:
    asked: list[str] = []

    class Missing(dict[str, Any]):
        def get(self, action: str, default: Any = None) -> Any:
            asked.append(action)
            return None

    changed(lambda services: services.update(serving=Missing()))
    with server_in_this_process(tmp_path / "server") as server, reporting(server, tmp_path) as it:
        for _ in range(3):
            it.endpoints([served()])
            assert it.flush(30)
        it.status({"status": "idle"})
        assert it.finish("stopped", 30.0)
        console, debug = it.said()
    assert asked == ["register_container"]
    assert console == []
    assert len(debug) == 1
    assert "no table of model endpoints" in debug[0]


def test_a_row_that_the_server_forgot_comes_back(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    with reporting(clearml_server, tmp_path) as reporter:
        reporter.endpoints([served(1)])
        assert reporter.flush(30)
        with clearml_server.client() as client:
            client.call("serving.unregister_container", container_id="task-1")
        assert serving_rows(clearml_server) == []
        reporter.endpoints([served(2)])
        assert reporter.flush(30)
        assert serving_rows(clearml_server) == [(URL, 2)]
        assert reporter.finish("stopped", 30.0)


def test_a_server_that_refuses_unknown_rows_gets_them_registered_again(
    tmp_path: Path, changed: Callable[[Change], None]
) -> None:
    """A real server does where it is set up not to register by itself."""

    def strict(call: Call) -> JsonDict:
        if call.store.get(SERVING, call.text("container_id")) is None:
            raise CallError(1302, "Container is not registered", status=400)
        return serving.container_status_report(call)

    handlers = {**serving.ENDPOINTS, "container_status_report": strict}
    changed(lambda services: services.update(serving=handlers))
    with server_in_this_process(tmp_path / "server") as server, reporting(server, tmp_path) as it:
        it.endpoints([served(1)])
        assert it.flush(30)
        with server.client() as client:
            client.call("serving.unregister_container", container_id="task-1")
        it.endpoints([served(2)])
        assert it.flush(30)
        assert serving_rows(server) == [(URL, 2)]
        assert it.said() == [[], []]
        assert it.finish("stopped", 30.0)
        assert serving_rows(server) == []
