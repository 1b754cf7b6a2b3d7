"""Template tasks: one draft per app, with every parameter described, for people to clone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from common.clearml.api import ClearMLApi
from common.errors import ControlPlaneError
from common.launch.definition import TASK_TYPE, app_name_of, task_fields
from common.launch.launcher import create_task
from common.launch.project import ensure_project
from common.launch.source import Source
from common.runtime.app import App

DEFAULT_PROJECT = "clearml-deploy"
# A runtime property: no clone inherits it, unlike a tag.
_MARKER = "clearml_deploy_template"


@dataclass(frozen=True)
class Registered:
    """A template as it is now.

    Attributes:
        app: The app's name.
        task_id: The template's ID.
        outcome: What became of it; ``reset``: somebody had run it itself, and it is a draft again.
    """

    app: str
    task_id: str
    outcome: Literal["created", "updated", "reset"]


def register(
    api: ClearMLApi,
    app: App,
    source: Source,
    *,
    project: str = DEFAULT_PROJECT,
    container: str = "",
    container_arguments: str = "",
) -> Registered:
    """Create the template of an app in a project, or bring the one that is there up to date.

    Args:
        api: The server.
        app: The app.
        source: Where the agents of its clones get the program.
        project: The project, created if need be.
        container: Image for agents in Docker mode.
        container_arguments: Arguments for ``docker run``.

    Raises:
        ControlPlaneError: The template is being run itself, or the server refuses or cannot be reached.
    """
    project_id = ensure_project(api, project)
    fields = task_fields(
        app, {}, source, container=container, container_arguments=container_arguments
    )
    found = _find(api, app, project_id)
    outcome: Literal["created", "updated", "reset"] = "created"
    if found is None:
        task_id = create_task(api, template_name(app), project_id, fields)
    else:
        task_id = str(found["id"])
        outcome = _make_draft(api, found)
        # What people wrote on it stays: tags of theirs, and the description.
        fields["tags"] = list(dict.fromkeys([*fields["tags"], *(found.get("tags") or [])]))
        del fields["comment"]
    # Also of a new one: its marker cannot be given when it is created.
    api.call("tasks", "edit", task=task_id, runtime={_MARKER: app.name}, **fields)
    return Registered(app.name, task_id, outcome)


def template_name(app: App) -> str:
    """The name that a template gets; people may give it another."""
    return f"{app.title} template"


def is_template(task: Mapping[str, Any], app: App) -> bool:
    """Whether a task is the template of an app (pure).

    By its marker, or, since a reset takes that away, by its name; a clone has neither, and a parent.
    """
    is_marked = (task.get("runtime") or {}).get(_MARKER) == app.name
    is_named = task.get("name") == template_name(app) and not task.get("parent")
    return app_name_of(task) == app.name and (is_marked or is_named)


def _find(api: ClearMLApi, app: App, project_id: str) -> dict[str, Any] | None:
    """The template of an app in a project: the oldest, if somebody made a second one."""
    tasks = api.call(
        "tasks",
        "get_all",
        project=[project_id],
        type=[TASK_TYPE],
        system_tags=["-archived"],
        only_fields=["id", "name", "status", "parent", "tags", "runtime", "script.entry_point"],
        order_by=["created"],
    ).get("tasks", [])
    return next((task for task in tasks if is_template(task, app)), None)


def _make_draft(api: ClearMLApi, task: Mapping[str, Any]) -> Literal["updated", "reset"]:
    status = str(task.get("status"))
    if status == "created":
        return "updated"
    what = f'The template {task["id"]} ("{task.get("name")}")'
    if status in ("queued", "in_progress"):
        raise ControlPlaneError(
            f"{what} is {status}: somebody enqueued it instead of a clone of it. Stop it "
            f"(clearml-deploy stop {task['id']}), or wait for its end, and register again."
        )
    if status in ("published", "publishing"):
        raise ControlPlaneError(
            f"{what} is published and can no longer change. Archive it in the ClearML UI, and register again."
        )
    api.call("tasks", "reset", task=task["id"])
    return "reset"
