"""The instances on a ClearML server: found by what their tasks run, whoever made these."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from common.clearml.api import ClearMLApi
from common.clearml.task import TAG
from common.errors import ControlPlaneError
from common.launch.definition import APP_NAMES, TASK_TYPE, values_of
from common.launch.follow import Followed, find_task, interpret
from common.launch.queues import in_words, read_queue, read_queues

_ENTRY_POINT = re.compile(r"-m\s+apps\.(\w+)")
_PAGE_SIZE = 200
# What an instance says itself at its end; one that could not has something else there.
_ENDINGS = ("stopped", "failed")
_ALIVE = ("queued", "in_progress")
# Agent and SDK report every 30 s, the instance itself every ten minutes.
_SILENT_S = 20 * 60
_FIELDS = (
    "id name status status_reason status_message project tags script.entry_point hyperparams"
    " execution.queue last_worker last_update"
).split()


@dataclass(frozen=True)
class Instance:
    """An instance as a person manages it.

    Attributes:
        id: Its task's ID.
        app: The app, as the command line calls it.
        name: Its name.
        project: Its project's name, empty when that may not be read.
        queue: Name of the queue that it was put into.
        worker: The worker that runs it, or ran it last.
        web_url: Its task's page in the ClearML UI.
        state: What it does.
        remark: What holds it up, in a sentence; empty when nothing does.
        drain_seconds: How long requests may go on at its end, as its parameter says; empty: the default.
    """

    id: str
    app: str
    name: str
    project: str
    queue: str
    worker: str
    web_url: str
    state: Followed
    remark: str = ""
    drain_seconds: str = ""

    @property
    def status(self) -> str:
        """One word: the instance's own, where it has one that holds, else its task's."""
        state = self.state
        if state.task_status == "in_progress":
            return "stopping" if state.is_stopping else state.status.get("status", state.stage)
        if state.stage == "ended" and state.status.get("status") in _ENDINGS:
            return state.status["status"]
        return "draft" if state.task_status == "created" else state.task_status

    @property
    def idle(self) -> str:
        """Hours since the last request, and after how many it stops; empty while it does not serve."""
        hours, limit = (self.state.status.get(name) for name in ("idle_hours", "idle_limit"))
        is_served = self.state.task_status == "in_progress" and hours
        return f"{hours} h of {limit}" if is_served and limit else ""

    @property
    def endpoint(self) -> str:
        """The base URL that clients use; empty when it does not run."""
        if self.state.task_status != "in_progress":
            return ""
        return self.state.status.get("endpoint", "")

    def record(self) -> dict[str, Any]:
        """The instance for a program; no key is in it."""
        status = {n: v for n, v in self.state.status.items() if n not in _KEPT_PRIVATE}
        return {
            "id": self.id,
            "app": self.app,
            "name": self.name,
            "project": self.project,
            "queue": self.queue,
            "worker": self.worker,
            "web_url": self.web_url,
            "stage": self.state.stage,
            "task_status": self.state.task_status,
            "is_stopping": self.state.is_stopping,
            "reason": self.state.reason,
            "remark": self.remark,
            **status,
            "status": self.status,
            "endpoint": self.endpoint,
            "models": list(self.state.models),
        }


# What the dashboard of the legacy form shows with the clients' key in it.
_KEPT_PRIVATE = frozenset({"api_key", "test_command"})


def app_of(task: Mapping[str, Any]) -> str:
    """The app that a task runs, by its entry point or else its tags; empty when it is none of ours."""
    found = _ENTRY_POINT.search(str((task.get("script") or {}).get("entry_point") or ""))
    if found:
        return found.group(1)
    # One that was started by hand has the command line's own script there.
    tags = [str(tag) for tag in task.get("tags") or []]
    return next((tag for tag in tags if tag in APP_NAMES), "") if TAG in tags else ""


def list_instances(
    api: ClearMLApi, *, project: str = "", app: str = "", ended: bool = False
) -> list[Instance]:
    """The instances that the user may see, the newest first.

    Args:
        api: The server.
        project: Only those of this project and of the ones below it.
        app: Only those of this app.
        ended: Also those that have ended, and drafts.

    Raises:
        ControlPlaneError: There is no such project, or the server cannot be reached.
    """
    wanted: dict[str, Any] = {} if ended else {"status": list(_ALIVE)}
    if project:
        wanted["project"] = _projects_below(api, project)
    found = [task for task in _tasks(api, wanted) if app_of(task) and app in ("", app_of(task))]
    reader = _Reader(api, found)
    return [reader.instance(task) for task in found]


def read_instance(api: ClearMLApi, task_id: str) -> Instance:
    """One instance.

    Raises:
        ControlPlaneError: There is no such task, it is no instance, or the server cannot be reached.
    """
    return instance_of(api, find_task(api, task_id))


def instance_of(api: ClearMLApi, task: Mapping[str, Any]) -> Instance:
    """The instance that a task is, with the names that the task has IDs of.

    Raises:
        ControlPlaneError: It is no instance, or the server cannot be reached.
    """
    if not app_of(task):
        runs = (task.get("script") or {}).get("entry_point") or "nothing"
        raise ControlPlaneError(
            f'The task {task["id"]} ("{task.get("name")}") is no instance of clearml-deploy: it runs {runs}.'
        )
    return _Reader(api, [task]).instance(task)


class _Reader:
    """Turns tasks into instances; what they share is asked for once."""

    def __init__(self, api: ClearMLApi, tasks: Sequence[Mapping[str, Any]]) -> None:
        self._api = api
        self._now = datetime.now(timezone.utc)
        self._projects = _project_names(api, {str(task.get("project") or "") for task in tasks})
        has_queue = any((task.get("execution") or {}).get("queue") for task in tasks)
        self._queues = {i: name for name, i in read_queues(api).items()} if has_queue else {}
        self._states: dict[str, Any] = {}

    def instance(self, task: Mapping[str, Any]) -> Instance:
        project = str(task.get("project") or "")
        queue_id = str((task.get("execution") or {}).get("queue") or "")
        return Instance(
            id=str(task["id"]),
            app=app_of(task),
            name=str(task.get("name") or ""),
            project=self._projects.get(project, ""),
            queue=self._queues.get(queue_id, ""),
            worker=str(task.get("last_worker") or ""),
            web_url=self._api.task_page(project, str(task["id"])),
            state=interpret(dict(task)),
            remark=self._remark(task, queue_id),
            drain_seconds=values_of(task.get("hyperparams") or {}).get("General/drain_seconds", ""),
        )

    def _remark(self, task: Mapping[str, Any], queue_id: str) -> str:
        status = task.get("status")
        if status == "queued":
            if queue_id not in self._queues:
                return "Its queue no longer exists: put the task into another one."
            if queue_id not in self._states:
                self._states[queue_id] = read_queue(self._api, queue_id)
            return str(self._states[queue_id].explain(str(task["id"])))
        if status == "in_progress" and (since := _time(task.get("last_update"))):
            silent_s = (self._now - since).total_seconds()
            if silent_s > _SILENT_S:
                return f"Nothing was heard of it for {in_words(silent_s)}: its worker may be gone."
        return ""


def _tasks(api: ClearMLApi, wanted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    page = 0
    while True:
        tasks = api.call(
            "tasks",
            "get_all",
            type=[TASK_TYPE],
            system_tags=["-archived"],
            order_by=["-created"],
            only_fields=_FIELDS,
            search_hidden=True,
            page=page,
            page_size=_PAGE_SIZE,
            **wanted,
        ).get("tasks", [])
        yield from tasks
        if len(tasks) < _PAGE_SIZE:
            return
        page += 1


def _projects_below(api: ClearMLApi, name: str) -> list[str]:
    """IDs of a project and of those below it.

    Raises:
        ControlPlaneError: The user sees no such project.
    """
    found = api.call(
        "projects",
        "get_all",
        name=f"^{re.escape(name)}(/|$)",
        only_fields=["id", "name"],
        search_hidden=True,
    ).get("projects", [])
    if not found:
        raise ControlPlaneError(
            f'There is no project "{name}" on {api.host}, or you may not read it.'
        )
    return [str(project["id"]) for project in found]


def _project_names(api: ClearMLApi, ids: set[str]) -> dict[str, str]:
    wanted = sorted(ids - {""})
    if not wanted:
        return {}
    answer = api.call(
        "projects", "get_all", id=wanted, only_fields=["id", "name"], search_hidden=True
    )
    return {str(project["id"]): str(project["name"]) for project in answer.get("projects", [])}


def _time(text: Any) -> datetime | None:
    if not text:
        return None
    found = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)
