"""The `queues` service: first in, first out; the entries live in the queue's document."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from common.local_server import query
from common.local_server.call import QUEUE, TASK, Call, Handler, check_name
from common.local_server.store import Store
from common.local_server.wire import CallError, JsonDict, iso_time, new_id

FIELDS: Final = frozenset(
    "id name display_name user company created last_update tags system_tags entries metadata"
    " workers".split()
)
DEFAULT_QUEUE: Final = "default"


def ensure_default(store: Store, company: str, user: str) -> None:
    """Make the queue ``default``, which every server has."""
    if not any(queue["name"] == DEFAULT_QUEUE for queue in store.all(QUEUE)):
        _put_new(store, DEFAULT_QUEUE, company, user, {})


def enqueue(store: Store, queue: JsonDict, task_id: str) -> None:
    """Append a task."""
    queue["entries"].append({"task": task_id, "added": iso_time()})
    store.put(QUEUE, queue)


def remove_task(store: Store, task_id: str) -> int:
    """Take a task out of every queue; returns how often it was there."""
    removed = 0
    for queue in store.all(QUEUE):
        entries = [entry for entry in queue["entries"] if entry["task"] != task_id]
        if len(entries) != len(queue["entries"]):
            removed += len(queue["entries"]) - len(entries)
            store.put(QUEUE, {**queue, "entries": entries})
    return removed


def resolve(call: Call) -> JsonDict:
    """The queue that a request names by `queue` or `queue_name`, else the default one.

    Raises:
        CallError: 400/701, there is none.
    """
    if call.data.get("queue"):
        return call.find(QUEUE, call.text("queue"))
    name = call.data.get("queue_name") or DEFAULT_QUEUE
    for queue in call.store.all(QUEUE):
        if queue["name"] == name:
            return queue
    raise CallError(701, f"Invalid queue id (no queue is named {name!r})", name=name)


def _put_new(store: Store, name: str, company: str, user: str, extra: JsonDict) -> str:
    document = {
        "id": new_id(),
        "name": name,
        "user": user,
        "company": company,
        "created": iso_time(),
        "tags": [],
        "system_tags": [],
        "entries": [],
        **extra,
    }
    store.put(QUEUE, document)
    return str(document["id"])


def create(call: Call) -> JsonDict:
    """Create a queue; 400/801 if the name is taken."""
    name = check_name("queue", call.data.get("name"))
    if any(queue["name"] == name for queue in call.store.all(QUEUE)):
        raise CallError(801, f"Value is not unique (queue {name!r} exists already)", name=name)
    extra = {key: call.data[key] for key in ("tags", "system_tags") if call.data.get(key)}
    return {"id": _put_new(call.store, name, call.settings.company, call.user.id, extra)}


def get_by_id(call: Call) -> JsonDict:
    """One queue."""
    return {"queue": call.find(QUEUE, call.text("queue"))}


def get_all(call: Call) -> JsonDict:
    """Queues by filters."""
    found = query.select(call.store.all(QUEUE), call.data, FIELDS)
    found, extra = query.page(found, call.data)
    return {"queues": query.project_fields(found, call.data.get("only_fields"), FIELDS), **extra}


def get_default(call: Call) -> JsonDict:
    """Id and name of the default queue."""
    for queue in call.store.all(QUEUE):
        if queue["name"] == DEFAULT_QUEUE:
            return {"id": queue["id"], "name": queue["name"]}
    raise CallError(701, "Invalid queue id (the default queue was deleted)")


def get_num_entries(call: Call) -> JsonDict:
    """How many tasks wait."""
    return {"num": len(call.find(QUEUE, call.text("queue"))["entries"])}


def get_next_task(call: Call) -> JsonDict:
    """Take the first entry out; its task stays `queued` until the agent starts it."""
    queue = call.find(QUEUE, call.text("queue"))
    if not queue["entries"]:
        return {}
    entry, *rest = queue["entries"]
    call.store.put(QUEUE, {**queue, "entries": rest})
    answer: JsonDict = {"entry": entry}
    if call.flag("get_task_info"):
        task = call.store.get(TASK, entry["task"]) or {}
        answer["task_info"] = {
            "company": call.settings.company,
            "user": str(task.get("user", "")),
        }
    return answer


def update(call: Call) -> JsonDict:
    """Change a queue's name or tags."""
    queue = call.find(QUEUE, call.text("queue"))
    fields = {
        key: call.data[key]
        for key in ("name", "tags", "system_tags")
        if call.data.get(key) is not None
    }
    if "name" in fields:
        check_name("queue", fields["name"])
    call.store.put(QUEUE, {**queue, **fields})
    return {"updated": 1, "fields": fields}


def delete(call: Call) -> JsonDict:
    """Delete a queue; 400/704 while tasks wait in it and `force` is not given."""
    queue = call.find(QUEUE, call.text("queue"))
    if queue["entries"] and not call.flag("force"):
        raise CallError(704, f"Queue {queue['name']!r} is not empty; use force")
    call.store.delete(QUEUE, queue["id"])
    return {"deleted": 1}


ENDPOINTS: Final[Mapping[str, Handler]] = MappingProxyType(
    {
        "create": create,
        "get_by_id": get_by_id,
        "get_all": get_all,
        "get_all_ex": get_all,
        "get_default": get_default,
        "get_num_entries": get_num_entries,
        "get_next_task": get_next_task,
        "update": update,
        "delete": delete,
    }
)
