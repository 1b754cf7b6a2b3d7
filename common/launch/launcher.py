"""Make the task of an instance and put it into a queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common.clearml.api import ClearMLApi
from common.errors import ConfigurationError, ControlPlaneError, Problem, ServerAwayError
from common.forms.entry import parameters_of_entry
from common.launch.definition import task_fields
from common.launch.project import ensure_project
from common.launch.queues import find_queue
from common.launch.source import Source
from common.options.loading import load_settings
from common.runtime.app import App


@dataclass(frozen=True)
class Launch:
    """What to launch and where.

    Attributes:
        app: The app.
        parameters: ``Section/name`` to value.
        queue: Name of the queue.
        project: Project, empty for one named after the app.
        name: Instance name, empty for one named after the app.
        source: Where the agent gets the program.
        container: Image for agents in Docker mode.
        container_arguments: Arguments for ``docker run``.
    """

    app: App
    parameters: Mapping[str, Any]
    queue: str
    source: Source
    project: str = ""
    name: str = ""
    container: str = ""
    container_arguments: str = ""


def launch(
    request: Launch, api: ClearMLApi, warn: Callable[[str], None] = lambda text: None
) -> str:
    """Validate, create the task with every parameter described, and enqueue it; returns its ID.

    Args:
        request: What to launch.
        api: The server.
        warn: Gets what the user should know about how the parameters were read.

    Raises:
        ConfigurationError: All problems of the parameters; nothing was created.
        ControlPlaneError: No such queue, or the server refuses or cannot be reached.
    """
    for warning in load_settings(request.app.settings, request.parameters).warnings:
        warn(warning)
    queue_id = find_queue(api, request.queue)
    project_id = ensure_project(api, request.project or request.app.title)
    fields = task_fields(
        request.app,
        request.parameters,
        request.source,
        container=request.container,
        container_arguments=request.container_arguments,
    )
    name = request.name or instance_name(request.app)
    task_id = create_task(api, name, project_id, fields)
    enqueue_task(api, task_id, queue_id, request.queue)
    return task_id


def launch_entry(
    app: App,
    entry: Mapping[str, Any],
    source: Source,
    api: ClearMLApi,
    *,
    container: str = "",
    container_arguments: str = "",
    warn: Callable[[str], None] = lambda text: None,
) -> str:
    """Launch what a form sends, as a server with application forms does; returns the task's ID.

    Args:
        app: The app.
        entry: ``{field_name: value, "models": [...]}``, with the instance's name, project and queue.
        source: Where the agent gets the program.
        api: The server.
        container: Image for agents in Docker mode.
        container_arguments: Arguments for ``docker run``.
        warn: Gets what the user should know about how the entry was read.

    Raises:
        ConfigurationError: All problems of the entry; nothing was created.
        ControlPlaneError: No such queue, or the server refuses or cannot be reached.
    """
    attributes, parameters = parameters_of_entry(app.settings, entry)
    if not attributes.queue:
        raise ConfigurationError([Problem("is required", title="Queue", path="queue")])
    request = Launch(
        app=app,
        parameters=parameters,
        queue=attributes.queue,
        source=source,
        project=attributes.project,
        name=attributes.name,
        container=container,
        container_arguments=container_arguments,
    )
    return launch(request, api, warn)


def instance_name(app: App) -> str:
    """The name of an instance that nobody gave one."""
    return f"{app.title} instance"


def create_task(api: ClearMLApi, name: str, project_id: str, fields: Mapping[str, Any]) -> str:
    """Create a draft task with the fields of `task_fields`; returns its ID.

    Raises:
        ControlPlaneError: The server refuses it, in its own words.
    """
    try:
        return str(api.call("tasks", "create", name=name, project=project_id, **fields)["id"])
    except ServerAwayError:
        raise
    except ControlPlaneError as error:
        raise ControlPlaneError(f'The task "{name}" could not be created: {error}') from error


def enqueue_task(api: ClearMLApi, task_id: str, queue_id: str, queue: str) -> None:
    """Put a task into a queue.

    Raises:
        ControlPlaneError: The server refuses it, in its own words; the task stays a draft.
    """
    try:
        api.call("tasks", "enqueue", task=task_id, queue=queue_id)
    except ControlPlaneError as error:
        raise type(error)(
            f'The task {task_id} was created, but not put into the queue "{queue}": {error}'
        ) from error
