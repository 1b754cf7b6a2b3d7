"""The status machine of a task: what each call may do in each status, as pure functions.

The table was read off the open-source server (API 2.34) cell by cell. "Force" opens every cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from common.local_server.wire import CallError

CREATED: Final = "created"
QUEUED: Final = "queued"
IN_PROGRESS: Final = "in_progress"
STOPPED: Final = "stopped"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CLOSED: Final = "closed"
PUBLISHED: Final = "published"

STATUSES: Final = (
    CREATED,
    QUEUED,
    IN_PROGRESS,
    STOPPED,
    COMPLETED,
    FAILED,
    CLOSED,
    PUBLISHED,
)

#: From a status to those that may follow it without force.
TRANSITIONS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        CREATED: frozenset({QUEUED, IN_PROGRESS}),
        QUEUED: frozenset({CREATED, IN_PROGRESS, STOPPED}),
        IN_PROGRESS: frozenset({STOPPED, FAILED, COMPLETED, CREATED}),
        STOPPED: frozenset({IN_PROGRESS, QUEUED, COMPLETED, FAILED, CLOSED, PUBLISHED, CREATED}),
        COMPLETED: frozenset({IN_PROGRESS, PUBLISHED, CREATED}),
        FAILED: frozenset({QUEUED, STOPPED, PUBLISHED, CREATED}),
        CLOSED: frozenset({STOPPED, FAILED, PUBLISHED, CREATED}),
        PUBLISHED: frozenset(),
    }
)

#: Statuses in which results (artifacts, models, runtime) may still be added.
OPEN_FOR_RESULTS: Final = frozenset({CREATED, QUEUED, IN_PROGRESS})

STOPPING_MESSAGE: Final = "stopping"

#: A worker that has not reported for this long is taken for dead by a stop. Seconds.
WORKER_ALIVE_S: Final = 600.0


def check_transition(current: str, wanted: str, *, force: bool) -> None:
    """Refuse a change of status that the table does not allow (400/110).

    Raises:
        CallError: `wanted` may not follow `current` without force.
    """
    if force or current == wanted or wanted in TRANSITIONS.get(current, frozenset()):
        return
    raise CallError(
        110,
        "Invalid task status (Changing status from"
        f" {current} to {wanted} is not allowed; use force)",
        current_status=current,
        new_status=wanted,
    )


def check_enqueue(current: str, *, force: bool) -> None:
    """Refuse to enqueue a task twice (400/706, force or not) or out of a wrong status (400/110)."""
    if current == QUEUED:
        raise CallError(706, "Task already queued")
    check_transition(current, QUEUED, force=force)


def check_open(current: str, *, force: bool, wanted: frozenset[str] = OPEN_FOR_RESULTS) -> None:
    """Refuse a change of a task's contents in a status that is not open for it (400/110)."""
    if not force and current not in wanted:
        raise CallError(
            110,
            f"Invalid task status (task is {current}, allowed: {', '.join(sorted(wanted))})",
            current_status=current,
        )


def check_edit_parameters(current: str, sections: frozenset[str], *, force: bool) -> None:
    """Refuse to edit hyperparameters in a wrong status.

    User properties (section ``properties``) may always change, all else while the task is created,
    and while it is queued or running by force.
    """
    if sections <= {"properties"}:
        return
    allowed = OPEN_FOR_RESULTS if force else frozenset({CREATED})
    check_open(current, force=False, wanted=allowed)


@dataclass(frozen=True)
class StopPlan:
    """What a stop request does: the next status, or only the word to the worker."""

    status: str
    message: str | None


def plan_stop(
    current: str,
    *,
    force: bool,
    is_development: bool,
    has_worker: bool,
    idle_s: float,
) -> StopPlan:
    """Decide between an immediate stop and asking the worker.

    Args:
        current: The task's status.
        force: Given in the call.
        is_development: It carries the `development` tag: run by hand, no agent will act.
        has_worker: A worker has reported the task.
        idle_s: Seconds since the task's last update.

    Raises:
        CallError: The task can not be stopped in its status.
    """
    check_transition(current, STOPPED, force=force)
    is_watched = has_worker and idle_s < WORKER_ALIVE_S and not is_development
    if current == IN_PROGRESS and is_watched:
        return StopPlan(status=IN_PROGRESS, message=STOPPING_MESSAGE)
    return StopPlan(status=STOPPED, message=None)


def status_after_dequeue(current: str, enqueued_from: str | None, wanted: str | None) -> str:
    """The status a dequeue leaves behind; dequeue itself never fails.

    An agent dequeues with ``new_status=in_progress`` after pulling; without it a queued or running
    task falls back to the status it was enqueued from.
    """
    if wanted:
        return wanted
    if current in (QUEUED, IN_PROGRESS):
        return enqueued_from or CREATED
    return current


def check_delete(current: str, *, force: bool, is_archived: bool) -> None:
    """Refuse to delete a task that has run, unless it is archived or forced (400/123)."""
    if current != CREATED and not force and not is_archived:
        raise CallError(123, f"Task can not be deleted unless force is set (status {current})")
