"""The real `clearml-agent` daemon against the local server."""

from __future__ import annotations

from typing import Any

from common.local_server import RunningServer
from tests.local_server.conftest import shown_status


def test_agent_runs_a_task_from_a_local_repository(agent_jobs: dict[str, Any]) -> None:
    task = agent_jobs["short"]
    console = "".join(event["msg"] for event in agent_jobs["console"])
    assert task["status"] == "completed", console
    assert "job: first line" in console
    assert "job: done" in console
    assert [
        item["value"]
        for metric in task["last_metrics"].values()
        for item in metric.values()
        if item["metric"] == "rate"
    ] == [0.25]
    assert [artifact["key"] for artifact in task["execution"]["artifacts"]] == ["result"]
    assert shown_status(task) == "active"


def test_agent_gives_an_aborted_task_time_for_its_callback(agent_jobs: dict[str, Any]) -> None:
    assert agent_jobs["stopping"]["status"] == "in_progress"
    assert agent_jobs["stopping"]["status_message"] == "stopping"
    task = agent_jobs["long"]
    assert task["status"] == "stopped"
    assert shown_status(task) == "stopped"
    metrics = [
        item["metric"] for metric in task["last_metrics"].values() for item in metric.values()
    ]
    assert "abort" in metrics


def test_agent_is_seen_with_its_task(
    agent_jobs: dict[str, Any], clearml_server_with_agent: RunningServer
) -> None:
    worker = next(
        worker
        for worker in agent_jobs["workers"]
        if worker["id"] == clearml_server_with_agent.worker
    )
    assert worker["task"]["id"] == agent_jobs["long"]["id"]
    assert [queue["name"] for queue in worker["queues"]] == ["default"]
