"""A running instance: engine installed, models fetched and started, gateway open; and their orderly end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from common.engines.contract import EngineState
from common.engines.supervisor import Supervisor
from common.errors import DeployError, EngineCrashError, InternalError, RequestError
from common.gateway.app import Gateway
from common.gateway.models import GatewaySettings, ServedModel
from common.gateway.switched_auth import SwitchedAuthenticator
from common.models.progress import FetchCancelledError
from common.runtime.access import Access, make_access, make_tls
from common.runtime.app import App, InstalledEngine, ModelExtras
from common.runtime.checking import Checked
from common.runtime.console import SUPERVISOR_MARK, Console
from common.runtime.engine_tokens import EngineTokenReader
from common.runtime.hosted_model import HostedModel
from common.runtime.idle import Activity, is_over_limit
from common.runtime.instance_view import RunningView
from common.runtime.naming import check_adapters, resolve_names
from common.runtime.preparation import STARTING, Preparation
from common.runtime.stopping import StopRequest
from common.telemetry.recorder import Recorder

ENDING = f"{SUPERVISOR_MARK} stopping"
"""What a supervisor says when it asks its engine to end."""

_LOAD_WAIT_S = 600.0
# An abort promises engines gone within two seconds of the drain's end.
_ENGINE_GRACE_S = 1.5
# An engine that does not answer its metrics is no reason to keep it.
_LAST_COUNT_S = 2.0
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
    ) -> None:
        self._app = app
        self._settings = checked.settings
        self._console = console
        self._stop = stop
        self._environ = environ
        self._task_keys = task_keys
        self._preparation = Preparation(app, checked, console, environ, self._show_progress)
        self._preparing: asyncio.Task[None] | None = None
        self._progress: dict[str, str] = {}
        self._is_ending: dict[str, bool] = {}
        self._stopping_since: dict[str, float] = {}
        self._extras: Mapping[str, ModelExtras] = {}
        self.name = name
        self.task_id = task_id
        self.models: list[HostedModel] = []
        self.ready_at: float | None = None
        self.recorder = Recorder()
        self.tokens = EngineTokenReader(self)
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
            self.models.append(HostedModel(name, options))
            if options.is_verbose:
                self._console.expect_detail(name)
        self.recorder = Recorder(names)
        self.view = RunningView(self, self._settings, self._console)
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
        return self._progress.get(model.name, "") if model.status == "loading" else ""

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
        await asyncio.gather(*(model.stop(_ENGINE_GRACE_S) for model in self.models))
        if self.gateway is not None:
            await self.gateway.stop()
        await self._preparation.close()

    async def load(self, name: str) -> None:
        """Start a model's engine, unless it runs, and wait for it; a failed one is tried again."""
        await self._model(name).load()

    async def unload(self, name: str) -> None:
        """Stop a model's engine; the next request starts it again.

        Raises:
            RequestError: It has no engine yet.
        """
        model = self._model(name)
        if model.supervisor is None:
            raise RequestError(
                f'The model "{name}" cannot be unloaded: its files are still being fetched or checked.',
                status=409,
                code="not_loaded",
            )
        await self.tokens.read_one(model, _LAST_COUNT_S)
        await model.stop(_ENGINE_GRACE_S)

    async def sleep(self, name: str) -> None:
        """Refuse: moving a model to CPU memory is not done yet."""
        raise RequestError(
            f'The model "{name}" cannot be put to sleep: this version cannot move models to CPU memory. '
            "Unload it instead.",
            status=409,
            code="not_supported",
        )

    def _model(self, name: str) -> HostedModel:
        return next(model for model in self.models if model.name == name)

    def _open_gateway(self) -> Gateway:
        general = self._settings.general
        now = int(time.time())
        served = [
            ServedModel(
                name=model.name,
                upstream=model,
                max_concurrent_requests=model.options.limits.max_concurrent_requests,
                max_input_tokens=model.options.limits.max_input_tokens,
                max_total_tokens=model.options.limits.max_total_tokens,
                max_waiting_requests=model.options.limits.max_waiting_requests,
                max_queue_s=model.options.limits.max_queue_s,
                cancel_on_disconnect=model.options.limits.cancel_on_disconnect,
                created=now,
                adapters=self._extras_of(model).adapters,
            )
            for model in self.models
        ]
        log = self._console.line
        access = self.access = make_access(
            general, self._environ, log, task_id=self.task_id, task_keys=self._task_keys
        )
        tls = make_tls(general, log)
        self._console.hide([access.key])
        settings = GatewaySettings(
            host=general.host,
            ports=general.ports(),
            max_body_bytes=int(general.max_body_mib * 1024 * 1024),
            load_wait_s=_LOAD_WAIT_S,
            public_url=general.public_url,
            task_id=self.task_id,
            instance_name=self.name,
            tls=tls.context if tls else None,
            cors_origins=general.origins(),
        )
        if general.auth is None:
            self._switched = SwitchedAuthenticator(access.authenticator)
        return Gateway(
            settings,
            served,
            self._switched or access.authenticator,
            self.recorder,
            admin=self,
            log=self._console.event,
            view=self.view,
            access=self._console.access if self._console.is_debug else None,
        )

    def _extras_of(self, model: HostedModel) -> ModelExtras:
        return self._extras.get(model.name, ModelExtras())

    async def _prepare(self) -> None:
        """Make the engine ready, check what only it and the models can tell, start the models."""
        try:
            engine = await self._preparation.install(self.models)
            self.engine = engine
            self.recorder.has_engine_counters = engine.metrics_path is not None
            await self._preparation.check(engine, self.models)
        except (asyncio.CancelledError, FetchCancelledError):
            return  # the instance ends
        except Exception as error:  # noqa: BLE001 - whatever it is, the user must see it
            self._fail(_told(error), *self.models)
            return
        await asyncio.gather(*(self._prepare_model(engine, model) for model in self.models))

    async def _prepare_model(self, engine: InstalledEngine, model: HostedModel) -> None:
        """Fetch, check and start one model; an error makes that model fail, and the instance."""
        try:
            prepared = await self._preparation.prepare(engine, model, self._extras_of(model))
            await model.start(
                prepared.spec,
                lambda _, line: self._said(engine, model, line),
                lambda state: self._changed(model, state),
                prepared.restart_spec,
            )
        except (asyncio.CancelledError, FetchCancelledError):
            pass  # the instance ends
        except Exception as error:  # noqa: BLE001 - whatever it is, the user must see it on this model
            self._fail(_told(error), model)

    def _said(self, engine: InstalledEngine, model: HostedModel, line: str) -> None:
        """Take a line of a model's engine: for the console, and for what it tells of its start."""
        if line.startswith(SUPERVISOR_MARK):
            self._is_ending[model.name] = line == ENDING
        # Processes of one engine that are to end say warnings and tracebacks about each other.
        elif self._is_ending.get(model.name) or (
            engine.is_noise(line) and not model.options.is_verbose
        ):
            self._console.debug(f"[{model.name}] {line}")
            return
        self._console.engine(model.name, line)
        if model.status == "loading" and (step := engine.loading_step(line)):
            self._show_progress(model, f"{STARTING}: {step}")

    def _show_progress(self, model: HostedModel, line: str) -> None:
        self._progress[model.name] = line
        self.on_progress()

    def _changed(self, model: HostedModel, state: EngineState) -> None:
        self._console.debug(f"{model.name}: engine {state.value}")
        if state is EngineState.STARTING:
            self._progress[model.name] = STARTING
        if state is EngineState.BACKOFF:
            self._progress[model.name] = "the engine failed and will be started again"
        if state is EngineState.READY and self.ready_at is None:
            self.ready_at = time.monotonic()
        self._count_move(model, state)
        if state is EngineState.FATAL and model.supervisor is not None:
            self._given_up(model, model.supervisor)
        self.on_progress()

    def _count_move(self, model: HostedModel, state: EngineState) -> None:
        """Have the telemetry know how long loading and stopping take, and when an engine is another."""
        supervisor = model.supervisor
        if state is EngineState.READY and supervisor is not None and supervisor.load_s is not None:
            self.recorder.observe_move(model.name, "load", supervisor.load_s)
        if state is EngineState.STOPPING:
            self._stopping_since[model.name] = time.monotonic()
        if state in (EngineState.STOPPED, EngineState.BACKOFF, EngineState.FATAL):
            self.recorder.engine_ended(model.name)
            since = self._stopping_since.pop(model.name, None)
            if since is not None:
                self.recorder.observe_move(model.name, "stop", time.monotonic() - since)

    def _given_up(self, model: HostedModel, supervisor: Supervisor) -> None:
        """An engine is not restarted any more: the end, unless it once worked and others still do."""
        error = supervisor.failure or EngineCrashError(f'The engine of "{model.name}" failed.')
        others_serve = any(other.status != "failed" for other in self.models)
        if supervisor.load_s is not None and others_serve:
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
