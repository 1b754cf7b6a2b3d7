"""When an instance is idle."""

from __future__ import annotations

import pytest

from common.runtime.idle import Activity, idle_seconds, instance_status, is_over_limit


def test_the_clock_starts_when_the_first_model_is_ready() -> None:
    loading = Activity(ready_at=None, last_request_end=None, in_flight=0)
    assert idle_seconds(loading, 1e6) == 0
    assert not is_over_limit(loading, 1e6, 0.001)
    assert instance_status(loading, 1e6) == "loading"
    assert idle_seconds(Activity(100, None, 0), 160) == 60


def test_idleness_counts_from_the_end_of_the_last_request() -> None:
    activity = Activity(ready_at=100, last_request_end=500, in_flight=0)
    assert idle_seconds(activity, 530) == 30
    assert instance_status(activity, 530) == "active"
    assert instance_status(activity, 561) == "idle"


def test_a_running_request_keeps_the_instance_active_however_long() -> None:
    activity = Activity(ready_at=100, last_request_end=100, in_flight=1)
    assert idle_seconds(activity, 1e6) == 0
    assert not is_over_limit(activity, 1e6, 1)
    assert instance_status(activity, 1e6) == "active"


@pytest.mark.parametrize("limit", [None, 0])
def test_no_limit_means_never(limit: float | None) -> None:
    assert not is_over_limit(Activity(0, 0, 0), 1e9, limit)


def test_the_limit_is_in_hours() -> None:
    activity = Activity(ready_at=0, last_request_end=0, in_flight=0)
    assert not is_over_limit(activity, 3599, 1)
    assert is_over_limit(activity, 3600, 1)
