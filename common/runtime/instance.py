"""A running instance: engine installed, models fetched and started, gateway open; and their orderly end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from common.engines.contract import EngineState
from common.engines.supervisor import Supervisor
from common.errors import DeployError, EngineCrashError, InternalError
from common.gateway.app import Gateway
from common.gateway.switched_auth import SwitchedAuthenticator
from common.models.progress import FetchCancelledError
from common.runtime.access import Access, make_access, make_tls
from common.runtime.app import App, InstalledEngine, ModelExtras
from common.runtime.checking import Checked
from common.runtime.console import Console
from common.runtime.engine_events import EngineEvents
from common.runtime.engine_tokens import EngineTokenReader
from common.runtime.gateway_setup import gateway_settings, served_models
from common.runtime.hosted_model import ENGINE_GRACE_S, HostedModel
from common.runtime.idle import Activity, is_over_limit
from common.runtime.instance_view import RunningView
from common.runtime.limits import InstanceLimits
from common.runtime.model_operations import ModelOperations
from common.runtime.naming import check_adapters, resolve_names
from common.runtime.preparation import Preparation
from common.runtime.stopping import StopRequest
from common.runtime.universal_memory import UniversalMemory
from common.telemetry.recorder import Recorder

_CANCEL_GRACE_S = 2.0


class Instance:
    """Everything that lives between "configuration is valid" and "stopped"."""

    def __init__(
        self,
        app: App,
        checked: Checked,
        console: Console,
        stop: StopRequest,
        *,
        name: str,
        task_id: str | None,
        environ: Mapping[str, str],
        task_keys: str = "",
        limits: InstanceLimits | None = None,
    ) -> None:
        self._app = app
        self._limits = limits or InstanceLimits()
        self._settings = checked.settings
        self._console = console
        self._stop = stop
        self._environ = environ
        self._task_keys = task_keys
        self._preparation = Preparation(app, checked, console, environ, self._show_progress)
        self._preparing: asyncio.Task[None] | None = None
        self._extras: Mapping[str, ModelExtras] = {}
        self.name = name
        self.task_id = task_id
        self.models: list[HostedModel] = []
        self.ready_at: float | None = None
        self.recorder = Recorder()
        moves_models = checked.settings.memory.moves_models
        self._events = EngineEvents(console, self.recorder, counts_moves=not moves_models)
        self.tokens = EngineTokenReader(self)
        # Decides which models are loaded; None: all of them always are.
        self.memory: UniversalMemory | None = None
        if moves_models:
            self.memory = UniversalMemory(
                checked.settings,
                environ,
                console,
                self.recorder,
                before_stop=self.tokens.read_one,
                on_change=lambda: self.on_progress(),
                limits=self._limits,
            )
        self.operations = ModelOperations(self.models, self.tokens)
        self.gateway: Gateway | None = None
        self.view: RunningView | None = None
        self.access: Access | None = None
        # Where the way of authentication is left to whether the server grants a route.
        self._switched: SwitchedAuthenticator | None = None
        # Set once it is ready to run: it may have to be installed first.
        self.engine: InstalledEngine | None = None
        self.failure: DeployError | None = None
        # Called from any thread when a model's progress or state changed.
        self.on_progress: Callable[[], None] = lambda: None

    @property
    def app_title(self) -> str:
        """The application's name, for people."""
        return self._app.title

    @property
    def drain_s(self) -> float:
        """How long requests in flight may go on after a stop, in seconds."""
        return float(self._settings.general.drain_seconds)

    async def start(self) -> None:
        """Resolve the names, open the gateway and begin to prepare engine and models.

        Raises:
            DeployError: The instance cannot work: unknown model, duplicate names, no free port.
        """
        names = await resolve_names(self._settings, self._console.line)
        self._extras = self._app.extras(names, self._settings)
        check_adapters(names, self._extras)
        for options, name in zip(self._settings.models, names, strict=True):
            self.models.append(HostedModel(name, options, self._limits.supervisor))
            if options.is_verbose:
                self._console.expect_detail(name)
        self.recorder.add_models(names)
        self.view = RunningView(self, self._settings, self._console)
        if self.memory is not None:
            self.view.shared_memory = self.memory.shared
        self.gateway = self._open_gateway()
        await self.gateway.start()
        self._preparing = asyncio.create_task(self._prepare())

    def publish(self, url: str) -> None:
        """Have clients use a route that the server's application gateway granted.

        With Auth left empty the gateway is what lets clients in from now on.

        Args:
            url: Of the route.
        """
        assert self.gateway is not None
        self.gateway.publish(url)
        if self._switched is not None:
            self.access = make_access(
                self._settings.general, self._environ, self._console.line, has_route=True
            )
            self._switched.use(self.access.authenticator)
        self.on_progress()

    def activity(self) -> Activity:
        """What idleness is judged by."""
        return Activity(self.ready_at, self.recorder.last_activity, self.recorder.open_requests)

    def check_idle(self) -> None:
        """Ask for a stop when nobody has used the instance for too long."""
        limit = self._settings.idle.idle_time_limit_hours
        if is_over_limit(self.activity(), time.monotonic(), limit):
            self._stop.request(
                "idle", f"no request for {limit:g} hours (Idle/idle_time_limit_hours)"
            )

    def progress_of(self, model: HostedModel) -> str:
        """What is being done for a model that is not ready, in words."""
        return self._events.progress.get(model.name, "") if model.status == "loading" else ""

    async def drain(self) -> None:
        """Refuse new requests and give those in flight their time, also when one model failed."""
        if self.gateway is None:
            return
        count = self.recorder.open_requests
        if count:
            requests = "request" if count == 1 else "requests"
            self._console.line(
                f"Waiting up to {self.drain_s:g} s for {count} {requests} in flight."
            )
        if not await self.gateway.drain(self.drain_s):
            self._console.line(
                "Requests were still running at the end of the drain; they are cut off."
            )

    async def close(self) -> None:
        """End downloads, engines and gateway; what is still in flight is cut off."""
        self._preparation.cancel()
        if self._preparing is not None:
            # What ends by itself removes what nobody could go on with.
            await asyncio.wait({self._preparing}, timeout=_CANCEL_GRACE_S)
            self._preparing.cancel()
            await asyncio.gather(self._preparing, return_exceptions=True)
        # Begun first: it begins no move from then on. Those under way end no later than the engines.
        moves = [asyncio.ensure_future(self.memory.close())] if self.memory is not None else []
        await asyncio.gather(*(model.stop(ENGINE_GRACE_S) for model in self.models))
        if self.memory is not None:
            await asyncio.wait(moves, timeout=_CANCEL_GRACE_S)
            self.memory.release()
        if self.gateway is not None:
            await self.gateway.stop()
        await self._preparation.close()

    def _open_gateway(self) -> Gateway:
        general = self._settings.general
        log = self._console.line
        access = self.access = make_access(
            general, self._environ, log, task_id=self.task_id, task_keys=self._task_keys
        )
        tls = make_tls(general, log)
        self._console.hide([access.key])
        if general.auth is None:
            self._switched = SwitchedAuthenticator(access.authenticator)
        return Gateway(
            gateway_settings(
                general,
                self._limits,
                name=self.name,
                task_id=self.task_id,
                tls=tls.context if tls else None,
            ),
            served_models(self.models, self._extras),
            self._switched or access.authenticator,
            self.recorder,
            admin=self.operations,
            log=self._console.event,
            view=self.view,
            access=self._console.access if self._console.is_debug else None,
        )

    async def _prepare(self) -> None:
        """Make the engine ready, check what only it and the models can tell, start the models."""
        try:
            engine = await self._preparation.install(self.models)
            self.engine = engine
            self.recorder.has_engine_counters = engine.metrics_path is not None
            await self._preparation.check(engine, self.models)
            if self.memory is not None:
                await self.memory.open(self.models)
        except (asyncio.CancelledError, FetchCancelledError):
            return  # the instance ends
        except Exception as error:  # noqa: BLE001 - whatever it is, the user must see it
            self._fail(_told(error), *self.models)
            return
        await asyncio.gather(*(self._prepare_model(engine, model) for model in self.models))

    async def _prepare_model(self, engine: InstalledEngine, model: HostedModel) -> None:
        """Fetch, check and start one model; an error makes that model fail, and the instance."""
        extras = self._extras.get(model.name, ModelExtras())
        try:
            prepared = await self._preparation.prepare(engine, model, extras)
            model.prepare(
                prepared.spec,
                lambda _, line: self._said(engine, model, line),
                lambda state: self._changed(model, state),
                prepared.restart_spec,
                shares_memory=self.memory is not None,
            )
            if self.memory is None:
                await model.start()
            else:
                assert self.gateway is not None
                placed = self._preparation.placement.placed[model.name]
                demand = self.gateway.demand(model.name)
                await self.memory.take(model, placed, engine, demand)
        except (asyncio.CancelledError, FetchCancelledError):
            pass  # the instance ends
        except Exception as error:  # noqa: BLE001 - whatever it is, the user must see it on this model
            self._fail(_told(error), model)

    def _said(self, engine: InstalledEngine, model: HostedModel, line: str) -> None:
        if self._events.said(engine, model, line):
            self.on_progress()

    def _show_progress(self, model: HostedModel, line: str) -> None:
        self._events.progress[model.name] = line
        self.on_progress()

    def _changed(self, model: HostedModel, state: EngineState) -> None:
        self._events.changed(model, state)
        if self.memory is not None:
            self.memory.changed(model)
        if state is EngineState.READY and self.ready_at is None:
            self.ready_at = time.monotonic()
        if state is EngineState.FATAL and model.supervisor is not None:
            self._given_up(model, model.supervisor)
        self.on_progress()

    def _given_up(self, model: HostedModel, supervisor: Supervisor) -> None:
        """An engine is not restarted any more: the end, unless it once worked and others still do."""
        error = supervisor.failure or EngineCrashError(f'The engine of "{model.name}" failed.')
        others_serve = any(other.status != "failed" for other in self.models)
        # One that is loaded by a request, hours later, is no reason to stop serving the others.
        has_served = supervisor.load_s is not None or (
            self.memory is not None and self.ready_at is not None
        )
        if has_served and others_serve:
            self._console.line(f"{model.name}: given up. The other models are served on.")
            return
        self._fail(error, model, is_told=True)

    def _fail(self, error: DeployError, *models: HostedModel, is_told: bool = False) -> None:
        """Give models up and, with them, the instance; `is_told`: their supervisor has said it."""
        if not is_told:
            self._console.line(f"{', '.join(model.name for model in models)}: {error}")
        for model in models:
            model.fail(error)
        # A user who asked for several models wants to know at once that one cannot be had. During a
        # stop it does not matter any more: the reason of that stop is what is reported.
        if not self._stop.is_set:
            self.failure = error
        self._stop.request("failed", str(error))


def _told(error: Exception) -> DeployError:
    """The error as the user gets it: one that nobody meant is our own mistake."""
    if isinstance(error, DeployError):
        return error
    wrapped = InternalError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
