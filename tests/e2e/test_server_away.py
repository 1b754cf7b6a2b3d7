"""The ClearML server goes away: serving goes on, nothing hangs, and what was to be said is said later."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.demo.model import packaged_model
from common.launch.follow import interpret
from common.local_server import RunningServer, start_background, stop
from tests.e2e.instances import assert_all_gone, running_instance, wait_for

PARAMETERS = {
    "Model/model": str(packaged_model()),
    "Model/model_endpoint_name": "m",
    "Model/context_size": "1024",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    server = start_background(tmp_path / "server", agent_queue=None)
    yield server
    stop(tmp_path / "server")


def only_task(server: RunningServer) -> dict[str, object]:
    with server.client() as client:
        (task,) = client.call("tasks.get_all", only_fields=["id"])["tasks"]
        found: dict[str, object] = client.call("tasks.get_by_id", task=task["id"])["task"]
    return found


def test_a_run_with_a_server_records_itself_and_its_end(server: RunningServer) -> None:
    with running_instance(PARAMETERS, environ=server.environment, offline=False) as instance:
        assert "ravity" in instance.chat("m")
        wait_for(lambda: interpret(only_task(server)).stage == "ready", 20, "Status on the server")
        wait_for(
            lambda: interpret(only_task(server)).status["status"] == "active", 10, "status active"
        )
        state = interpret(only_task(server))
        assert state.status["idle_limit"] == "∞"
        assert "curl" in state.status["curl_example"]
        assert state.models[0]["url"].endswith("/m/v1")
        instance.process.send_signal(signal.SIGTERM)
        assert instance.wait_end(20) == 0
    task = only_task(server)
    assert task["status"] == "stopped"
    assert interpret(task).status["status"] == "stopped"
    metrics = {
        (value["metric"], value["variant"]): value["value"]
        for variants in task["last_metrics"].values()  # type: ignore[attr-defined]
        for value in variants.values()
    }
    assert metrics["Total Number of Requests", "m"] == 1
    assert ("Latency (ms)", "m") in metrics
    with server.client() as client:
        log = client.call("events.get_task_log", task=task["id"], batch_size=1000)["events"]
    said = "\n".join(str(line.get("msg")) for line in log)
    assert "Serving on" in said
    assert "Stopped: " in said


def test_requests_and_shutdown_do_not_wait_for_a_dead_server(server: RunningServer) -> None:
    with running_instance(PARAMETERS, environ=server.environment, offline=False) as instance:
        family = instance.family()
        stop(server.data_dir)
        started = time.monotonic()
        assert "ravity" in instance.chat("m")
        assert time.monotonic() - started < 10
        wait_for(lambda: "delayed" in instance.console, 30, "a word about it on the console")
        instance.process.send_signal(signal.SIGTERM)
        # The drain has nothing to wait for: the contract gives ten seconds from here.
        assert instance.wait_end(10) == 0
        assert_all_gone(family, 2)


def test_what_happened_while_the_server_was_away_is_told_when_it_is_back(
    server: RunningServer,
) -> None:
    with running_instance(PARAMETERS, environ=server.environment, offline=False) as instance:
        wait_for(lambda: interpret(only_task(server)).stage == "ready", 20, "Status on the server")
        stop(server.data_dir)
        for _ in range(3):
            instance.chat("m")
        wait_for(lambda: "delayed" in instance.console, 30, "a word about it on the console")
        start_background(server.data_dir, agent_queue=None)
        wait_for(
            lambda: "answers again" in instance.console, 60, "the server's return on the console"
        )
        wait_for(lambda: _requests(server) == 3, 40, "the requests made meanwhile")


def _requests(server: RunningServer) -> float:
    metrics = only_task(server).get("last_metrics") or {}
    for variants in metrics.values():  # type: ignore[attr-defined]
        for value in variants.values():
            if value["metric"] == "Total Number of Requests":
                return float(value["value"])
    return 0


def test_a_server_that_is_away_at_the_start_is_told_at_once(
    server: RunningServer, tmp_path: Path
) -> None:
    stop(server.data_dir)
    started = time.monotonic()
    with running_instance(
        PARAMETERS, environ=server.environment, offline=False, serving=False
    ) as instance:
        assert instance.wait_end(30) == 1
        assert "cannot be reached" in instance.console
    assert time.monotonic() - started < 25
