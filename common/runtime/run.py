"""One instance from its first line on the console to its exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.clearml.api import ClearMLApi, is_configured
from common.clearml.instance import InstanceTask
from common.clearml.parameters import parameter_items
from common.clearml.task import TAG, OpenTask, is_run_by_agent, open_task
from common.errors import DeployError
from common.runtime.app import App
from common.runtime.console import Console
from common.runtime.exit_codes import exit_code_of
from common.runtime.lifecycle import Lifecycle
from common.runtime.process_exit import CONSOLE_FLUSH_S, exit_now
from common.runtime.redaction import secret_parameters
from common.runtime.reporting import RATES, Rates

__all__ = ["RunRequest", "exit_now", "run"]


@dataclass
class RunRequest:
    """How an instance is to be run.

    Attributes:
        app: Which app.
        parameters: Given on the command line; an agent's task brings its own instead.
        name: Instance name for a new task.
        project: Project for a new task.
        offline: No ClearML server, even if one is configured.
        rates: How often it reports to the ClearML server.
    """

    app: App
    parameters: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    project: str = ""
    offline: bool = False
    rates: Rates = RATES


def run(request: RunRequest) -> int:
    """Run an instance until it stops; returns the exit code. Never raises for a user's mistake."""
    console = Console()
    try:
        return _run(request, console)
    finally:
        console.flush(CONSOLE_FLUSH_S)


def _run(request: RunRequest, console: Console) -> int:
    offline = request.offline or not is_configured()
    api = ClearMLApi()
    try:
        if not offline and not is_run_by_agent():
            api.connect()  # the SDK's own opening would wait for the server, silently and for hours
        task = open_task(
            project=request.project or request.app.title,
            name=request.name or f"{request.app.title} instance",
            offline=offline,
            tags=(TAG, request.app.name),
        )
    except DeployError as error:
        console.line(str(error))
        return exit_code_of(error)
    report = InstanceTask(task, api, console.line, console.debug)
    parameters = _parameters(request, task, report)
    report.reset_status()
    return Lifecycle(request.app, task, report, console, request.rates).run(parameters)


def _parameters(request: RunRequest, task: OpenTask, report: InstanceTask) -> dict[str, Any]:
    if task.mode == "agent":
        return dict(task.parameters())
    # What a locally run task records: its secrets stay in this process.
    secret = secret_parameters(request.app, request.parameters)
    public = {path: value for path, value in request.parameters.items() if path not in secret}
    report.write_parameters(parameter_items(request.app.settings, public))
    return dict(request.parameters)
