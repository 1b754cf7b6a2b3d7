"""What an instance writes to its own ClearML task: status, user properties, points, plots, its end.

All of it goes through the outbox: no caller ever waits for the server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from common.clearml.api import ClearMLApi
from common.clearml.events import EventBacklog, Point
from common.clearml.model_endpoints import EndpointEntry, ModelEndpoints
from common.clearml.outbox import Outbox
from common.clearml.task import OpenTask
from common.errors import ControlPlaneError, RefusedError

STATUS_SECTION = "Status"
# In the task table of the open-source UI, which can sort by user properties but not by parameters.
# Those of ``Status/*`` with these names are copied; numbers are stored as such.
_COPIED = frozenset({"status", "idle_hours", "endpoint", "last_action"})
PROPERTIES = ("status", "idle_hours", "endpoint", "last_action", "models_ready", "requests")
_PROPERTY_TYPES = {"idle_hours": "float", "requests": "int"}
# Of the time that there is for the end.
_SDK_FLUSH_S = 3.0

Ending = Literal["completed", "stopped", "failed"]


class InstanceTask:
    """The instance's own task, written to in the background."""

    def __init__(
        self,
        task: OpenTask,
        api: ClearMLApi,
        warn: Callable[[str], None],
        debug: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._task = task
        self._api = api
        self._warn = warn
        self._outbox = Outbox(warn)
        self._lock = threading.Lock()
        # By (section, name): what the task has, and what it is still to get.
        self._written: dict[tuple[str, str], str] = {}
        self._unsent: dict[tuple[str, str], str] = {}
        self._events = EventBacklog()
        self._endpoints = ModelEndpoints(api, debug)

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
        first = {**dict.fromkeys(PROPERTIES, ""), "status": "loading"}
        with self._lock:
            self._unsent = {}
            self._written = {("properties", name): value for name, value in first.items()}
            self._written[STATUS_SECTION, "status"] = "loading"
        items = [_item(STATUS_SECTION, "status", "loading")]
        self._outbox.put("reset-status", lambda: self._write_items(items, "section"))
        if self._task.mode != "offline":
            properties = [_item("properties", name, value) for name, value in first.items()]
            self._outbox.put("reset-properties", lambda: self._write_items(properties, "none"))

    def set_status(self, values: Mapping[str, str]) -> None:
        """Set ``Status/*``; only what changed is sent, and only the newest state while the server is away."""
        wanted = {(STATUS_SECTION, name): value for name, value in values.items()}
        wanted |= {("properties", n): value for n, value in values.items() if n in _COPIED}
        self._write_changed(wanted)

    def set_properties(self, values: Mapping[str, str]) -> None:
        """Set user properties, which the UI's tables can show and sort by; as `set_status`."""
        self._write_changed({("properties", name): value for name, value in values.items()})

    def _write_changed(self, wanted: Mapping[tuple[str, str], str]) -> None:
        with self._lock:
            changed = {k: v for k, v in wanted.items() if self._written.get(k) != v}
            if not changed:
                return
            self._written.update(changed)
            self._unsent.update(changed)
        self._outbox.put("status", self._send_status)

    def write_parameters(self, items: Iterable[Mapping[str, str]]) -> None:
        """Add hyperparameters with their types and descriptions (a task that no form has filled)."""
        listed = [dict(item) for item in items]
        self._outbox.put("parameters", lambda: self._write_items(listed, "none"))

    def report_scalars(self, points: Iterable[Point]) -> None:
        """Report (title, series, value) points of this moment; the iteration is seconds since the start.

        While the server is away they are kept with their moment and sent when it is back, in order.
        """
        if self._task.mode == "offline":
            listed = list(points)
            iteration = self._events.add(())
            self._outbox.put("", lambda: self._report_offline(listed, iteration))
            return
        self._events.add(points)
        self._outbox.put("events", self._send_events)

    def report_plot(self, title: str, series: str, figure: Mapping[str, Any]) -> None:
        """Report a plot, a Plotly figure; it takes the place of the one of the same name."""
        if self._task.mode == "offline":
            self._outbox.put(
                f"plot {title}/{series}", lambda: self._task.report_plot(title, series, figure)
            )
            return
        self._events.add_plot(title, series, json.dumps(figure))
        self._outbox.put("events", self._send_events)

    def set_endpoints(self, entries: Iterable[EndpointEntry]) -> None:
        """Have the server's Model Endpoints table show these and no others of this instance."""
        if self._task.mode != "offline" and self._endpoints.is_supported:
            self._endpoints.want(entries)
            self._outbox.put("endpoints", self._endpoints.send)

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
        self.set_endpoints(())
        self._outbox.put("sdk-flush", lambda: self._task.flush(_SDK_FLUSH_S))
        if self._task.mode == "offline":
            self._outbox.put("close", self._task.close_offline)
        elif self._task.mode == "server" or ending != "completed":
            self._outbox.put("mark", lambda: self._mark(ending, reason, message))
        return self._outbox.close(timeout_s)

    def _mark(self, ending: Ending, reason: str, message: str) -> None:
        self._api.call(
            "tasks", ending, task=self.id, status_reason=reason, status_message=message, force=True
        )

    def _report_offline(self, points: Iterable[Point], iteration: int) -> None:
        for title, series, value in points:
            self._task.report_scalar(title, series, value, iteration)

    def _send_events(self) -> None:
        try:
            self._events.send(self.id, self._api.post_events)
        except ControlPlaneError as error:
            if _is_for_good(error):
                self._events.drop_all()
            raise
        lost = self._events.take_lost()
        if lost > 0:
            self._warn(f"{lost} of the oldest points were too many to keep and are lost.")

    def _send_status(self) -> None:
        with self._lock:
            batch, self._unsent = self._unsent, {}
        items = [_item(section, name, value) for (section, name), value in batch.items()]
        if self._task.mode == "offline":
            items = [item for item in items if item["section"] != "properties"]
        try:
            self._write_items(items, "none")
        except ControlPlaneError as error:
            # A refusal that concerns the task is for good; others, of the credentials say, may pass.
            if not _is_for_good(error):
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


def _is_for_good(error: ControlPlaneError) -> bool:
    """Whether no later try helps: the task is gone or published, or the call is wrong."""
    return isinstance(error, RefusedError) and error.status == 400


def _drop(_: object) -> None:
    """Turn a call into a job: its answer does not matter."""


def _item(section: str, name: str, value: str) -> dict[str, str]:
    kind = _PROPERTY_TYPES.get(name) if section == "properties" else None
    # An empty one is not set yet, which is no number.
    return {
        "section": section,
        "name": name,
        "value": value,
        "type": kind if kind and value else "str",
    }
