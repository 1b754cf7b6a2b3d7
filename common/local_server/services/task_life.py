"""The `tasks` service: the calls that move a task through its statuses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any, Final

from common.local_server import task_status
from common.local_server.call import MODEL, TASK, Call, Handler
from common.local_server.services import queues
from common.local_server.services.tasks import drop_results, touch
from common.local_server.wire import CallError, JsonDict, iso_time, parse_iso

_CLEARED_BY_RESET: Final = ("started", "completed", "published", "last_worker", "active_duration")
_NO_QUEUE: Final = ("queue",)


def _move(
    call: Call, task: JsonDict, status: str, extra: Mapping[str, Any] | None = None
) -> JsonDict:
    """Store the task in its next status with the reason and message of the call."""
    fields: JsonDict = {
        "status": status,
        "status_reason": call.data.get("status_reason") or "",
        "status_message": call.data.get("status_message") or "",
        **(extra or {}),
    }
    if status != task["status"]:
        fields["status_changed"] = iso_time()
    call.store.put(TASK, touch({**task, **fields}))
    return {"updated": 1, "fields": fields}


def _active_seconds(task: Mapping[str, Any]) -> JsonDict:
    if not task.get("started"):
        return {}
    duration = datetime.now(timezone.utc) - parse_iso(task["started"])
    return {"active_duration": int(duration.total_seconds())}


def started(call: Call) -> JsonDict:
    """Mark a task running; an unknown id is 400/10 here."""
    try:
        task = call.find(TASK, call.text("task"))
    except CallError as error:
        raise CallError(10, f"General data error ({error})") from error
    task_status.check_transition(task["status"], task_status.IN_PROGRESS, force=call.flag("force"))
    queues.remove_task(call.store, task["id"])
    begun = {"started": iso_time()} if task["status"] != task_status.IN_PROGRESS else {}
    if task["status_message"] == task_status.STOPPING_MESSAGE:
        # The agent marks a task started several times over: a stop in between must not be lost.
        begun["status_message"] = task_status.STOPPING_MESSAGE
    return {**_move(call, task, task_status.IN_PROGRESS, begun), "started": 1}


def _end(call: Call, status: str) -> JsonDict:
    task = call.find(TASK, call.text("task"))
    task_status.check_transition(task["status"], status, force=call.flag("force"))
    queues.remove_task(call.store, task["id"])
    return _move(call, task, status, {"completed": iso_time(), **_active_seconds(task)})


def stopped(call: Call) -> JsonDict:
    """Mark a task stopped."""
    return _end(call, task_status.STOPPED)


def failed(call: Call) -> JsonDict:
    """Mark a task failed."""
    return _end(call, task_status.FAILED)


def close(call: Call) -> JsonDict:
    """Mark a task closed."""
    return _end(call, task_status.CLOSED)


def completed(call: Call) -> JsonDict:
    """Mark a task completed, and publish it if asked."""
    answer = _end(call, task_status.COMPLETED)
    if call.flag("publish"):
        publish(call)
        answer["published"] = 1
    return answer


def publish(call: Call) -> JsonDict:
    """Mark a task published, its models ready."""
    task = call.find(TASK, call.text("task"))
    task_status.check_transition(task["status"], task_status.PUBLISHED, force=call.flag("force"))
    if call.flag("publish_model", default=True):
        for model in call.store.all(MODEL):
            if model.get("task") == task["id"]:
                call.store.put(MODEL, {**model, "ready": True})
    return _move(call, task, task_status.PUBLISHED, {"published": iso_time()})


def stop(call: Call) -> JsonDict:
    """Stop a task: at once if nothing runs it, else by telling its worker."""
    task = call.find(TASK, call.text("task"))
    idle = datetime.now(timezone.utc) - parse_iso(task["last_update"])
    plan = task_status.plan_stop(
        task["status"],
        force=call.flag("force"),
        is_development="development" in task["system_tags"],
        has_worker=bool(task.get("last_worker")),
        idle_s=idle.total_seconds(),
    )
    if plan.message is not None:
        fields = {
            "status_message": plan.message,
            "status_reason": call.data.get("status_reason") or "",
        }
        call.store.put(TASK, touch({**task, **fields}))
        return {"updated": 1, "fields": fields}
    queues.remove_task(call.store, task["id"])
    return _move(call, task, plan.status, {"completed": iso_time(), **_active_seconds(task)})


def enqueue(call: Call) -> JsonDict:
    """Put a task at the end of a queue."""
    task = call.find(TASK, call.text("task"))
    queue = queues.resolve(call)
    task_status.check_enqueue(task["status"], force=call.flag("force"))
    queues.enqueue(call.store, queue, task["id"])
    answer = _move(
        call,
        task,
        task_status.QUEUED,
        {
            "enqueue_status": task["status"],
            "execution": {**task["execution"], "queue": queue["id"]},
            "system_tags": [tag for tag in task["system_tags"] if tag != "development"],
        },
    )
    return {**answer, "queued": 1}


def dequeue(call: Call) -> JsonDict:
    """Take a task out of its queue; an agent gives the status that follows."""
    task = call.find(TASK, call.text("task"))
    was_queued = task["status"] == task_status.QUEUED
    removed = queues.remove_task(call.store, task["id"])
    status = task_status.status_after_dequeue(
        task["status"], task.get("enqueue_status"), call.data.get("new_status")
    )
    extra: JsonDict = {}
    if not call.data.get("new_status"):
        extra["execution"] = _without(task["execution"], _NO_QUEUE)
    answer = _move(call, task, status, extra)
    return {**answer, "dequeued": 1 if was_queued or removed else 0}


def reset(call: Call) -> JsonDict:
    """Take a task back to created, without the results of its last run."""
    task = call.find(TASK, call.text("task"))
    task_status.check_transition(task["status"], task_status.CREATED, force=call.flag("force"))
    answer = drop_results(call, task)
    fresh = _without(task, _CLEARED_BY_RESET)
    artifacts = task["execution"].get("artifacts") or []
    fresh.update(
        runtime={},
        last_metrics={},
        last_iteration=0,
        models={"input": task["models"].get("input", []), "output": []},
        execution={
            **_without(task["execution"], _NO_QUEUE),
            "artifacts": [a for a in artifacts if a.get("mode") == "input"],
        },
    )
    if call.flag("clear_all"):
        fresh.update(
            script={},
            hyperparams={},
            configuration={},
            container={},
            output={},
            execution={"artifacts": [], "model_labels": {}},
            models={"input": [], "output": []},
        )
    return {**_move(call, fresh, task_status.CREATED), **answer, "dequeued": {}}


def ping(call: Call) -> JsonDict:
    """Note that the task's process is alive."""
    task = call.find(TASK, call.text("task"))
    call.store.put(TASK, {**task, "last_update": iso_time()})
    return {}


def _without(document: Mapping[str, Any], keys: tuple[str, ...]) -> JsonDict:
    return {key: value for key, value in document.items() if key not in keys}


ENDPOINTS: Final[Mapping[str, Handler]] = MappingProxyType(
    {
        "started": started,
        "stopped": stopped,
        "failed": failed,
        "close": close,
        "completed": completed,
        "publish": publish,
        "stop": stop,
        "enqueue": enqueue,
        "dequeue": dequeue,
        "reset": reset,
        "ping": ping,
    }
)
