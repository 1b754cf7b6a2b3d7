"""One instance from its first line on the console to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.clearml.api import ClearMLApi, is_configured
from common.clearml.external_endpoint import GrantedRoute, RouteRequest
from common.clearml.instance import Ending, InstanceTask
from common.clearml.parameters import parameter_items
from common.clearml.task import TAG, OpenTask, is_run_by_agent, open_task
from common.errors import DeployError, InternalError
from common.runtime.access import KEYS_CONFIGURATION, is_loopback
from common.runtime.app import AnySettings, App
from common.runtime.checking import Checked, check_parameters
from common.runtime.console import Console
from common.runtime.exit_codes import exit_code_of
from common.runtime.external_route import ExternalRoute, why_no_route
from common.runtime.instance import Instance
from common.runtime.not_yet import without_effect
from common.runtime.offline_keys import forget_key, keep_key
from common.runtime.reachability import check_address
from common.runtime.redaction import secret_variables
from common.runtime.reporting import RATES, Rates, Reporting
from common.runtime.status import key_dashboard
from common.runtime.stopping import StopReason, StopRequest

# The contract: gone within ten seconds of the drain, server or no server.
_GONE_AFTER_S = 9.0
_REPORT_TIMEOUT_S = 6.0
# For what the user still has to read, if somebody reads at all.
_CONSOLE_FLUSH_S = 0.5
# For the engines' last token totals, between the drain and their end.
_LAST_COUNT_S = 0.3
_ABORT_MARGIN_S = 30.0


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
        console.flush(_CONSOLE_FLUSH_S)


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
    return _Run(request, report, task, console).execute(parameters)


def exit_now(code: int) -> None:
    """End the process without the SDK's exit hooks, which hang while the server is away."""
    # On a thread, as a reader that has stopped would hold it up for ever.
    flushing = threading.Thread(target=_flush_streams, daemon=True)
    flushing.start()
    flushing.join(_CONSOLE_FLUSH_S)
    os._exit(code)


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader is gone
            stream.flush()


def _parameters(request: RunRequest, task: OpenTask, report: InstanceTask) -> dict[str, Any]:
    if task.mode == "agent":
        return dict(task.parameters())
    report.write_parameters(parameter_items(request.app.settings, _public(request)))
    return dict(request.parameters)


def _public(request: RunRequest) -> dict[str, Any]:
    """The parameters that a locally run task records: its secrets stay in this process."""
    secret = {option.path for option in request.app.settings.options() if option.secret}
    return {path: value for path, value in request.parameters.items() if path not in secret}


