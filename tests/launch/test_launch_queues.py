"""What a task in a queue waits for."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from common.launch.queues import in_words, interpret

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=timezone.utc)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


def worker(name: str, silent_s: float, task: str = "", queue: str = "q1") -> dict[str, Any]:
    running = {"task": {"id": task, "name": "its name"}} if task else {}
    queues = [{"id": queue, "name": "gpu"}]
    return {"id": name, "last_report_time": ago(silent_s), "queues": queues, **running}


def explained(task: str, waiting: dict[str, float], *workers: dict[str, Any]) -> str:
    entries = [{"task": name, "added": ago(seconds)} for name, seconds in waiting.items()]
    queue = {"id": "q1", "name": "gpu", "entries": entries}
    return interpret(queue, list(workers), NOW).explain(task)


def test_an_idle_agent_takes_the_next_task() -> None:
    assert explained("t1", {"t1": 0.5}, worker("w1", 3)) == ""
    # It was taken already.
    assert explained("t1", {}, worker("w1", 3, "t1")) == ""


def test_nobody_serves_the_queue() -> None:
    assert explained("t1", {"t1": 300}) == (
        'No agent serves the queue "gpu" now: the task waits for one '
        "(clearml-agent daemon --queue gpu). It has waited 5 min."
    )
    assert "has waited" not in explained("t1", {"t1": 0.2}, worker("w1", 1, queue="q2"))


def test_the_agent_that_is_gone_is_named() -> None:
    text = explained("t1", {"t1": 7200}, worker("w1", 9000), worker("w2", 3600))
    assert "The last one, w2, was seen 60 min ago. It has waited 2.0 h." in text


def test_busy_agents_and_tasks_before_are_counted() -> None:
    text = explained("t3", {"t1": 9, "t2": 8, "t3": 7}, worker("w1", 5, "t0"), worker("w2", 9000))
    assert text == (
        'The task waits in the queue "gpu": w1 runs t0; 2 tasks wait before it. It has waited 7 s.'
    )
    text = explained("t2", {"t1": 9, "t2": 1}, worker("w1", 5))
    assert text == 'The task waits in the queue "gpu": 1 task waits before it.'


@pytest.mark.parametrize(
    ("seconds", "words"), [(7, "7 s"), (600, "10 min"), (9000, "2.5 h"), (200000, "2 days")]
)
def test_durations_are_for_people(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_times_without_a_zone_are_the_servers_which_is_utc() -> None:
    entries = [{"task": "t1", "added": "2026-01-02T11:59:00.000000"}]
    state = interpret({"id": "q1", "name": "gpu", "entries": entries}, [], NOW)
    assert state.waiting == (("t1", 60.0),)
