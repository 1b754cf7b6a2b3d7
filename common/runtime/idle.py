"""When an instance is idle, and for how long: pure decisions on a clock's readings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

InstanceStatus = Literal["loading", "active", "idle", "stopped", "failed"]
# A request within the last minute makes an instance "active" in its dashboard.
_ACTIVE_S = 60.0


@dataclass(frozen=True)
class Activity:
    """What idleness is judged by; times in seconds of one monotonic clock.

    Attributes:
        ready_at: When the first model became ready; None before.
        last_request_end: When the last request of any model ended; None before the first one.
        in_flight: Requests running or waiting now.
    """

    ready_at: float | None
    last_request_end: float | None
    in_flight: int


def idle_seconds(activity: Activity, now: float) -> float:
    """Seconds since the last activity: 0 while loading and while a request runs."""
    if activity.ready_at is None or activity.in_flight > 0:
        return 0.0
    return max(0.0, now - max(activity.ready_at, activity.last_request_end or 0.0))


def is_over_limit(activity: Activity, now: float, limit_hours: float | None) -> bool:
    """Whether the instance has to shut down; no limit or 0 means never."""
    if not limit_hours or activity.ready_at is None or activity.in_flight > 0:
        return False
    return idle_seconds(activity, now) >= limit_hours * 3600.0


def instance_status(activity: Activity, now: float) -> InstanceStatus:
    """Loading, active (a request now or within the last minute) or idle."""
    if activity.ready_at is None:
        return "loading"
    if activity.in_flight > 0:
        return "active"
    last = activity.last_request_end
    return "active" if last is not None and now - last < _ACTIVE_S else "idle"