class _Run:
    """The steps of one run, and what they have to share."""

    def __init__(
        self, request: RunRequest, report: InstanceTask, task: OpenTask, console: Console
    ) -> None:
        self._app = request.app
        self._rates = request.rates
        self._report = report
        self._task = task
        self._console = console
        self._stop: StopRequest | None = None
        self._key_file: Path | None = None
        self._shows_key = False
        self._ending_since: float | None = None

    def execute(self, parameters: Mapping[str, Any]) -> int:
        """Check, serve, and end; returns the exit code."""
        console = self._console
        # First of all: what is wrong with a parameter may be told with its value.
        console.hide([*secret_variables(os.environ), *_secrets_of(self._app, parameters)])
        console.line(f"{self._app.title}: {self._report.name} ({self._report.id})")
        try:
            checked = check_parameters(self._app, parameters, os.environ)
        except DeployError as error:
            return self._end_failed(error)
        for warning in checked.warnings:
            console.line(f"WARNING: {warning}")
        for line in without_effect(checked.settings):
            console.line(f"WARNING: {line}")
        _configure_console(console, checked.settings)
        try:
            reason = asyncio.run(self._serve(checked))
        except DeployError as error:
            return self._end_failed(error)
        except Exception as error:  # noqa: BLE001 - the last resort: report it, end in order
            console.line(traceback.format_exc())
            return self._end_failed(InternalError(f"{type(error).__name__}: {error}"))
        return self._end(reason)

    async def _serve(self, checked: Checked) -> StopReason:
        """Serve until something asks for a stop; everything is stopped on return."""
        stop = StopRequest(asyncio.get_running_loop())
        stop.on_signals(self._console.line, self._leave)
        instance = Instance(
            self._app,
            checked,
            self._console,
            stop,
            name=self._report.name,
            task_id=self._report.id,
            environ=os.environ,
            task_keys=self._task.configuration(KEYS_CONFIGURATION),
        )
        self._stop = stop
        limit = instance.drain_s + _ABORT_MARGIN_S
        abort = stop.on_abort(self._console.line, limit)
        # Registering talks to the server: never on the loop, and never in the way of a start.
        threading.Thread(target=self._task.on_abort, args=(abort, limit), daemon=True).start()
        reporting: Reporting | None = None
        reaching: asyncio.Task[None] | None = None
        try:
            # The names of models are looked up on the server, which may be slow or away.
            if await stop.unless_asked(instance.start()):
                assert instance.view is not None
                instance.view.web_url = self._report.web_url
                reporting = Reporting(
                    instance,
                    self._report,
                    checked.settings,
                    self._console.line,
                    instance.view.memory,
                    self._rates,
                )
                self._announce(instance, checked.settings)
                status = reporting
                instance.on_progress = lambda: status.write_status(None)
                reaching = asyncio.create_task(self._route(instance, checked.settings).run())
                while not await stop.wait(self._rates.status if instance.ready_at else 0.5):
                    instance.check_idle()
                    await reporting.tick()
                    await instance.view.tick()
        finally:
            if reaching is not None:
                reaching.cancel()
            await self._wind_down(instance, reporting)
        if instance.failure is not None:
            raise instance.failure
        if stop.reason is None:
            raise InternalError("the instance stopped without a reason")
        return stop.reason

    async def _wind_down(self, instance: Instance, reporting: Reporting | None) -> None:
        """Drain, end everything, and write the last reports."""
        try:
            await instance.drain()
            await instance.tokens.read(_LAST_COUNT_S)
        finally:
            self._ending_since = time.monotonic()
            await instance.close()
        if reporting is not None:
            failed = instance.failure is not None
            await reporting.write_end("failed" if failed else "stopped")

    def _route(self, instance: Instance, settings: AnySettings) -> ExternalRoute:
        """What has the instance reached through the server's application gateway, where it has one."""
        general = settings.general
        gateway = instance.gateway
        assert gateway is not None
        own_url = gateway.base_url

        def publish(granted: GrantedRoute) -> None:
            instance.publish(granted.url)
            self._announce(instance, settings)

        async def check() -> None:
            if not general.public_url and not is_loopback(general.host):
                await check_address(own_url, self._console.line)

        wish = general.gateway_route
        is_offline = self._task.mode == "offline"
        return ExternalRoute(
            why_no_route(general, os.environ, is_offline=is_offline)
            # A session of its own: the outbox uses its one from another thread.
            or RouteRequest(self._task, ClearMLApi(), wish),
            wish=wish,
            own_url=own_url,
            port=gateway.port,
            log=self._console.line,
            publish=publish,
            no_route=check,
        )

    def _announce(self, instance: Instance, settings: AnySettings) -> None:
        """Say where the instance is reached, on the console and in ``Status/*``."""
        assert instance.gateway is not None
        assert instance.access is not None
        key = instance.access.key
        is_generated = instance.access.is_generated
        values = {
            "endpoint": instance.gateway.base_url,
            "session": self._report.id,
            "console_log": self._report.web_url,
            "token_link": "/settings/workspace-configuration",
        }
        if key is not None and (is_generated or settings.shows_api_key):
            values["api_key"] = key
            self._shows_key = True
        elif self._shows_key:  # a gateway in front lets clients in now
            values["api_key"] = ""
        if key is not None and is_generated and self._report.mode == "offline":
            # Without a server nobody could read it from the task.
            self._key_file = keep_key(self._report.id, key)
        if settings.shows_api_key:
            first = instance.models[0]
            values |= key_dashboard(
                first.name,
                instance.gateway.url_for(first.name),
                is_embedding=settings.is_embedding(first.options),
                key=key,
            )
        self._report.set_status(values)
        for model in instance.models:
            self._console.line(f"{model.name}: endpoint {instance.gateway.url_for(model.name)}")
        if is_generated:
            self._console.line(f"The key is shown by: clearml-deploy key {self._report.id}")

    def _end(self, reason: StopReason) -> int:
        forget_key(self._key_file)
        self._console.line(f"Stopped: {reason.text}.")
        ending: Ending = "completed" if reason.kind == "idle" else "stopped"
        self._finish(ending, reason.text, _worker_message(ending))
        if self._stop is not None:
            self._stop.finished.set()
        if reason.kind == "abort" or (ending == "stopped" and self._report.mode == "agent"):
            # The SDK or the agent ends us now; leaving first would look like success.
            self._wait_to_be_ended()
        return 0

    def _end_failed(self, error: DeployError) -> int:
        forget_key(self._key_file)
        text = str(error)
        self._console.line(f"FAILED: {text}")
        self._report.set_status({"status": "failed", "error": text})
        # The agent ends us because of the status and keeps our reason, which its own would replace
        # if we left first.
        self._finish("failed", text, _worker_message("failed"))
        if self._stop is not None:
            self._stop.finished.set()
        if self._report.mode == "agent":
            self._wait_to_be_ended()
        return 1 if self._report.mode == "agent" else exit_code_of(error)

    def _finish(self, ending: Ending, reason: str, message: str) -> None:
        """Send what is left to the server, for as long as there is time."""
        if self._ending_since is None:
            self._ending_since = time.monotonic()
        if not self._report.finish(ending, reason, message, _REPORT_TIMEOUT_S):
            self._console.line("The ClearML server did not take the last reports in time.")

    def _wait_to_be_ended(self) -> None:
        since = self._ending_since or time.monotonic()
        time.sleep(max(0.0, since + _GONE_AFTER_S - time.monotonic()))

    def _leave(self, code: int) -> None:
        """End this process without an orderly end."""
        forget_key(self._key_file)
        self._console.flush(_CONSOLE_FLUSH_S)
        exit_now(code)


def _worker_message(ending: Ending) -> str:
    """The task's message: with "worker" in it the SDK leaves this process alone."""
    return f"{ending} on worker {socket.gethostname()}"


def _configure_console(console: Console, settings: AnySettings) -> None:
    general = settings.general
    console.is_debug = general.is_debug
    console.show_engine = general.shows_engine_output
    token = general.hugging_face_token
    console.hide([general.client_key, token.get_secret_value() if token else None])


def _secrets_of(app: App, parameters: Mapping[str, Any]) -> list[str]:
    """The values of secret parameters, as they were given."""
    secret = {option.path for option in app.settings.options() if option.secret}
    return [str(value).strip() for path, value in parameters.items() if path in secret and value]
