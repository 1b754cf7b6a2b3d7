"""The status machine against the table read off the open-source server."""

from __future__ import annotations

import pytest

from common.local_server.task_status import (
    STATUSES,
    check_delete,
    check_edit_parameters,
    check_enqueue,
    check_transition,
    plan_stop,
    status_after_dequeue,
)
from common.local_server.wire import CallError

# One row per status: those that may follow without force. Written out apart from the code's table.
ALLOWED = {
    "created": "queued in_progress",
    "queued": "created in_progress stopped",
    "in_progress": "stopped failed completed created",
    "stopped": "in_progress queued completed failed closed published created",
    "completed": "in_progress published created",
    "failed": "queued stopped published created",
    "closed": "stopped failed published created",
    "published": "",
}
CELLS = [
    (current, wanted, wanted == current or wanted in ALLOWED[current].split())
    for current in STATUSES
    for wanted in STATUSES
]


@pytest.mark.parametrize(("current", "wanted", "is_allowed"), CELLS)
def test_transition_follows_the_table(current: str, wanted: str, is_allowed: bool) -> None:
    check_transition(current, wanted, force=True)
    if is_allowed:
        check_transition(current, wanted, force=False)
    else:
        with pytest.raises(CallError) as caught:
            check_transition(current, wanted, force=False)
        assert (caught.value.status, caught.value.subcode) == (400, 110)


@pytest.mark.parametrize("force", [False, True])
def test_enqueue_refuses_a_queued_task_even_by_force(force: bool) -> None:
    with pytest.raises(CallError) as caught:
        check_enqueue("queued", force=force)
    assert caught.value.subcode == 706


@pytest.mark.parametrize("status", ["in_progress", "completed", "published"])
def test_enqueue_out_of_a_wrong_status_needs_force(status: str) -> None:
    with pytest.raises(CallError) as caught:
        check_enqueue(status, force=False)
    assert caught.value.subcode == 110
    check_enqueue(status, force=True)


@pytest.mark.parametrize(
    ("current", "enqueued_from", "wanted", "after"),
    [
        ("queued", "created", None, "created"),
        ("queued", "stopped", None, "stopped"),
        ("queued", "created", "in_progress", "in_progress"),
        ("in_progress", "created", None, "created"),
        ("in_progress", None, None, "created"),
        ("in_progress", "created", "in_progress", "in_progress"),
        ("completed", "created", None, "completed"),
    ],
)
def test_dequeue_leaves_the_status_it_should(
    current: str, enqueued_from: str | None, wanted: str | None, after: str
) -> None:
    assert status_after_dequeue(current, enqueued_from, wanted) == after


@pytest.mark.parametrize(
    ("current", "is_development", "has_worker", "idle_s", "status", "message"),
    [
        ("in_progress", False, True, 5.0, "in_progress", "stopping"),
        ("in_progress", False, True, 700.0, "stopped", None),
        ("in_progress", False, False, 5.0, "stopped", None),
        ("in_progress", True, True, 5.0, "stopped", None),
        ("queued", False, False, 5.0, "stopped", None),
        ("queued", False, True, 5.0, "stopped", None),
    ],
)
def test_stop_asks_a_live_worker_and_else_stops_at_once(
    current: str,
    is_development: bool,
    has_worker: bool,
    idle_s: float,
    status: str,
    message: str | None,
) -> None:
    plan = plan_stop(
        current,
        force=False,
        is_development=is_development,
        has_worker=has_worker,
        idle_s=idle_s,
    )
    assert (plan.status, plan.message) == (status, message)


def test_stop_of_a_created_task_is_refused() -> None:
    with pytest.raises(CallError) as caught:
        plan_stop("created", force=False, is_development=False, has_worker=False, idle_s=0.0)
    assert caught.value.subcode == 110


@pytest.mark.parametrize("status", STATUSES)
def test_user_properties_may_change_in_every_status(status: str) -> None:
    check_edit_parameters(status, frozenset({"properties"}), force=False)


@pytest.mark.parametrize(
    ("status", "force", "is_allowed"),
    [
        ("created", False, True),
        ("queued", False, False),
        ("queued", True, True),
        ("in_progress", True, True),
        ("in_progress", False, False),
        ("completed", True, False),
        ("published", True, False),
    ],
)
def test_parameters_change_only_while_the_task_is_open(
    status: str, force: bool, is_allowed: bool
) -> None:
    sections = frozenset({"General", "properties"})
    if is_allowed:
        check_edit_parameters(status, sections, force=force)
    else:
        with pytest.raises(CallError, match="Invalid task status"):
            check_edit_parameters(status, sections, force=force)


@pytest.mark.parametrize(
    ("status", "force", "is_archived", "is_allowed"),
    [
        ("created", False, False, True),
        ("completed", False, False, False),
        ("completed", True, False, True),
        ("completed", False, True, True),
    ],
)
def test_delete_needs_force_once_the_task_has_run(
    status: str, force: bool, is_archived: bool, is_allowed: bool
) -> None:
    if is_allowed:
        check_delete(status, force=force, is_archived=is_archived)
    else:
        with pytest.raises(CallError) as caught:
            check_delete(status, force=force, is_archived=is_archived)
        assert caught.value.subcode == 123
