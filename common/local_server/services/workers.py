"""The `workers` service: agents, and processes that report a task by hand."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from common.local_server import task_status
from common.local_server.call import QUEUE, TASK, WORKER, Call, Handler
from common.local_server.wire import CallError, JsonDict, iso_time

#: A worker that has not reported for this long is gone, unless it registered another time-out.
TIMEOUT_S: Final = 600


def _blank(call: Call, worker: str) -> JsonDict:
    now = iso_time()
    return {
        "id": worker,
        "key": worker,
        "ip": call.remote_ip,
        "user": call.user.id,
        "register_time": now,
        "last_activity_time": now,
        "last_report_time": now,
        "last_seen_s": time.time(),
        "timeout_s": TIMEOUT_S,
        "queues": [],
        "tags": [],
        "system_tags": [],
    }


def register(call: Call) -> JsonDict:
    """Make a worker known; one that comes back under its name takes its place again."""
    worker = _blank(call, call.text("worker"))
    worker["queues"] = [str(queue) for queue in call.data.get("queues") or ()]
    worker["timeout_s"] = call.data.get("timeout") or TIMEOUT_S
    worker["tags"] = call.data.get("tags") or []
    call.store.put(WORKER, worker)
    return {}


def unregister(call: Call) -> JsonDict:
    """Forget a worker; agents say it twice."""
    call.store.delete(WORKER, call.text("worker"))
    return {}


def status_report(call: Call) -> JsonDict:
    """Note that a worker lives and what it runs; its task counts as watched from now on."""
    name = call.text("worker")
    if not isinstance(call.data.get("timestamp"), (int, float)):
        raise CallError(12, "Validation error (field 'timestamp': an integer is required)")
    worker = call.store.get(WORKER, name) or _blank(call, name)
    now = iso_time()
    task_id = call.data.get("task")
    worker.update(last_report_time=now, last_seen_s=time.time(), task=task_id)
    if task_id:
        worker["last_activity_time"] = now
        _report_task(call, name, str(task_id), now)
    if call.data.get("queues"):
        worker["queues"] = [str(queue) for queue in call.data["queues"]]
    for key in ("queue", "tags"):
        if call.data.get(key):
            worker[key] = call.data[key]
    call.store.put(WORKER, worker)
    return {}


def _report_task(call: Call, worker: str, task_id: str, now: str) -> None:
    task = call.find(TASK, task_id)
    if task["status"] not in (task_status.QUEUED, task_status.IN_PROGRESS):
        return
    call.store.put(
        TASK, {**task, "last_worker": worker, "last_worker_report": now, "last_update": now}
    )


def get_all(call: Call) -> JsonDict:
    """Workers that reported within `last_seen` seconds (default: each one's own time-out)."""
    last_seen = call.data.get("last_seen")
    now = time.time()
    answer = []
    for worker in call.store.all(WORKER):
        limit = float(last_seen or worker["timeout_s"])
        if now - float(worker["last_seen_s"]) <= limit:
            answer.append(_shown(call, worker))
    return {"workers": answer}


def get_count(call: Call) -> JsonDict:
    """How many workers there are."""
    return {"count": len(get_all(call)["workers"])}


def _shown(call: Call, worker: Mapping[str, Any]) -> JsonDict:
    company = {"id": call.settings.company, "name": "clearml"}
    user = call.store.get("user", worker["user"]) or {}
    shown = {key: value for key, value in worker.items() if key not in ("last_seen_s", "timeout_s")}
    shown.update(
        company=company,
        user={"id": worker["user"], "name": user.get("name", "")},
        queues=[_shown_queue(call, queue) for queue in worker["queues"]],
    )
    task = call.store.get(TASK, str(worker.get("task"))) if worker.get("task") else None
    shown.pop("task", None)
    if task is not None and call.can_read(task):
        shown["task"] = {
            "id": task["id"],
            "name": task["name"],
            "last_iteration": task["last_iteration"],
        }
    if worker.get("queue"):
        shown["queue"] = {"id": worker["queue"]}
    return shown


def _shown_queue(call: Call, queue_id: str) -> JsonDict:
    queue = call.store.get(QUEUE, queue_id)
    if queue is None:
        return {"id": queue_id}
    return {"id": queue_id, "name": queue["name"], "num_tasks": len(queue["entries"])}


ENDPOINTS: Final[Mapping[str, Handler]] = MappingProxyType(
    {
        "register": register,
        "unregister": unregister,
        "status_report": status_report,
        "get_all": get_all,
        "get_count": get_count,
    }
)
