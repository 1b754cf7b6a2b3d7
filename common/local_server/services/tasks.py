"""The `tasks` service: create, read, edit, clone, delete."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from common.local_server import query, task_status
from common.local_server.call import MODEL, PROJECT, TASK, Call, Handler, check_name
from common.local_server.services import projects, queues
from common.local_server.wire import CallError, JsonDict, iso_time, new_id

FIELDS: Final = frozenset(
    "id name type user company status comment report created started completed parent project"
    " input output execution container models tags system_tags status_changed status_message"
    " status_reason published last_update last_iteration last_worker last_worker_report"
    " last_metrics hyperparams configuration script runtime active_duration last_change"
    " enqueue_status unique_metrics metric_stats".split()
)
TYPES: Final = frozenset(
    "dataset_import annotation annotation_manual training testing inference data_processing"
    " application monitor controller report optimizer service qc custom".split()
)

#: Objects of which an edit changes the given parts; everything else is replaced whole.
_MERGED: Final = ("execution", "script", "output", "models")
_REPLACED: Final = (
    "name",
    "comment",
    "tags",
    "system_tags",
    "type",
    "parent",
    "project",
    "hyperparams",
    "configuration",
    "runtime",
    "container",
)
_NOT_CLONED_TAGS: Final = frozenset({"development", "archived"})


def touch(task: JsonDict) -> JsonDict:
    """The task with the time of its last change set to now."""
    now = iso_time()
    return {**task, "last_update": now, "last_change": now}


def _edited(call: Call, task: JsonDict) -> JsonDict:
    """The task with the fields of the request applied."""
    result = dict(task)
    for key in _REPLACED:
        if call.data.get(key) is not None:
            result[key] = call.data[key]
    for key in _MERGED:
        if call.data.get(key) is not None:
            result[key] = {**(task.get(key) or {}), **call.dictionary(key)}
    if call.data.get("output_dest") is not None:
        result["output"] = {**result["output"], "destination": call.data["output_dest"]}
    check_name("task", result["name"])
    if result["type"] not in TYPES:
        raise CallError(12, f"Validation error (unknown task type {result['type']!r})")
    if result.get("project") and result["project"] != task.get("project"):
        call.find(PROJECT, result["project"])
    result["runtime"] = call.granted(result["runtime"], result["id"])
    return touch(result)


def _blank(call: Call) -> JsonDict:
    now = iso_time()
    return {
        "id": new_id(),
        "name": "",
        "type": "custom",
        "user": call.user.id,
        "company": call.settings.company,
        "status": task_status.CREATED,
        "status_changed": now,
        "status_reason": "",
        "status_message": "",
        "comment": "",
        "created": now,
        "last_update": now,
        "last_change": now,
        "tags": [],
        "system_tags": [],
        "execution": {"artifacts": [], "model_labels": {}},
        "script": {},
        "output": {},
        "models": {"input": [], "output": []},
        "container": {},
        "hyperparams": {},
        "configuration": {},
        "runtime": {},
        "last_iteration": 0,
        "last_metrics": {},
    }


def create(call: Call) -> JsonDict:
    """Create a task; its name needs three characters, its project must exist."""
    check_name("task", call.data.get("name"))
    task = _edited(call, _blank(call))
    if not call.can_read(task):
        raise CallError(401, "Invalid project id", id=task.get("project"))
    call.store.put(TASK, task)
    return {"id": task["id"]}


def get_by_id(call: Call) -> JsonDict:
    """One task, whole."""
    return {"task": call.find(TASK, call.text("task"))}


def get_all(call: Call) -> JsonDict:
    """Tasks by filters."""
    ids = call.data.get("id")
    if ids:
        # The SDK's and the agent's polls: no need to read every task.
        wanted = [ids] if isinstance(ids, str) else list(ids)
        documents = [task for task in call.store.get_many(TASK, wanted) if call.can_read(task)]
    else:
        documents = call.readable(TASK)
    found, extra = query.page(query.select(documents, call.data, FIELDS), call.data)
    return {"tasks": query.project_fields(found, call.data.get("only_fields"), FIELDS), **extra}


def edit(call: Call) -> JsonDict:
    """Change a task; only a created one unless forced."""
    task = call.find(TASK, call.text("task"))
    if not call.flag("force") and task["status"] != task_status.CREATED:
        task_status.check_open(task["status"], force=False, wanted=frozenset({task_status.CREATED}))
    call.store.put(TASK, _edited(call, task))
    return {"updated": 1, "fields": {}}


def update(call: Call) -> JsonDict:
    """Change what may change in any status: name, comment, tags, project, output destination."""
    task = call.find(TASK, call.text("task"))
    allowed = ("name", "comment", "tags", "system_tags", "project", "parent", "output_dest")
    data = {key: call.data[key] for key in allowed if call.data.get(key) is not None}
    result = {**task, **{key: value for key, value in data.items() if key != "output_dest"}}
    check_name("task", result["name"])
    if data.get("project"):
        call.find(PROJECT, data["project"])
    if "output_dest" in data:
        result["output"] = {**result["output"], "destination": data["output_dest"]}
    call.store.put(TASK, touch(result))
    return {"updated": 1, "fields": data}


def set_requirements(call: Call) -> JsonDict:
    """Keep the packages a run needs; the task must have a script (400/122)."""
    task = call.find(TASK, call.text("task"))
    if not task.get("script"):
        raise CallError(122, "Task has no script, cannot set requirements")
    script = {**task["script"], "requirements": call.dictionary("requirements")}
    call.store.put(TASK, touch({**task, "script": script}))
    return {"updated": 1, "fields": {}}


def clone(call: Call) -> JsonDict:
    """Copy a task as a new, created one: without results, runtime and development marks."""
    source = call.find(TASK, call.text("task"))
    data = call.data
    task: JsonDict = {
        **_blank(call),
        **{key: source[key] for key in ("type", "script", "container") if key in source},
        "name": check_name("task", data.get("new_task_name") or source["name"]),
        "comment": _given(data, "new_task_comment", source["comment"]),
        "parent": data.get("new_task_parent") or source["id"],
        "tags": _given(data, "new_task_tags", source["tags"]),
        "system_tags": _given(
            data,
            "new_task_system_tags",
            [tag for tag in source["system_tags"] if tag not in _NOT_CLONED_TAGS],
        ),
        "hyperparams": _given(data, "new_task_hyperparams", source["hyperparams"]),
        "configuration": _given(data, "new_task_configuration", source["configuration"]),
        "models": {
            "input": _given(data, "new_task_input_models", source["models"].get("input", [])),
            "output": [],
        },
        "output": {key: value for key, value in source["output"].items() if key == "destination"},
        "execution": {
            **{key: value for key, value in source["execution"].items() if key != "queue"},
            "artifacts": _without_outputs(source["execution"]),
            **call.dictionary("execution_overrides"),
        },
    }
    if data.get("new_task_container") is not None:
        task["container"] = data["new_task_container"]
    project = _clone_project(call, source)
    if project:
        task["project"] = project
    call.store.put(TASK, task)
    answer: JsonDict = {"id": task["id"]}
    if data.get("new_project_name"):
        answer["new_project"] = {"id": project, "name": data["new_project_name"]}
    return answer


def _clone_project(call: Call, source: JsonDict) -> str | None:
    if call.data.get("new_project_name"):
        return projects.ensure(call, call.text("new_project_name"))
    if call.data.get("new_task_project"):
        return str(call.find(PROJECT, call.text("new_task_project"))["id"])
    return source.get("project")


def _given(data: Mapping[str, Any], key: str, default: Any) -> Any:
    return default if data.get(key) is None else data[key]


def _without_outputs(execution: Mapping[str, Any]) -> list[JsonDict]:
    artifacts = execution.get("artifacts") or []
    return [artifact for artifact in artifacts if artifact.get("mode") == "input"]


def drop_results(call: Call, task: JsonDict) -> JsonDict:
    """Delete what a run of the task left on the server: events, draft models, queue entries.

    Returns:
        The numbers and file URLs that the answers of reset and delete carry.
    """
    artifacts = task["execution"].get("artifacts") or []
    kept = _without_outputs(task["execution"])
    model_urls: list[str] = []
    deleted_models = 0
    if call.flag("delete_output_models", default=True):
        for model in call.store.all(MODEL):
            if model.get("task") == task["id"] and not model.get("ready"):
                call.store.delete(MODEL, model["id"])
                call.events.delete(model["id"])
                deleted_models += 1
                if model.get("uri"):
                    model_urls.append(model["uri"])
    queues.remove_task(call.store, task["id"])
    answer: JsonDict = {
        "events": {"deleted": call.events.delete(task["id"])},
        "deleted_models": deleted_models,
    }
    if call.flag("return_file_urls"):
        answer["urls"] = {
            "model_urls": model_urls,
            "artifact_urls": [a["uri"] for a in artifacts if a not in kept and a.get("uri")],
            "event_urls": [],
        }
    return answer


def delete(call: Call) -> JsonDict:
    """Delete a task and what it left; children stay, without a parent."""
    task = call.find(TASK, call.text("task"))
    task_status.check_delete(
        task["status"], force=call.flag("force"), is_archived="archived" in task["system_tags"]
    )
    answer = drop_results(call, task)
    children = [child for child in call.store.all(TASK) if child.get("parent") == task["id"]]
    for child in children:
        call.store.put(TASK, {key: value for key, value in child.items() if key != "parent"})
    call.store.delete(TASK, task["id"])
    return {
        "deleted": True,
        "updated_children": len(children),
        "updated_models": 0,
        **answer,
    }


def _set_archived(call: Call, is_archived: bool) -> int:
    ids = call.data.get("ids") or call.data.get("tasks") or []
    for task_id in ids:
        task = call.find(TASK, task_id)
        tags = [tag for tag in task["system_tags"] if tag != "archived"]
        tags += ["archived"] if is_archived else []
        call.store.put(TASK, touch({**task, "system_tags": tags}))
    return len(ids)


def archive(call: Call) -> JsonDict:
    """Mark tasks archived."""
    return {"archived": _set_archived(call, True)}


def archive_many(call: Call) -> JsonDict:
    """Mark tasks archived, with a line per task."""
    _set_archived(call, True)
    return {"succeeded": [{"id": i, "archived": True} for i in call.items("ids")], "failed": []}


def unarchive_many(call: Call) -> JsonDict:
    """Take the archived mark off, with a line per task."""
    _set_archived(call, False)
    return {"succeeded": [{"id": i, "unarchived": True} for i in call.items("ids")], "failed": []}


def move(call: Call) -> JsonDict:
    """Move tasks to another project, created if only its name is given."""
    if call.data.get("project"):
        project = str(call.find(PROJECT, call.text("project"))["id"])
    else:
        project = projects.ensure(call, call.text("project_name"))
    for task_id in call.items("ids"):
        call.store.put(TASK, touch({**call.find(TASK, task_id), "project": project}))
    return {"project_id": project}


def get_types(call: Call) -> JsonDict:
    """The task types in use."""
    return {"types": sorted({task["type"] for task in call.readable(TASK)})}


ENDPOINTS: Final[Mapping[str, Handler]] = MappingProxyType(
    {
        "create": create,
        "get_by_id": get_by_id,
        "get_by_id_ex": get_by_id,
        "get_all": get_all,
        "get_all_ex": get_all,
        "edit": edit,
        "update": update,
        "set_requirements": set_requirements,
        "clone": clone,
        "delete": delete,
        "archive": archive,
        "archive_many": archive_many,
        "unarchive_many": unarchive_many,
        "move": move,
        "get_types": get_types,
    }
)
