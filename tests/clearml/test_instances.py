"""Instances and their consoles, read from tasks on the real local server."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from common.clearml.api import ClearMLApi
from common.errors import ControlPlaneError
from common.launch.follow import Followed
from common.launch.instances import app_of, list_instances, read_instance
from common.launch.logs import LogLine, TaskLog, follow_log
from common.local_server import RunningServer

SCRIPT = {"entry_point": "-m apps.vllm"}
MODEL = {"name": "org/repo", "url": "http://w:8800/org/repo/v1", "status": "ready"}


class Api(ClearMLApi):
    """Calls to the session's server; the SDK's own session reads its configuration once per process."""

    def __init__(self, server: RunningServer) -> None:
        super().__init__()
        self._server = server
        self.client = server.client()

    @property
    def host(self) -> str:
        return self._server.api_url

    def task_page(self, project_id: str, task_id: str) -> str:
        return f"page of {task_id}"

    def call(self, service: str, action: str, **body: Any) -> dict[str, Any]:
        return self.client.call(f"{service}.{action}", **body)

    def add_events(self, events: list[dict[str, Any]]) -> None:
        """Send events as the SDK does: a line each."""
        server = self._server
        answer = requests.post(
            f"{server.api_url}/events.add_batch",
            data="\n".join(map(json.dumps, events)),
            headers={"Content-Type": "application/json-lines"},
            auth=(server.access_key, server.secret_key),
            timeout=10,
        )
        assert answer.json()["data"]["added"] == len(events)


@pytest.fixture
def api(clearml_server: RunningServer) -> Iterator[Api]:
    api = Api(clearml_server)
    with api.client:
        yield api


@pytest.fixture
def project(api: Api) -> str:
    """Name of a project of the test's own."""
    name = f"managing {uuid.uuid4().hex}"
    api.call("projects", "create", name=name, description="")
    return name


def project_id(api: Api, name: str) -> str:
    found = api.call("projects", "get_all", name=f"^{name}$")["projects"]
    return str(found[0]["id"])


def new_task(api: Api, project: str, **fields: Any) -> str:
    """A draft of an instance."""
    given = {"name": "an instance", "type": "inference", "script": SCRIPT, **fields}
    task: str = api.call("tasks", "create", project=project_id(api, project), **given)["id"]
    return task


def status_section(task_id: str, **values: str) -> dict[str, Any]:
    given = {"session": task_id, "models": json.dumps([MODEL]), **values}
    section = {n: {"section": "Status", "name": n, "value": v} for n, v in given.items()}
    return {"Status": section}


def start(api: Api, task_id: str, **status: str) -> None:
    api.call("tasks", "started", task=task_id, force=True)
    hyperparams = status_section(task_id, **status)
    api.call("tasks", "edit", task=task_id, hyperparams=hyperparams, force=True)


def say(api: Api, task_id: str, *lines: str, at: int) -> None:
    event = {"type": "log", "task": task_id, "timestamp": at, "worker": "w:1"}
    api.add_events([{**event, "msg": line} for line in lines])


@pytest.mark.parametrize(
    ("entry_point", "tags", "app"),
    [
        ("-m apps.llamacpp", [], "llamacpp"),
        ("-m apps.legacy_model.__main__", [], "legacy_model"),
        ("bin/clearml-deploy", ["prod", "clearml-deploy", "vllm"], "vllm"),
        ("bin/clearml-deploy", ["vllm"], ""),
        ("train.py", [], ""),
        (None, None, ""),
    ],
)
def test_the_app_is_told_by_entry_point_or_tags(entry_point: Any, tags: Any, app: str) -> None:
    assert app_of({"script": {"entry_point": entry_point}, "tags": tags}) == app


def test_a_running_instance_with_what_it_does(api: Api, project: str) -> None:
    task_id = new_task(api, project, name="mine")
    start(
        api,
        task_id,
        status="active",
        idle_hours="0.2",
        idle_limit="∞",
        endpoint="http://w:8800",
        api_key="sesame",
        test_command="curl sesame",
    )
    other = new_task(api, project, script={"entry_point": "train.py"})
    api.call("tasks", "started", task=other, force=True)
    (found,) = list_instances(api, project=project)
    assert (found.id, found.app, found.name, found.project) == (task_id, "vllm", "mine", project)
    assert (found.status, found.idle, found.endpoint) == ("active", "0.2 h of ∞", "http://w:8800")
    assert found.web_url == f"page of {task_id}"
    record = found.record()
    assert record["models"] == [MODEL]
    assert (record["stage"], record["status"], record["session"]) == ("ready", "active", task_id)
    assert "sesame" not in json.dumps(record)
    assert read_instance(api, task_id) == found

    api.call("tasks", "stop", task=task_id)
    assert read_instance(api, task_id).status == "stopped"


