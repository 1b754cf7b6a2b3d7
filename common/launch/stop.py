"""Stop a launched instance and wait for its end, whatever it is just going through."""

from __future__ import annotations

import time
from collections.abc import Callable

from common.clearml.api import ClearMLApi
from common.launch.follow import Followed, read_task

_POLL_S = 0.25
# An agent takes a task from its queue before it marks it as started: one that was stopped in between
# starts all the same, within this time.
_PULLED_S = 3.0


def stop_task(
    api: ClearMLApi,
    task_id: str,
    *,
    reason: str,
    timeout_s: float,
    on_state: Callable[[Followed], None] = lambda state: None,
) -> Followed:
    """Ask for a stop, again where the request got lost, and wait; returns the last state.

    An agent that has taken a task from its queue starts it even if it was stopped meanwhile, and a stop
    is only a word in the task's message, which others write too: it is asked for again until it holds.

    Args:
        api: The server.
        task_id: The task.
        reason: For the task's own record.
        timeout_s: How long to wait for the end; the state may then be another than ``ended``.
        on_state: Told of the task's state, several times a second.

    Raises:
        ControlPlaneError: The server refuses or cannot be reached.
    """
    deadline = time.monotonic() + timeout_s
    state = read_task(api, task_id)
    was_queued = state.task_status == "queued"
    ended_at: float | None = None
    while time.monotonic() < deadline and state.task_status != "created":
        on_state(state)
        if state.stage == "ended":
            ended_at = ended_at or time.monotonic()
            if not was_queued or time.monotonic() - ended_at > _PULLED_S:
                break
        elif not state.is_stopping:
            ended_at = None
            api.call("tasks", "stop", task=task_id, status_reason=reason)
        time.sleep(_POLL_S)
        state = read_task(api, task_id)
    return state
