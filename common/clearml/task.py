"""The only module that imports `clearml.Task`: opening the instance's own task."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from common.errors import ControlPlaneError

Mode = Literal["agent", "server", "offline"]

# Every task of ours has it, and its app's name as another.
TAG = "clearml-deploy"

_FIRST_MACHINE_POINTS_S = 15.0


@dataclass(frozen=True)
class OpenTask:
    """The instance's own task, as opened by the SDK.

    Attributes:
        mode: Run by an agent, by a person with a server, or offline.
        id: The task's ID (``offline-...`` offline).
        name: The task's name, which is the instance's name.
        project: The project's name.
        web_url: The task's page in the ClearML UI, empty offline.
    """

    mode: Mode
    id: str
    name: str
    project: str
    web_url: str
    sdk: Any

    def parameters(self) -> dict[str, str]:
        """All hyperparameters, ``Section/name`` to string."""
        return {path: "" if v is None else str(v) for path, v in self.sdk.get_parameters().items()}

    def configuration(self, name: str) -> str:
        """The text of one of the task's configuration objects; empty when it has no such one."""
        if self.mode == "offline":
            return ""
        return str(self.sdk.get_configuration_object(name) or "")

    def set_offline_parameters(self, parameters: Mapping[str, str]) -> None:
        """Write hyperparameters where no server keeps them."""
        self.sdk.update_parameters(dict(parameters))

    def report_scalar(self, title: str, series: str, value: float, iteration: int) -> None:
        """Have the SDK report one point: an offline task's way to record it."""
        self.sdk.get_logger().report_scalar(title, series, value, iteration)

    def report_plot(self, title: str, series: str, figure: Mapping[str, Any]) -> None:
        """Have the SDK report a Plotly figure: an offline task's way to record it."""
        self.sdk.get_logger().report_plotly(title, series, dict(figure), 0)

    def on_abort(self, callback: Callable[[], None], timeout_s: float) -> None:
        """Have `callback` called, in a thread of the SDK's, when somebody aborts the task.

        Offline the SDK's monitor would take the constant status for a reset and kill the process.
        """
        if self.mode != "offline":
            self.sdk.register_abort_callback(callback, callback_execution_timeout=timeout_s)

    def request_endpoint(self, port: int, static_route: str | None) -> None:
        """Ask the server for a route of its application gateway to this process.

        It is the gateway that grants it, later, by the task's runtime properties. Blocks for as long as
        the server is away.

        Args:
            port: Where this process listens.
            static_route: Name of a route that an administrator made; None: one of the task's own.

        Raises:
            ControlPlaneError: The server has no such route, or no gateway; in its words.
        """
        with _told("The ClearML server refused the route"):
            self.sdk.request_external_endpoint(
                port=port, protocol="http", wait=False, static_route=static_route
            )

    def flush(self, timeout_s: float) -> None:
        """Send what the SDK has queued, console lines and the machine's points: the last thing that is
        done with it, as it takes no line afterwards.

        Its flush blocks for as long as the server is away, and up to two minutes longer: it is left
        behind after `timeout_s`.
        """
        flushing = threading.Thread(target=self._flush, name="clearml-flush", daemon=True)
        flushing.start()
        flushing.join(timeout_s)

    def _flush(self) -> None:
        from clearml.backend_interface.task.log import TaskHandler
        from clearml.debugging.log import LoggerRoot

        with contextlib.suppress(Exception):  # the SDK raises bare exceptions
            self.sdk.flush(wait_for_uploads=True)
            # That asks the thread which sends the console's lines, but does not wait for it.
            for handler in list(LoggerRoot.get_base_logger().handlers):
                if isinstance(handler, TaskHandler):
                    handler.close(wait=True)

    def close_offline(self) -> None:
        """Write the offline session's zip."""
        self.sdk.close()


def is_run_by_agent() -> bool:
    """Whether an agent started this process for a task of its queue."""
    return bool(os.environ.get("CLEARML_TASK_ID"))


def open_task(*, project: str, name: str, offline: bool, tags: Sequence[str] = ()) -> OpenTask:
    """Open the task that this process is: the agent's, a new one, or an offline one.

    Args:
        project: Project of a new task; an agent's task keeps its own.
        name: Name of a new task.
        offline: No server is configured: record to a local folder.
        tags: Tags of a new task.

    Raises:
        ControlPlaneError: The server cannot be reached or refuses the credentials.
    """
    from clearml import Task

    # On Linux the SDK forks a second process for its reports: 80 MB for a few points a minute, and
    # flushing it takes five seconds. Only clearml.conf could say otherwise, which is the user's.
    Task._report_subprocess_enabled = False
    # Points go past the SDK (`common.clearml.events`). Its resource monitor would wait minutes for some
    # and ask the server for the last iteration each time, so that an outage takes its points along;
    # told not to wait, it counts the seconds since the start, as ours do.
    Task.set_resource_monitor_iteration_timeout(
        seconds_from_start=_FIRST_MACHINE_POINTS_S, wait_for_first_iteration_to_start_sec=0.0
    )
    by_agent = is_run_by_agent()
    if offline and not by_agent:
        Task.set_offline(True)
    with _told("The ClearML task could not be opened"), _without_arguments():
        task = Task.init(
            project_name=project,
            task_name=name,
            task_type=Task.TaskTypes.inference,
            reuse_last_task_id=False,
            tags=list(tags),
            auto_connect_arg_parser=False,
            auto_connect_frameworks=False,
            auto_connect_streams=True,
        )
    mode: Mode = "agent" if by_agent else "offline" if Task.is_offline() else "server"
    return OpenTask(
        mode=mode,
        id=str(task.id),
        name=str(task.name),
        project=str(task.get_project_name() or project),
        web_url="" if mode == "offline" else str(task.get_output_log_web_page()),
        sdk=task,
    )


@contextlib.contextmanager
def _without_arguments() -> Iterator[None]:
    """Hide this process's arguments, which may hold a key: the SDK writes them into a new task."""
    arguments = sys.argv
    sys.argv = arguments[:1]
    try:
        yield
    finally:
        sys.argv = arguments


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn the SDK's errors, which share no base class, into ours."""
    from clearml.backend_api.session.errors import SessionError
    from clearml.backend_api.session.session import LoginError
    from clearml.backend_interface.session import SendError

    try:
        yield
    except (SessionError, LoginError, SendError, ValueError) as error:
        raise ControlPlaneError(f"{what}: {error}") from error