def test_filters(api: Api, project: str) -> None:
    draft = new_task(api, project)
    running = new_task(api, project, script={"entry_point": "-m apps.llamacpp"})
    start(api, running)
    ended = new_task(api, project)
    start(api, ended, status="active", endpoint="http://w:8800")
    api.call("tasks", "failed", task=ended, force=True, status_reason="no such model")
    below = f"{project}/below it"
    api.call("projects", "create", name=below, description="")
    nested = new_task(api, below)
    start(api, nested)
    archived = new_task(api, project)
    start(api, archived)
    api.call("tasks", "edit", task=archived, system_tags=["archived"], force=True)

    def ids(**filters: Any) -> list[str]:
        return [found.id for found in list_instances(api, **filters)]

    assert ids(project=project) == [nested, running]
    assert ids(project=below) == [nested]
    assert ids(project=project, app="llamacpp") == [running]
    assert ids(project=project, ended=True) == [nested, ended, running, draft]
    found = read_instance(api, ended)
    assert (found.status, found.endpoint, found.idle) == ("failed", "", "")
    assert found.state.reason == "no such model"
    assert read_instance(api, draft).status == "draft"
    with pytest.raises(ControlPlaneError, match='no project "nowhere at all"'):
        ids(project="nowhere at all")


def test_what_holds_an_instance_up_is_said(api: Api, project: str) -> None:
    queue = f"queue {uuid.uuid4().hex}"
    queue_id = api.call("queues", "create", name=queue)["id"]
    task_id = new_task(api, project)
    api.call("tasks", "enqueue", task=task_id, queue=queue_id)
    (waiting,) = list_instances(api, project=project)
    assert (waiting.status, waiting.queue) == ("queued", queue)
    assert f'No agent serves the queue "{queue}"' in waiting.remark


def test_an_instance_that_stops_or_is_no_longer_heard_of(api: Api, project: str) -> None:
    from common.launch.instances import _Reader

    task_id = new_task(api, project)
    start(api, task_id)
    task = api.call("tasks", "get_by_id", task=task_id)["task"]
    assert _Reader(api, [task]).instance(task).remark == ""
    assert _Reader(api, [task]).instance(task).status == "ready"
    stopping = {**task, "status_message": "stopping"}
    assert _Reader(api, [stopping]).instance(stopping).status == "stopping"
    task["last_update"] = "2026-01-01T00:00:00+00:00"
    assert "its worker may be gone" in _Reader(api, [task]).instance(task).remark


def test_a_task_that_is_none_of_ours_and_one_that_is_not_there(api: Api, project: str) -> None:
    other = new_task(api, project, script={"entry_point": "train.py"})
    with pytest.raises(ControlPlaneError, match=r"is no instance .* runs train\.py"):
        read_instance(api, other)
    missing = "0" * 32
    with pytest.raises(ControlPlaneError, match=f"no task {missing} .* or you may not read it"):
        read_instance(api, missing)


def test_the_end_of_a_console_and_what_comes_after(api: Api, project: str) -> None:
    task_id = new_task(api, project)
    now = int(time.time() * 1000)
    say(api, task_id, *(f"line {n}" for n in range(700)), at=now - 20)
    say(api, task_id, "two\nlines\n", "10%\r100%\n", at=now - 10)
    log = TaskLog(api, task_id)
    assert [line.text for line in log.tail(3)] == ["two", "lines", "100%"]
    assert log.new() == []
    # What is written in the same moment, or was on its way for a while, is new all the same.
    say(api, task_id, "two", at=now - 10)
    say(api, task_id, "late", at=now - 15)
    say(api, task_id, "newest", at=now)
    assert [line.text for line in log.new()] == ["late", "two", "newest"]
    assert log.new() == []
    assert TaskLog(api, task_id).tail(0) == []
    assert len(TaskLog(api, task_id).tail(10_000)) == 706


def test_a_console_of_many_batches_comes_once_and_in_order(api: Api, project: str) -> None:
    task_id = new_task(api, project)
    lines = [{"type": "log", "task": task_id, "timestamp": n, "msg": str(n)} for n in range(1300)]
    api.add_events(lines)
    log = TaskLog(api, task_id)
    assert [line.text for line in log.new()] == [str(n) for n in range(1300)]
    assert log.new() == []


def test_following_ends_with_the_task(api: Api, project: str) -> None:
    task_id = new_task(api, project)
    start(api, task_id)
    now = int(time.time() * 1000)
    say(api, task_id, "first", at=now)
    seen: list[LogLine | Followed] = []
    got_first = threading.Event()

    def follow() -> None:
        for item in follow_log(api, TaskLog(api, task_id), task_id):
            seen.append(item)
            got_first.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert got_first.wait(10)
    assert thread.is_alive()
    with api._server.client() as client:
        client.call("tasks.failed", task=task_id, force=True, status_reason="it broke")
        event = {"type": "log", "task": task_id, "timestamp": now + 1, "msg": "last words"}
        client.call("events.add", **event)
    thread.join(20)
    *lines, last = seen
    assert [line.text for line in lines if isinstance(line, LogLine)] == ["first", "last words"]
    assert isinstance(last, Followed)
    assert (last.task_status, last.reason) == ("failed", "it broke")
