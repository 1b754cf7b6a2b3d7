"""A running instance: models fetched, engines started, gateway open; and their orderly end."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Mapping

from common.engines.contract import EngineAddress, EngineSpec, EngineState
from common.engines.cpu import default_threads
from common.engines.ports import SocketDirectory, pick_port
from common.engines.supervisor import Supervisor
from common.errors import (
    CapacityError,
    ConfigurationError,
    DeployError,
    EngineCrashError,
    InternalError,
    Problem,
    RequestError,
)
from common.gateway.app import Gateway
from common.gateway.auth import ApiKeyAuthenticator, Authenticator, OpenAuthenticator
from common.gateway.key_file import default_key_file
from common.gateway.keys import generate_key
from common.gateway.models import GatewaySettings, ServedModel
from common.gateway.names import check_endpoint_name
from common.models.clearml_registry import find_model
from common.models.fetch import ModelFiles, fetch
from common.models.memory import AvailableMemory, available_memory, without
from common.models.progress import FetchCancelledError, ProgressEvent
from common.models.reference import ReferenceKind, default_endpoint_name, parse_reference
from common.models.use import InUse
from common.options.settings import ModelOptions
from common.runtime.app import AnySettings, App, InstalledEngine, ModelPlan
from common.runtime.background import in_background
from common.runtime.console import Console
from common.runtime.hosted_model import HostedModel
from common.runtime.idle import Activity, is_over_limit
from common.runtime.stopping import StopRequest
from common.telemetry.recorder import Recorder

_LOAD_WAIT_S = 600.0
# An abort promises engines gone within two seconds of the drain's end.
_ENGINE_GRACE_S = 1.5
_FETCH_GRACE_S = 2.0


class Instance:
    """Everything that lives between "configuration is valid" and "stopped"."""

    def __init__(
        self,
        app: App,
        settings: AnySettings,
        engine: InstalledEngine,
        console: Console,
        stop: StopRequest,
        *,
        name: str,
        task_id: str | None,
        environ: Mapping[str, str],
    ) -> None:
        self._app = app
        self._settings = settings
        self._engine = engine
        self._console = console
        self._stop = stop
        self._environ = environ
        self._sockets = SocketDirectory()
        self._preparing: set[asyncio.Task[None]] = set()
        self._progress: dict[str, str] = {}
        self._in_use: list[InUse] = []
        self._cancel_fetch = threading.Event()
        self._memory: AvailableMemory | None = None
        self._memory_lock = asyncio.Lock()
        self._placed: list[str] = []
        self.name = name
        self.task_id = task_id
        self.models: list[HostedModel] = []
        self.ready_at: float | None = None
        self.recorder = Recorder()
        self.gateway: Gateway | None = None
        self.generated_key: str | None = None
        self.failure: DeployError | None = None
        # Called from any thread when a model's progress or state changed.
        self.on_progress: Callable[[], None] = lambda: None

    @property
    def drain_s(self) -> float:
        """How long requests in flight may go on after a stop, in seconds."""
        return float(self._settings.general.drain_seconds)

    async def start(self) -> None:
        """Resolve the names, open the gateway and begin to load the models.

        Raises:
            DeployError: The instance cannot work: unknown model, duplicate names, no free port.
        """
        names = await self._resolve_names()
        for options, name in zip(self._settings.models, names, strict=True):
            self.models.append(HostedModel(name, options, self._engine_address()))
        self.recorder = Recorder(names)
        self.gateway = self._open_gateway()
        await self.gateway.start()
        threads = default_threads(len(self.models))
        for model in self.models:
            task = asyncio.create_task(self._prepare(model, threads))
            self._preparing.add(task)
            task.add_done_callback(self._preparing.discard)

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
        self._cancel_fetch.set()
        if self._preparing:
            # A download that ends by itself removes what nobody could go on with.
            await asyncio.wait(self._preparing, timeout=_FETCH_GRACE_S)
        for task in self._preparing:
            task.cancel()
        await asyncio.gather(*self._preparing, return_exceptions=True)
        await asyncio.gather(*(model.stop(_ENGINE_GRACE_S) for model in self.models))
        if self.gateway is not None:
            await self.gateway.stop()
        for held in self._in_use:
            held.release()
        self._sockets.close()

    def _listed(self) -> list[tuple[str, ModelOptions]]:
        models = self._settings.models
        if len(models) == 1:
            return [("Model", models[0])]
        return [(f"Models/models[{i}]", model) for i, model in enumerate(models)]

    async def _resolve_names(self) -> list[str]:
        """Endpoint names: chosen, or from the reference; a ClearML ID's comes from the registry."""
        names: list[str] = []
        problems: list[Problem] = []
        for where, model in self._listed():
            name = model.endpoint_name
            if not name:
                reference = parse_reference(model.reference)
                registered = None
                if reference.kind is ReferenceKind.CLEARML:
                    found = await in_background(find_model, reference.model_id)
                    registered = found.name
                name = default_endpoint_name(reference, registered)
                if registered and check_endpoint_name(name):
                    # A registry's names may be anything; an endpoint's is part of a URL.
                    name = re.sub(r"[^A-Za-z0-9._/-]+", "-", name).strip("-/") or reference.model_id
                    self._console.line(f'"{registered}" is served as "{name}".')
            wrong = check_endpoint_name(name)
            if wrong:
                message = f'cannot be served as "{name}": {wrong}; set "Model Endpoint Name"'
                problems.append(Problem(message, path=where))
            if name in names:
                message = f'"{name}" is the endpoint name of two models; give one another name'
                problems.append(Problem(message, title="Model Endpoint Name", path=where))
            names.append(name)
        if problems:
            raise ConfigurationError(problems)
        return names

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
        await model.stop(_ENGINE_GRACE_S)

    async def sleep(self, name: str) -> None:
        """The CPU tier needs the memory manager, which this engine does not have yet."""
        raise RequestError(
            f'The model "{name}" cannot be put to sleep: its engine has no CPU tier. Unload it instead.',
            status=409,
            code="not_supported",
        )

    def _model(self, name: str) -> HostedModel:
        return next(model for model in self.models if model.name == name)

    def _engine_address(self) -> EngineAddress:
        if self._engine.listens_on_sockets:
            return EngineAddress(socket_path=self._sockets.new_socket())
        return EngineAddress(port=pick_port())

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
                created=now,
            )
            for model in self.models
        ]
        settings = GatewaySettings(
            host=general.host,
            ports=general.ports(),
            max_body_bytes=int(general.max_body_mib * 1024 * 1024),
            load_wait_s=_LOAD_WAIT_S,
            public_url=general.public_url,
            task_id=self.task_id,
            instance_name=self.name,
        )
        return Gateway(
            settings,
            served,
            self._authenticator(),
            self.recorder,
            admin=self,
            log=self._console.line,
        )

    def _authenticator(self) -> Authenticator:
        general = self._settings.general
        mode = general.auth or "api_key"
        if mode == "none":
            self._console.line(
                "WARNING: authentication is off (General/auth = none): whoever reaches the port can use it."
            )
            return OpenAuthenticator()
        if mode != "api_key":
            message = "is not available yet: use api_key or none"
            raise ConfigurationError(
                [Problem(message, title="Auth", path="General/auth", value=mode)]
            )
        given = general.api_key.get_secret_value() if general.api_key else None
        if not given:
            self.generated_key = generate_key()
        key = given or self.generated_key or ""
        self._console.hide([key])
        return ApiKeyAuthenticator(key, default_key_file(self._environ), log=self._console.line)

    async def _prepare(self, model: HostedModel, threads: int) -> None:
        """Fetch, check and start one model; an error makes that model fail, and the instance."""
        try:
            await self._fetch_and_start(model, threads)
        except (asyncio.CancelledError, FetchCancelledError):
            pass  # the instance ends
        except DeployError as error:
            self._fail(model, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the user must see it on this model
            wrapped = InternalError(f"{type(error).__name__}: {error}")
            wrapped.__cause__ = error
            self._fail(model, wrapped)

    async def _fetch_and_start(self, model: HostedModel, threads: int) -> None:
        token = self._settings.general.hugging_face_token
        # One per model: fetches run in threads, and an `InUse` belongs to one of them.
        held = InUse()
        self._in_use.append(held)
        files = await in_background(
            fetch,
            model.options.reference,
            token=token.get_secret_value() if token else None,
            progress=lambda event: self._show_progress(model, event),
            want=self._app.wants,
            cancel=self._cancel_fetch,
            in_use=held,
        )
        plan = self._plan(model, files, threads)
        for line in await self._inspect(plan, files):
            self._console.line(f"{model.name}: {line}")
        command = self._engine.command(plan, self._settings)
        for item in command.unavailable:
            self._console.line(
                f'{model.name}: "{item.title}" ({item.path}) has no effect: {item.reason}'
            )
        for done in command.translated:
            self._console.debug(
                f'{model.name}: "{done.title}" ({done.path}) is passed as {done.to}'
            )
        self._console.debug(f"{model.name}: files {', '.join(map(str, files.all))}")
        self._progress[model.name] = "starting the engine"
        spec = EngineSpec(
            name=model.name, command=command, address=model.address, program=self._engine
        )
        await model.start(spec, self._console.engine, lambda state: self._changed(model, state))

    async def _inspect(self, plan: ModelPlan, files: ModelFiles) -> tuple[str, ...]:
        """Check one model against what the instance's other models leave of the memory."""
        async with self._memory_lock:
            if self._memory is None:
                self._memory = await in_background(available_memory, self._environ)
            try:
                found = await in_background(
                    self._app.inspect, plan, files, self._settings, self._memory
                )
            except CapacityError as error:
                if not self._placed:
                    raise
                others = ", ".join(self._placed)
                raise CapacityError(f"{error} It has to fit beside {others}.") from error
            self._memory = without(self._memory, found.need)
            self._placed.append(plan.name)
        return found.lines

    def _plan(self, model: HostedModel, files: ModelFiles, threads: int) -> ModelPlan:
        return ModelPlan(
            name=model.name,
            options=model.options,
            path=files.first,
            files=files.all,
            address=model.address,
            threads=threads,
        )

    def _show_progress(self, model: HostedModel, event: ProgressEvent) -> None:
        text = str(event)
        self._progress[model.name] = text
        self._console.line(text)
        self.on_progress()

    def _changed(self, model: HostedModel, state: EngineState) -> None:
        self._console.debug(f"{model.name}: engine {state.value}")
        if state is EngineState.READY and self.ready_at is None:
            self.ready_at = time.monotonic()
        if state is EngineState.FATAL and model.supervisor is not None:
            self._given_up(model, model.supervisor)
        self.on_progress()

    def _given_up(self, model: HostedModel, supervisor: Supervisor) -> None:
        """An engine is not restarted any more: the end, unless it once worked and others still do."""
        error = supervisor.failure or EngineCrashError(f'The engine of "{model.name}" failed.')
        others_serve = any(other.status != "failed" for other in self.models)
        if supervisor.load_s is not None and others_serve:
            self._console.line(f"{model.name}: {error} The other models are served on.")
            return
        self._fail(model, error)

    def _fail(self, model: HostedModel, error: DeployError) -> None:
        self._console.line(f"{model.name}: {error}")
        model.fail(error)
        # A user who asked for several models wants to know at once that one cannot be had. During a
        # stop it does not matter any more: the reason of that stop is what is reported.
        if not self._stop.is_set:
            self.failure = error
        self._stop.request("failed", str(error))
