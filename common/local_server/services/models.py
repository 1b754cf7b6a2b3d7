"""The `models` service: the model registry. Files are the file server's."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from common.local_server import query
from common.local_server.call import MODEL, PROJECT, TASK, Call, Handler, check_name
from common.local_server.wire import CallError, JsonDict, iso_time, new_id

FIELDS: Final = frozenset(
    "id name parent user company created last_update last_change task comment tags system_tags"
    " framework design labels uri ready project metadata ui_cache stats last_iteration"
    " last_metrics".split()
)
_FIELDS_SET: Final = (
    "name",
    "uri",
    "comment",
    "tags",
    "system_tags",
    "framework",
    "design",
    "labels",
    "ready",
    "project",
    "parent",
    "task",
    "ui_cache",
)


def _edited(call: Call, model: JsonDict) -> JsonDict:
    data = call.data
    result = {**model, **{key: data[key] for key in _FIELDS_SET if data.get(key) is not None}}
    check_name("model", result["name"])
    if isinstance(data.get("metadata"), list):
        result["metadata"] = _metadata_map(data["metadata"])
    if isinstance(data.get("iteration"), int):
        result["last_iteration"] = max(data["iteration"], int(model.get("last_iteration") or 0))
    if result.get("project") and result["project"] != model.get("project"):
        call.find(PROJECT, result["project"])
    if result.get("task") and result["task"] != model.get("task"):
        call.find(TASK, result["task"])
    now = iso_time()
    return {**result, "last_update": now, "last_change": now}


def _metadata_map(items: list[Any]) -> JsonDict:
    if any(not isinstance(item, dict) or not item.get("key") for item in items):
        raise CallError(12, "Validation error (a metadata item needs a key)")
    return {item["key"]: item for item in items}


def create(call: Call) -> JsonDict:
    """Register a model under a name and the address of its file."""
    check_name("model", call.data.get("name"))
    if not isinstance(call.data.get("uri"), str):
        raise CallError(12, "Validation error (field 'uri': a string is required)")
    blank = {
        "id": new_id(),
        "name": "",
        "user": call.user.id,
        "company": call.settings.company,
        "created": iso_time(),
        "tags": [],
        "system_tags": [],
        "labels": {},
        "metadata": {},
        "ready": True,
    }
    model = _edited(call, blank)
    call.store.put(MODEL, model)
    return {"id": model["id"], "created": True}


def edit(call: Call) -> JsonDict:
    """Change a model."""
    model = call.find(MODEL, call.text("model"))
    call.store.put(MODEL, _edited(call, model))
    return {"updated": 1, "fields": {}}


def update_for_task(call: Call) -> JsonDict:
    """Set the file of a task's output model, which is made if the task has none."""
    task = call.find(TASK, call.text("task"))
    override = call.data.get("override_model_id")
    model = call.find(MODEL, str(override)) if override else None
    if model is None:
        model = {
            "id": new_id(),
            "name": call.data.get("name") or task["name"],
            "user": call.user.id,
            "company": call.settings.company,
            "created": iso_time(),
            "tags": [],
            "system_tags": [],
            "labels": task["execution"].get("model_labels") or {},
            "metadata": {},
            "ready": False,
            "uri": "",
            **({"project": task["project"]} if task.get("project") else {}),
        }
    model = _edited(call, model)
    call.store.put(MODEL, model)
    return {"id": model["id"], "created": not override, "updated": 1}


def get_by_id(call: Call) -> JsonDict:
    """One model."""
    return {"model": call.find(MODEL, call.text("model"))}


def get_all(call: Call) -> JsonDict:
    """Models by filters."""
    found = query.select(call.readable(MODEL), call.data, FIELDS)
    found, extra = query.page(found, call.data)
    return {"models": query.project_fields(found, call.data.get("only_fields"), FIELDS), **extra}


def set_ready(call: Call) -> JsonDict:
    """Publish a model (its task is left alone: publish that with its own call)."""
    model = call.find(MODEL, call.text("model"))
    call.store.put(MODEL, {**model, "ready": True, "last_update": iso_time()})
    return {"updated": 1}


def add_or_update_metadata(call: Call) -> JsonDict:
    """Set metadata items by key, or replace all."""
    model = call.find(MODEL, call.text("model"))
    old = {} if call.flag("replace_metadata") else model.get("metadata") or {}
    metadata = {**old, **_metadata_map(call.items("metadata"))}
    call.store.put(MODEL, {**model, "metadata": metadata, "last_update": iso_time()})
    return {"updated": 1}


def delete_metadata(call: Call) -> JsonDict:
    """Delete metadata items by key."""
    model = call.find(MODEL, call.text("model"))
    keys = call.items("keys")
    metadata = {key: item for key, item in model["metadata"].items() if key not in keys}
    call.store.put(MODEL, {**model, "metadata": metadata, "last_update": iso_time()})
    return {"updated": 1}


def delete(call: Call) -> JsonDict:
    """Delete a model, a ready one only by force; its file's address is answered."""
    model = call.find(MODEL, call.text("model"))
    if model.get("ready") and model.get("task") and not call.flag("force"):
        raise CallError(203, "Model is ready (published); use force", id=model["id"])
    call.store.delete(MODEL, model["id"])
    call.events.delete(model["id"])
    return {"deleted": True, "url": model.get("uri")}


def _set_archived(call: Call, is_archived: bool) -> JsonDict:
    word = "archived" if is_archived else "unarchived"
    for model_id in call.items("ids"):
        model = call.find(MODEL, model_id)
        tags = [tag for tag in model["system_tags"] if tag != "archived"]
        tags += ["archived"] if is_archived else []
        call.store.put(MODEL, {**model, "system_tags": tags})
    return {"succeeded": [{"id": i, word: True} for i in call.items("ids")], "failed": []}


def archive_many(call: Call) -> JsonDict:
    """Mark models archived."""
    return _set_archived(call, True)


def unarchive_many(call: Call) -> JsonDict:
    """Take the archived mark off."""
    return _set_archived(call, False)


ENDPOINTS: Final[Mapping[str, Handler]] = MappingProxyType(
    {
        "create": create,
        "edit": edit,
        "update": edit,
        "update_for_task": update_for_task,
        "get_by_id": get_by_id,
        "get_all": get_all,
        "get_all_ex": get_all,
        "set_ready": set_ready,
        "add_or_update_metadata": add_or_update_metadata,
        "delete_metadata": delete_metadata,
        "delete": delete,
        "archive_many": archive_many,
        "unarchive_many": unarchive_many,
    }
)
