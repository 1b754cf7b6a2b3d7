"""Make the task of an instance and put it into a queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.clearml.api import ClearMLApi
from common.clearml.parameters import parameter_items
from common.clearml.task import create_task, enqueue_task
from common.errors import ControlPlaneError
from common.launch.source import Source
from common.options.loading import load_settings
from common.runtime.app import App

# An agent reports every 30 s; a worker silent for longer than this is gone.
_WORKER_TIMEOUT_S = 600


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


def launch(request: Launch, api: ClearMLApi) -> str:
    """Validate, create the task with every parameter described, and enqueue it; returns its ID.

    Raises:
        ConfigurationError: All problems of the parameters; nothing was created.
        ControlPlaneError: No such queue, or the server refuses or cannot be reached.
    """
    load_settings(request.app.settings, request.parameters)
    check_queue(api, request.queue)
    source = request.source
    task_id = create_task(
        project=request.project or request.app.title,
        name=request.name or f"{request.app.title} instance",
        repository=source.repository,
        branch=source.branch,
        commit=source.commit,
        diff=source.diff,
        entry_point=f"-m apps.{request.app.name}",
        packages=source.packages,
        container=request.container,
        container_arguments=request.container_arguments,
    )
    api.call(
        "tasks",
        "edit_hyper_params",
        task=task_id,
        hyperparams=parameter_items(request.app.settings, request.parameters),
        replace_hyperparams="all",
    )
    enqueue_task(task_id, request.queue)
    return task_id


def check_queue(api: ClearMLApi, queue: str) -> None:
    """Refuse a queue that does not exist, naming those that do.

    Raises:
        ControlPlaneError: There is no such queue.
    """
    known = [str(row.get("name")) for row in api.call("queues", "get_all").get("queues", [])]
    if queue not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise ControlPlaneError(
            f'There is no queue "{queue}" on {api.host} (there are: {listed}). Create it in the ClearML UI '
            "or start an agent with --create-queue."
        )


def agents_of(api: ClearMLApi, queue: str) -> list[str]:
    """IDs of the workers that serve a queue now."""
    workers = api.call("workers", "get_all", last_seen=_WORKER_TIMEOUT_S).get("workers", [])
    return [
        str(worker["id"])
        for worker in workers
        if any(entry.get("name") == queue for entry in worker.get("queues") or [])
    ]
