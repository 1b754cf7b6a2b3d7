"""A new instance from a task that is there: a template, or an instance that runs or has run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.clearml.api import ClearMLApi
from common.clearml.parameters import parameter_items
from common.errors import ConfigurationError, Problem, UserError
from common.launch.definition import (
    APP_NAMES,
    VERSION_PROPERTY,
    Hyperparameters,
    app_name_of,
    by_section,
    program_version,
    task_fields,
    values_of,
    version_item,
    version_of,
)
from common.launch.follow import find_task
from common.launch.instances import app_of
from common.launch.launcher import enqueue_task, instance_name
from common.launch.queues import find_queue
from common.launch.source import Source
from common.launch.template import is_template
from common.options.loading import FOREIGN_SECTIONS, MODELS_PATH, load_settings
from common.runtime.app import App


@dataclass(frozen=True)
class Original:
    """A task that can be cloned.

    Attributes:
        task: The task as the server gives it.
        app_name: The app that it runs.
    """

    task: Mapping[str, Any]
    app_name: str

    @property
    def id(self) -> str:
        """The task's ID."""
        return str(self.task["id"])

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Its hyperparameters, as the server keeps them."""
        return dict(self.task.get("hyperparams") or {})

    @property
    def is_by_hand(self) -> bool:
        """Whether a person ran it (``clearml-deploy run``): it names no program that an agent could run."""
        return not app_name_of(self.task)


@dataclass(frozen=True)
class Clone:
    """What to make of a task.

    Attributes:
        app: The app that it runs.
        original: The task.
        queue: Name of the queue.
        changes: ``Section/name`` to value, over the original's own; an empty value unsets.
        name: Name of the instance; empty: the original's, or for a template one after the app.
        project: Its project; empty: the original's.
        source: Where the agent gets the program, if the original was run by hand.
    """

    app: App
    original: Original
    queue: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    project: str = ""
    source: Source = Source()


def read_original(api: ClearMLApi, task_id: str) -> Original:
    """Read the task to clone.

    Raises:
        UserError: It is no task of clearml-deploy.
        ControlPlaneError: The server cannot be reached, or knows no such task.
    """
    task = find_task(api, task_id)
    app_name = app_of(task)
    if app_name not in APP_NAMES:
        entry_point = (task.get("script") or {}).get("entry_point") or "none"
        raise UserError(
            f'The task {task_id} ("{task.get("name")}") was not launched by clearml-deploy (its entry point is '
            f"{entry_point!r}, not -m apps.<app>). `clearml-deploy register` makes templates to clone."
        )
    return Original(task, app_name)


def parameters_of(original: Original) -> dict[str, str]:
    """The parameters of a task that are the user's, ``Section/name`` to value."""
    return {
        path: value
        for path, value in values_of(original.hyperparameters).items()
        if path.partition("/")[0] not in FOREIGN_SECTIONS
    }


def clone(request: Clone, api: ClearMLApi, warn: Callable[[str], None] = lambda text: None) -> str:
    """Clone a task with changes, validated first, and enqueue it; returns the new task's ID.

    What belongs to the original's run stays behind: its status, its endpoint, the key that it generated.

    Args:
        request: What to clone, and how.
        api: The server.
        warn: Gets what the user should know about how the parameters were read.

    Raises:
        ConfigurationError: All problems of the parameters; nothing was created.
        ControlPlaneError: No such queue, or the server refuses or cannot be reached.
    """
    hyperparameters = changed_hyperparameters(request, warn)
    queue_id = find_queue(api, request.queue)
    task = request.original.task
    is_of_template = is_template(task, request.app)
    name = instance_name(request.app) if is_of_template else str(task.get("name"))
    body = {
        "task": request.original.id,
        "new_task_name": request.name or name,
        "new_task_hyperparams": hyperparameters,
    }
    if request.project:
        body["new_project_name"] = request.project
    task_id = str(api.call("tasks", "clone", **body)["id"])
    if request.original.is_by_hand:
        script = task_fields(request.app, {}, request.source)["script"]
        api.call("tasks", "edit", task=task_id, script=script)
    enqueue_task(api, task_id, queue_id, request.queue)
    return task_id


def changed_hyperparameters(
    request: Clone, warn: Callable[[str], None] = lambda text: None
) -> Hyperparameters:
    """The hyperparameters that a clone gets (pure).

    Raises:
        ConfigurationError: The original's values and the changes do not make a configuration together.
    """
    own = request.original.hyperparameters
    settings = request.app.settings
    before = parameters_of(request.original)
    paths = {f"Model/{o.name}": o.path for o in settings.options(entry=False) if o.per_model}
    changes = {paths.get(path, path): value for path, value in request.changes.items()}
    values = {**before, **changes}
    problems = _unknown_to(request.original, before, changes)
    problems += _hidden_by_list(before, changes, set(paths.values()))
    try:
        for warning in load_settings(settings, values).warnings:
            warn(warning)
    except ConfigurationError as error:
        problems += [*error.problems, *_of_another_version(request.original)]
    if problems:
        raise ConfigurationError(problems)
    kept = {
        section: {name: dict(item) for name, item in items.items()}
        for section, items in own.items()
        if section not in ("Status", "properties")
    }
    described = by_section(parameter_items(settings, values))
    for path in changes:
        section, _, name = path.partition("/")
        item = described.get(section, {}).get(name)
        if item is not None:
            known = kept.setdefault(section, {}).get(name, {})
            kept[section][name] = {**item, **known, "value": item["value"]}
    version = own.get("properties", {}).get(VERSION_PROPERTY)
    if request.original.is_by_hand:
        version = version_item()
    return {**kept, "properties": {VERSION_PROPERTY: version}} if version else kept


def _unknown_to(
    original: Original, before: Mapping[str, str], changes: Mapping[str, Any]
) -> list[Problem]:
    """Changes that the program of an older task does not know."""
    version = version_of(original.hyperparameters)
    if not version or version == program_version():
        return []
    message = (
        f"the task {original.id} does not have it: it runs clearml-deploy {version}, and this is "
        f"{program_version()}. For a template: clearml-deploy register"
    )
    return [Problem(message, path=path) for path in changes if path not in before]


def _of_another_version(original: Original) -> list[Problem]:
    version = version_of(original.hyperparameters)
    if not version or version == program_version():
        return []
    message = (
        f"the task {original.id} was made by clearml-deploy {version}, and this is {program_version()}: bring a "
        "template up to date with clearml-deploy register; empty a value that is no longer known with "
        "--set Section/name="
    )
    return [Problem(message)]


def _hidden_by_list(
    before: Mapping[str, str], changes: Mapping[str, Any], per_model: Collection[str]
) -> list[Problem]:
    """Changes of the one model of the flat sections, where the original has a list of models."""
    if MODELS_PATH in changes or not before.get(MODELS_PATH, "").strip():
        return []
    message = (
        f"would have no effect, since the task lists its models in {MODELS_PATH}. Change that one, or empty it "
        f"(--set {MODELS_PATH}=) to describe the model in the section Model"
    )
    return [
        Problem(message, path=path)
        for path, value in changes.items()
        if path in per_model and str(value or "").strip()
    ]
