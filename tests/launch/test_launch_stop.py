"""Stopping tasks on the real local server, at the moments when a stop gets lost."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from common.launch.stop import stop_task
from common.local_server import RunningServer


class Agent:
    """Writes what an agent writes while it starts and ends a task."""

    def __init__(self, server: RunningServer, task_id: str) -> None:
        self._server = server
        self._task_id = task_id

    def call(self, action: str, **fields: object) -> None:
        with self._server.client() as client:
            client.call(f"tasks.{action}", task=self._task_id, force=True, **fields)

    def status(self) -> tuple[str, str]:
        with self._server.client() as client:
            task = client.call("tasks.get_by_id", task=self._task_id)["task"]
        return task["status"], task.get("status_message") or ""

    def end_when_stopping(self) -> None:
        deadline = time.monotonic() + 20
        while "stopping" not in self.status()[1] and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        self.call("stopped", status_reason="stopped by the agent")


class Api:
    """`ClearMLApi` without the SDK, whose warnings would end the tests."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server

    def call(self, service: str, action: str, **body: Any) -> dict[str, Any]:
        with self._server.client() as client:
            data: dict[str, Any] = client.call(f"{service}.{action}", **body)
        return data


@pytest.fixture
def api(clearml_server: RunningServer) -> Any:
    return Api(clearml_server)


def new_task(server: RunningServer) -> str:
    with server.client() as client:
        return str(client.call("tasks.create", name="to be stopped", type="inference")["id"])


def in_thread(work: object) -> threading.Thread:
    thread = threading.Thread(target=work)  # type: ignore[arg-type]
    thread.start()
    return thread


def test_a_running_task_is_asked_once_and_waited_for(
    clearml_server: RunningServer, api: Any
) -> None:
    task_id = new_task(clearml_server)
    agent = Agent(clearml_server, task_id)
    agent.call("started", status_message="worker starts")
    # A live worker, or the server would stop the task itself.
    with clearml_server.client() as client:
        client.call("workers.register", worker="w:1", queues=[])
        client.call(
            "workers.status_report", worker="w:1", task=task_id, timestamp=int(time.time() * 1000)
        )
    ending = in_thread(agent.end_when_stopping)
    state = stop_task(api, task_id, reason="enough", timeout_s=20)
    ending.join(20)
    with clearml_server.client() as client:  # the server is the whole session's
        client.call("workers.unregister", worker="w:1")
    assert (state.stage, state.task_status) == ("ended", "stopped")


def test_a_task_that_an_agent_had_taken_already_is_stopped_all_the_same(
    clearml_server: RunningServer, api: Any
) -> None:
    task_id = new_task(clearml_server)
    agent = Agent(clearml_server, task_id)
    with clearml_server.client() as client:
        queue = client.call("queues.create", name="queue of the stop test")["id"]
        client.call("tasks.enqueue", task=task_id, queue=queue)
        assert client.call("queues.get_next_task", queue=queue)["entry"]["task"] == task_id

    def start_late() -> None:
        time.sleep(1)
        agent.call("started", status_message="worker starts")

    starting = in_thread(start_late)
    state = stop_task(api, task_id, reason="enough", timeout_s=20)
    starting.join(20)
    assert state.stage == "ended"
    assert agent.status()[0] == "stopped"


def test_a_draft_is_left_alone(clearml_server: RunningServer, api: Any) -> None:
    task_id = new_task(clearml_server)
    assert stop_task(api, task_id, reason="x", timeout_s=5).task_status == "created"
