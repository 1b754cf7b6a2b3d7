"""The `tasks` service: parameters, configuration, runtime, artifacts and models of a task."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from common.local_server import task_status
from common.local_server.call import TASK, Call, Handler
from common.local_server.services.tasks import touch
from common.local_server.wire import CallError, JsonDict


def edit_hyper_params(call: Call) -> JsonDict:
    """Set hyperparameters one by one, replacing nothing, their sections or all."""
    task = call.find(TASK, call.text("task"))
    items = [_parameter(item) for item in call.items("hyperparams")]
    sections = frozenset(item["section"] for item in items)
    task_status.check_edit_parameters(task["status"], sections, force=call.flag("force"))
    replace = call.data.get("replace_hyperparams") or "none"
    stored = {} if replace == "all" else {k: dict(v) for k, v in task["hyperparams"].items()}
    if replace == "section":
        for section in sections:
            stored.pop(section, None)
    for item in items:
        stored.setdefault(item["section"], {})[item["name"]] = item
    call.store.put(TASK, touch({**task, "hyperparams": stored}))
    return {"updated": 1}


def _parameter(item: Any) -> JsonDict:
    if not isinstance(item, dict) or not item.get("section") or not item.get("name"):
        raise CallError(12, "Validation error (a hyperparameter needs section and name)")
    value = item.get("value")
    return {**item, "value": "" if value is None else str(value)}


def delete_hyper_params(call: Call) -> JsonDict:
    """Delete hyperparameters, or whole sections where no name is given."""
    task = call.find(TASK, call.text("task"))
    keys = call.items("hyperparams")
    sections = frozenset(str(key.get("section")) for key in keys)
    task_status.check_edit_parameters(task["status"], sections, force=call.flag("force"))
    stored = {section: dict(items) for section, items in task["hyperparams"].items()}
    for key in keys:
        if key.get("name"):
            stored.get(key["section"], {}).pop(key["name"], None)
        if not key.get("name") or not stored.get(key["section"]):
            stored.pop(key["section"], None)
    call.store.put(TASK, touch({**task, "hyperparams": stored}))
    return {"deleted": 1}


def get_hyper_params(call: Call) -> JsonDict:
    """Hyperparameters of tasks as sorted lists."""
    params = []
    for task_id in call.items("tasks"):
        sections = call.find(TASK, task_id)["hyperparams"]
        params.append(
            {
                "task": task_id,
                "hyperparams": [
                    sections[section][name]
                    for section in sorted(sections)
                    for name in sorted(sections[section])
                ],
            }
        )
    return {"params": params}


def edit_configuration(call: Call) -> JsonDict:
    """Set configuration objects."""
    task = call.find(TASK, call.text("task"))
    _check_configuration(call, task)
    stored = {} if call.flag("replace_configuration") else dict(task["configuration"])
    for item in call.items("configuration"):
        stored[item["name"]] = item
    call.store.put(TASK, touch({**task, "configuration": stored}))
    return {"updated": 1}


def delete_configuration(call: Call) -> JsonDict:
    """Delete configuration objects by name."""
    task = call.find(TASK, call.text("task"))
    _check_configuration(call, task)
    names = call.items("configuration")
    stored = {name: item for name, item in task["configuration"].items() if name not in names}
    call.store.put(TASK, touch({**task, "configuration": stored}))
    return {"deleted": len(task["configuration"]) - len(stored)}


def _check_configuration(call: Call, task: Mapping[str, Any]) -> None:
    wanted = frozenset({task_status.CREATED})
    if call.flag("force"):
        wanted = task_status.OPEN_FOR_RESULTS
    task_status.check_open(task["status"], force=False, wanted=wanted)


def get_configurations(call: Call) -> JsonDict:
    """Configuration objects of tasks, all or those named."""
    names = call.data.get("names")
    answer = []
    for task_id in call.items("tasks"):
        stored = call.find(TASK, task_id)["configuration"]
        chosen = [stored[name] for name in sorted(stored) if not names or name in names]
        answer.append({"task": task_id, "configuration": chosen})
    return {"configurations": answer}


def get_configuration_names(call: Call) -> JsonDict:
    """Names of the configuration objects of tasks."""
    return {
        "configurations": [
            {"task": task_id, "names": sorted(call.find(TASK, task_id)["configuration"])}
            for task_id in call.items("tasks")
        ]
    }


def edit_runtime(call: Call) -> JsonDict:
    """Set and remove single runtime properties, without the whole map going over the wire."""
    task = call.find(TASK, call.text("task"))
    task_status.check_open(task["status"], force=call.flag("force"))
    runtime = {**task["runtime"], **call.dictionary("add_or_update")}
    for key in call.data.get("remove") or ():
        runtime.pop(key, None)
    runtime = call.granted(runtime, task["id"])
    call.store.put(TASK, touch({**task, "runtime": runtime}))
    return {"updated": 1}


def add_or_update_artifacts(call: Call) -> JsonDict:
    """Add artifacts, or replace those of the same key and mode."""
    task = call.find(TASK, call.text("task"))
    task_status.check_open(task["status"], force=call.flag("force"))
    stored = {_artifact_key(item): item for item in task["execution"].get("artifacts") or []}
    for item in call.items("artifacts"):
        if not item.get("key") or not item.get("type"):
            raise CallError(12, "Validation error (an artifact needs key and type)")
        stored[_artifact_key(item)] = {"mode": "output", **item}
    execution = {**task["execution"], "artifacts": list(stored.values())}
    call.store.put(TASK, touch({**task, "execution": execution}))
    return {"updated": 1}


def delete_artifacts(call: Call) -> JsonDict:
    """Delete artifacts by key and mode; their files stay."""
    task = call.find(TASK, call.text("task"))
    task_status.check_open(task["status"], force=call.flag("force"))
    gone = {_artifact_key(item) for item in call.items("artifacts")}
    artifacts = task["execution"].get("artifacts") or []
    kept = [item for item in artifacts if _artifact_key(item) not in gone]
    execution = {**task["execution"], "artifacts": kept}
    call.store.put(TASK, touch({**task, "execution": execution}))
    return {"deleted": len(artifacts) - len(kept)}


def _artifact_key(item: Mapping[str, Any]) -> tuple[str, str]:
    return str(item.get("key")), str(item.get("mode") or "output")


def add_or_update_model(call: Call) -> JsonDict:
    """Note a model under a name among the task's inputs or outputs."""
    task = call.find(TASK, call.text("task"))
    task_status.check_open(task["status"], force=True)
    side = _model_side(call.data.get("type"))
    entry = {"name": call.text("name"), "model": call.text("model")}
    others = [item for item in task["models"].get(side, []) if item["name"] != entry["name"]]
    updated = {**task, "models": {**task["models"], side: [*others, entry]}}
    iteration = call.data.get("iteration")
    if isinstance(iteration, int):
        updated["last_iteration"] = max(iteration, task["last_iteration"])
    call.store.put(TASK, touch(updated))
    return {"updated": 1}


