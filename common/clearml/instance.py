"""What an instance writes to its own ClearML task: status, user properties, scalars, and its end.

All of it goes through the outbox: no caller ever waits for the server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from common.clearml.api import ClearMLApi
from common.clearml.outbox import Outbox
from common.clearml.task import OpenTask
from common.errors import ServerAwayError

STATUS_SECTION = "Status"
# Shown in the task table of the open-source UI, which can sort by user properties but not by parameters.
_PROPERTIES = frozenset({"status", "idle_hours", "endpoint"})

Ending = Literal["completed", "stopped", "failed"]


class InstanceTask:
    """The instance's own task, written to in the background."""

    def __init__(self, task: OpenTask, api: ClearMLApi, warn: Callable[[str], None]) -> None:
        self._task = task
        self._api = api
        self._outbox = Outbox(warn)
        self._lock = threading.Lock()
        self._status: dict[str, str] = {}
        self._unsent: dict[str, str] = {}
        self._started = time.monotonic()
        self._iteration = 0

    @property
    def id(self) -> str:
        """The ClearML task's ID."""
        return self._task.id

    @property
    def name(self) -> str:
        """The instance's name."""
        return self._task.name

    @property
    def mode(self) -> Literal["agent", "server", "offline"]:
        """How this process was started."""
        return self._task.mode

    @property
    def web_url(self) -> str:
        """The task's page in the ClearML UI."""
        return self._task.web_url

    def reset_status(self) -> None:
        """Start with a clean ``Status`` section: a clone or a re-run brings along the old one."""
        with self._lock:
            self._status = {"status": "loading"}
            self._unsent = {}
        items = [_item(STATUS_SECTION, "status", "loading")]
        self._outbox.put("reset-status", lambda: self._write_items(items, "section"))
        if self._task.mode != "offline":
            first = {**dict.fromkeys(_PROPERTIES, ""), "status": "loading"}
            properties = [_item("properties", name, value) for name, value in first.items()]
            self._outbox.put("reset-properties", lambda: self._write_items(properties, "none"))

    def set_status(self, values: Mapping[str, str]) -> None:
        """Set ``Status/*``; only what changed is sent, and only the newest state while the server is away."""
        with self._lock:
            changed = {n: value for n, value in values.items() if self._status.get(n) != value}
            if not changed:
                return
            self._status.update(changed)
            self._unsent.update(changed)
        self._outbox.put("status", self._send_status)

    def write_parameters(self, items: Iterable[Mapping[str, str]]) -> None:
        """Add hyperparameters with their types and descriptions (a task that no form has filled)."""
        listed = [dict(item) for item in items]
        self._outbox.put("parameters", lambda: self._write_items(listed, "none"))

    def report_scalars(self, points: Iterable[tuple[str, str, float]]) -> None:
        """Report (title, series, value) points of one moment; the iteration is seconds since the start."""
        listed = list(points)
        self._iteration = max(self._iteration + 1, int(time.monotonic() - self._started))
        iteration = self._iteration

        def job() -> None:
            for title, series, value in listed:
                self._task.report_scalar(title, series, value, iteration)

        self._outbox.put("", job)

    def ping(self) -> None:
        """Tell the server that the task lives, for watchdogs that look at its last update."""
        if self._task.mode != "offline":
            self._outbox.put("ping", lambda: _drop(self._api.call("tasks", "ping", task=self.id)))

    def finish(self, ending: Ending, reason: str, message: str, timeout_s: float) -> bool:
        """Send what is left and mark the task; bounded in time.

        Under an agent a completed task is left to the agent, which marks it when this process leaves
        with 0. The rest is marked here: for the reason's sake, and since the agent may be gone.

        Returns:
            False when the server did not take it all in time.
        """
        self._outbox.put("sdk-flush", self._task.flush)
        if self._task.mode == "offline":
            self._outbox.put("close", self._task.close_offline)
        elif self._task.mode == "server" or ending != "completed":
            self._outbox.put("mark", lambda: self._mark(ending, reason, message))
        return self._outbox.close(timeout_s)

    def _mark(self, ending: Ending, reason: str, message: str) -> None:
        self._api.call(
            "tasks", ending, task=self.id, status_reason=reason, status_message=message, force=True
        )

    def _send_status(self) -> None:
        with self._lock:
            batch, self._unsent = self._unsent, {}
        items = [_item(STATUS_SECTION, name, value) for name, value in batch.items()]
        if self._task.mode != "offline":
            items += [_item("properties", n, batch[n]) for n in _PROPERTIES if n in batch]
        try:
            self._write_items(items, "none")
        except ServerAwayError:
            with self._lock:
                self._unsent = {**batch, **self._unsent}
            raise

    def _write_items(self, items: list[dict[str, str]], replace: str) -> None:
        if self._task.mode == "offline":
            self._task.set_offline_parameters(
                {f"{i['section']}/{i['name']}": i["value"] for i in items}
            )
            return
        self._api.call(
            "tasks",
            "edit_hyper_params",
            task=self.id,
            hyperparams=items,
            replace_hyperparams=replace,
            force=True,  # the parameters of a running task are locked without it
        )


def _drop(_: object) -> None:
    """Turn a call into a job: its answer does not matter."""


def _item(section: str, name: str, value: str) -> dict[str, str]:
    item = {"section": section, "name": name, "value": value}
    return item if section == "properties" else {**item, "type": "str"}
