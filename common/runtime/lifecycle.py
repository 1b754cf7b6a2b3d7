"""The steps of one run: check, serve until something asks for a stop, wind down, end."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
from collections.abc import Mapping
from typing import Any

from common.clearml.instance import InstanceTask
from common.clearml.task import OpenTask
from common.errors import DeployError, InternalError
from common.runtime.access import KEYS_CONFIGURATION
from common.runtime.announcement import Announcement
from common.runtime.app import AnySettings, App
from common.runtime.checking import Checked, check_parameters
from common.runtime.console import Console
from common.runtime.ending import RunEnd
from common.runtime.event_loop import run_loop
from common.runtime.instance import Instance
from common.runtime.redaction import secret_parameters, secret_variables
from common.runtime.reporting import Rates, Reporting
from common.runtime.stopping import StopReason, StopRequest

# For the engines' last token totals, between the drain and their end.
_LAST_COUNT_S = 0.3
_ABORT_MARGIN_S = 30.0


class Lifecycle:
    """One run of an instance whose task is open.

    Args:
        app: Which app.
        task: The instance's task.
        report: Writes to it.
        console: Gets what happens.
        rates: How often it reports to the ClearML server.
    """

    def __init__(
        self, app: App, task: OpenTask, report: InstanceTask, console: Console, rates: Rates
    ) -> None:
        self._app = app
        self._task = task
        self._report = report
        self._console = console
        self._rates = rates
        self._end = RunEnd(report, console)

    def run(self, parameters: Mapping[str, Any]) -> int:
        """Check, serve, and end; returns the exit code."""
        console = self._console
        # First of all: what is wrong with a parameter may be told with its value.
        given = secret_parameters(self._app, parameters).values()
        console.hide(
            [*secret_variables(os.environ), *(str(value).strip() for value in given if value)]
        )
        console.line(f"{self._app.title}: {self._report.name} ({self._report.id})")
        try:
            checked = check_parameters(self._app, parameters, os.environ)
            for warning in checked.warnings:
                console.line(f"WARNING: {warning}")
            _configure_console(console, checked.settings)
            reason = run_loop(self._serve(checked))
        except DeployError as error:
            return self._end.failed(error)
        except Exception as error:  # noqa: BLE001 - the last resort: report it, end in order
            console.line(traceback.format_exc())
            return self._end.failed(InternalError(f"{type(error).__name__}: {error}"))
        return self._end.stopped(reason)

    async def _serve(self, checked: Checked) -> StopReason:
        """Serve until something asks for a stop; everything is stopped on return."""
        stop = StopRequest(asyncio.get_running_loop())
        stop.on_signals(self._console.line, self._end.at_once)
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
        self._end.stop = stop
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
                reporting = self._reporting(instance, checked.settings)
                announcement = Announcement(instance, checked.settings, self._report, self._console)
                announcement.tell()
                status = reporting
                instance.on_progress = lambda: status.write_status(None)
                reaching = asyncio.create_task(announcement.route(self._task).run())
                while not await stop.wait(self._rates.status if instance.ready_at else 0.5):
                    instance.check_idle()
                    await reporting.tick()
                    await instance.view.tick()
                    if instance.memory is not None:
                        await instance.memory.tick()
        finally:
            if reaching is not None:
                reaching.cancel()
            await self._wind_down(instance, reporting)
        if instance.failure is not None:
            raise instance.failure
        if stop.reason is None:
            raise InternalError("the instance stopped without a reason")
        return stop.reason

    def _reporting(self, instance: Instance, settings: AnySettings) -> Reporting:
        assert instance.view is not None
        return Reporting(
            instance,
            self._report,
            settings,
            self._console.line,
            instance.view.memory,
            self._rates,
        )

    async def _wind_down(self, instance: Instance, reporting: Reporting | None) -> None:
        """Drain, end everything, and write the last reports."""
        try:
            await instance.drain()
            await instance.tokens.read(_LAST_COUNT_S)
        finally:
            self._end.begin()
            await instance.close()
        if reporting is not None:
            failed = instance.failure is not None
            await reporting.write_end("failed" if failed else "stopped")


def _configure_console(console: Console, settings: AnySettings) -> None:
    general = settings.general
    console.is_debug = general.is_debug
    console.show_engine = general.shows_engine_output
    token = general.hugging_face_token
    console.hide([general.client_key, token.get_secret_value() if token else None])