def delete_models(call: Call) -> JsonDict:
    """Take models off a task; the models themselves stay."""
    task = call.find(TASK, call.text("task"))
    task_status.check_open(task["status"], force=call.flag("force"))
    gone = {(_model_side(item.get("type")), item.get("name")) for item in call.items("models")}
    models = {
        side: [item for item in items if (side, item["name"]) not in gone]
        for side, items in task["models"].items()
    }
    call.store.put(TASK, touch({**task, "models": models}))
    return {"updated": 1}


def _model_side(kind: Any) -> str:
    if kind not in ("input", "output"):
        raise CallError(12, f"Validation error (model type {kind!r}: input or output is allowed)")
    return str(kind)


ENDPOINTS: Final[Mapping[str, Handler]] = MappingProxyType(
    {
        "edit_hyper_params": edit_hyper_params,
        "delete_hyper_params": delete_hyper_params,
        "get_hyper_params": get_hyper_params,
        "edit_configuration": edit_configuration,
        "delete_configuration": delete_configuration,
        "get_configurations": get_configurations,
        "get_configuration_names": get_configuration_names,
        "edit_runtime": edit_runtime,
        "add_or_update_artifacts": add_or_update_artifacts,
        "delete_artifacts": delete_artifacts,
        "add_or_update_model": add_or_update_model,
        "delete_models": delete_models,
    }
)
