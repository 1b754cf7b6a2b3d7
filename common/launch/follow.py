"""Follow a launched task until it serves or ends, as a stream of states a display can show."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from common.clearml.api import ClearMLApi
from common.errors import ControlPlaneError, RefusedError

Stage = Literal["queued", "picked up", "downloading", "loading", "ready", "ended"]
_POLL_S = 0.1
# How servers answer for an ID that is none, and for one that they do not show.
_NOT_FOR_YOU = (400, 401, 403, 404)


@dataclass(frozen=True)
class Followed:
    """A task at one moment.

    Attributes:
        stage: Where it is on its way.
        task_status: ClearML's own status.
        text: Progress in words, such as ``downloading x: 45.1 of 94.0 MB, 12.3 MB/s``.
        reason: Why it ended, when it did.
        status: The instance's ``Status/*``.
        models: The models and their endpoints.
        given_key: The key that the user gave in General/api_key, if any.
        is_stopping: Somebody has asked for its end.
    """

    stage: Stage
    task_status: str
    text: str = ""
    reason: str = ""
    status: dict[str, str] = field(default_factory=dict)
    models: tuple[dict[str, str], ...] = ()
    given_key: str = field(default="", repr=False)
    is_stopping: bool = False


def read_task(api: ClearMLApi, task_id: str) -> Followed:
    """Read a task's state once.

    Raises:
        ControlPlaneError: The server cannot be reached, or knows no such task.
    """
    return interpret(find_task(api, task_id))


def find_task(api: ClearMLApi, task_id: str) -> dict[str, Any]:
    """A task as the server gives it.

    Raises:
        ControlPlaneError: There is no such task, it may not be read, or the server cannot be reached.
    """
    try:
        task: dict[str, Any] = api.call("tasks", "get_by_id", task=task_id)["task"]
    except RefusedError as error:
        if error.status not in _NOT_FOR_YOU:
            raise
        raise ControlPlaneError(
            f"There is no task {task_id} on {api.host}, or you may not read it: `clearml-deploy list --all` "
            "shows those that you may."
        ) from error
    return task


def interpret(task: dict[str, Any]) -> Followed:
    """Tell the stage of an instance from its task as the server gives it (pure)."""
    parameters = task.get("hyperparams") or {}
    section = parameters.get("Status") or {}
    general = parameters.get("General") or {}
    # The legacy form has a field of its own for the same.
    given = ((general.get(name) or {}).get("value") for name in ("api_key", "fixed_api_access_key"))
    given_key = str(next(filter(None, given), ""))
    status = {name: str(item.get("value") or "") for name, item in section.items()}
    if status.get("session", task.get("id")) != task.get("id"):
        status = {}  # a clone carries its original's until it starts
    models = _read_models(status.get("models", ""))
    task_status = str(task.get("status") or "")
    busy = [model for model in models if model.get("progress")]
    steps = dict.fromkeys(model["progress"] for model in busy)
    if len(steps) > 1 or len(busy) < len(models):
        text = "; ".join(f"{model['name']}: {model['progress']}" for model in busy)
    else:
        text = next(iter(steps), "")  # one model, or the same for all
    stage: Stage
    if task_status in ("created", "queued"):
        stage = "queued"
    elif task_status != "in_progress":
        stage = "ended"
    elif any(model.get("status") == "ready" for model in models):
        stage = "ready"
    elif any(step.startswith("downloading") for step in steps):
        stage = "downloading"
    elif models:
        stage = "loading"
    else:
        stage = "picked up"
    reason = ""
    if stage == "ended":  # the instance's own words, which an agent cannot replace with its own
        own = status.get("error") or status.get("stop_reason")
        reason = own or str(task.get("status_reason") or "")
    is_stopping = "stopping" in str(task.get("status_message") or "")
    return Followed(stage, task_status, text, reason, status, models, given_key, is_stopping)


def _read_models(text: str) -> tuple[dict[str, str], ...]:
    """The models as the instance wrote them; none if somebody has edited them into something else."""
    try:
        rows = json.loads(text) if text else []
    except ValueError:
        return ()
    if not isinstance(rows, list):
        return ()
    return tuple(row for row in rows if isinstance(row, dict) and {"name", "url"} <= row.keys())


def follow(api: ClearMLApi, task_id: str, *, poll_s: float = _POLL_S) -> Iterator[Followed]:
    """Yield the task's state whenever it changes, until it is ready or has ended."""
    last: Followed | None = None
    while True:
        now = read_task(api, task_id)
        if now != last:
            yield now
            last = now
        if now.stage in ("ready", "ended"):
            return
        time.sleep(poll_s)
