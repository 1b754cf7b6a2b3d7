"""A queue and the agents that serve it: whether a task in it can start, and what it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from common.clearml.api import ClearMLApi
from common.errors import ControlPlaneError

# An agent reports every 30 s; a worker silent for longer than this is gone.
_WORKER_TIMEOUT_S = 600
# How far back to look for an agent that is gone; a server may forget it earlier.
_REMEMBERED_S = 30 * 24 * 3600


@dataclass(frozen=True)
class Agent:
    """A worker that serves, or served, a queue.

    Attributes:
        id: Its name.
        silent_s: Seconds since its last report.
        task: What it runs, empty when it is idle or may not be seen.
    """

    id: str
    silent_s: float
    task: str = ""


@dataclass(frozen=True)
class QueueState:
    """A queue at one moment.

    Attributes:
        id: Its ID.
        name: Its name.
        waiting: Tasks in it, the next one first, with the seconds that each has waited.
        agents: The agents that serve it now.
        gone: The agent that served it last, if none does now and the server remembers it.
    """

    id: str
    name: str
    waiting: tuple[tuple[str, float], ...]
    agents: tuple[Agent, ...]
    gone: Agent | None = None

    def explain(self, task_id: str) -> str:
        """Say what a task in this queue waits for; empty when an agent should take it next."""
        waited = dict(self.waiting)
        since = f" It has waited {in_words(waited[task_id])}." if waited.get(task_id, 0) > 1 else ""
        if not self.agents:
            last = (
                f" The last one, {self.gone.id}, was seen {in_words(self.gone.silent_s)} ago."
                if self.gone
                else ""
            )
            return (
                f'No agent serves the queue "{self.name}" now: the task waits for one '
                f"(clearml-agent daemon --queue {self.name}).{last}{since}"
            )
        before = [task for task, _ in self.waiting]
        if task_id not in before:
            return ""
        place = before.index(task_id)
        if place == 0 and any(not agent.task for agent in self.agents):
            return ""
        running = "; ".join(f"{agent.id} runs {agent.task}" for agent in self.agents if agent.task)
        ahead = f"{place} {'task waits' if place == 1 else 'tasks wait'} before it" if place else ""
        parts = "; ".join(filter(None, [running, ahead]))
        return f'The task waits in the queue "{self.name}": {parts}.{since}'


def read_queues(api: ClearMLApi) -> dict[str, str]:
    """Name to ID of every queue."""
    rows = api.call("queues", "get_all", only_fields=["id", "name"]).get("queues", [])
    return {str(row.get("name")): str(row["id"]) for row in rows}


def find_queue(api: ClearMLApi, name: str) -> str:
    """The ID of a queue.

    Raises:
        ControlPlaneError: There is no such queue; names those that there are.
    """
    known = read_queues(api)
    if name not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise ControlPlaneError(
            f'There is no queue "{name}" on {api.host} (there are: {listed}). Create it in the ClearML UI '
            "or start an agent with --create-queue."
        )
    return known[name]


def read_queue(api: ClearMLApi, queue_id: str) -> QueueState:
    """A queue, what waits in it, and who serves it.

    Raises:
        ControlPlaneError: There is no such queue, or the server cannot be reached.
    """
    queue = api.call("queues", "get_by_id", queue=queue_id)["queue"]
    workers = api.call("workers", "get_all", last_seen=_REMEMBERED_S).get("workers", [])
    return interpret(queue, workers, datetime.now(timezone.utc))


def interpret(queue: Mapping[str, Any], workers: list[dict[str, Any]], now: datetime) -> QueueState:
    """Tell a queue's state from what the server gives (pure)."""
    serving = [
        Agent(
            str(worker["id"]),
            _seconds_since(worker.get("last_report_time"), now),
            str((worker.get("task") or {}).get("id") or ""),
        )
        for worker in workers
        if any(entry.get("id") == queue["id"] for entry in worker.get("queues") or [])
    ]
    agents = tuple(agent for agent in serving if agent.silent_s <= _WORKER_TIMEOUT_S)
    gone = min(serving, key=lambda agent: agent.silent_s, default=None)
    return QueueState(
        id=str(queue["id"]),
        name=str(queue.get("name")),
        waiting=tuple(
            (str(entry["task"]), _seconds_since(entry.get("added"), now))
            for entry in queue.get("entries") or []
        ),
        agents=agents,
        gone=None if agents else gone,
    )


def in_words(seconds: float) -> str:
    """A duration for people: ``45 s``, ``12 min``, ``3.5 h``, ``2 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _seconds_since(time: Any, now: datetime) -> float:
    if not time:
        return 0.0
    then = datetime.fromisoformat(str(time).replace("Z", "+00:00"))
    then = then if then.tzinfo else then.replace(tzinfo=timezone.utc)
    return max((now - then).total_seconds(), 0.0)
