"""The gateway of one instance: wiring, start, drain and stop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from aiohttp import web

from common.errors import DeployError, InternalError
from common.gateway.access_log import access_line
from common.gateway.admission import refuse_draining
from common.gateway.auth import Authenticator
from common.gateway.envelope import answer_for
from common.gateway.exchange import Exchange
from common.gateway.forward import EngineClient
from common.gateway.listen import listen_on_first_free, reachable_host
from common.gateway.models import AdminOperations, GatewaySettings, InstanceView, ServedModel
from common.gateway.own_routes import OwnRoutes
from common.gateway.proxy import ModelProxy
from common.gateway.routing import Own, RouteTable
from common.telemetry.recorder import CLIENT_CLOSED_STATUS, Outcome, Recorder, RequestRecord

SHUTDOWN_S = 0.5
"""For handlers that were cancelled at the end to close their connections."""

KEEPALIVE_S = 75.0
"""Longer than the idle time of usual clients and proxies, so that they close first."""


class Gateway:
    """Serves the models of one instance over HTTP. One event loop.

    Args:
        settings: How it serves.
        models: The endpoints.
        authenticator: Who may use them.
        recorder: Gets one record per request.
        admin: Operations behind ``/admin``; None: there are none.
        log: Gets one line per event worth a person's attention.
        access: Gets one line per request; None: nobody wants them.
        view: What the page and the metrics show of the instance; None: only what the gateway knows.

    Raises:
        ConfigurationError: Two names of models or adapters are equal or clash.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        models: Sequence[ServedModel],
        authenticator: Authenticator,
        recorder: Recorder,
        admin: AdminOperations | None,
        log: Callable[[str], None],
        view: InstanceView | None = None,
        access: Callable[[str], None] | None = None,
    ) -> None:
        self._settings = settings
        self._access = access
        self._recorder = recorder
        self._log = log
        self._routes = RouteTable(
            (model.name for model in models),
            ((adapter, model.name) for model in models for adapter in model.adapters),
        )
        self._client = EngineClient()
        self._models = {model.name: model for model in models}
        self._proxy = ModelProxy(settings, models, self._routes, self._client, log)
        self._own = OwnRoutes(
            settings, models, self._routes, self._proxy, authenticator, recorder, admin, view
        )
        self._handlers: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._runner: web.ServerRunner | None = None
        self._port: int | None = None

    @property
    def port(self) -> int:
        """The port it listens on.

        Raises:
            InternalError: It was not started.
        """
        if self._port is None:
            raise InternalError("the gateway has no port before it is started")
        return self._port

    @property
    def base_url(self) -> str:
        """URL of the instance as clients should use it, without a slash at its end."""
        if self._settings.public_url:
            return self._settings.public_url.rstrip("/")
        scheme = "https" if self._settings.tls else "http"
        return f"{scheme}://{reachable_host(self._settings.host)}:{self.port}"

    def publish(self, url: str) -> None:
        """Tell clients this URL from now on, such as that of a route which a gateway in front granted.

        Paths below the URL's own path lead here as well.
        """
        self._settings.public_url = url
        self._routes.accept_prefix(urlsplit(url).path)

    def url_for(self, model: str) -> str:
        """Return the OpenAI base URL of one model."""
        return f"{self.base_url}/{quote(model, safe='/')}/v1"

    @property
    def in_flight(self) -> int:
        """Requests for models that have not ended, those that wait for a model included."""
        return len(self._handlers)

    def in_flight_of(self, model: str) -> int:
        """Requests that hold a place at one model: it must not be moved while there are any."""
        return self._proxy.in_flight_of(model)

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused."""
        return self._own.is_draining

    async def start(self) -> None:
        """Listen on the first free candidate port.

        Raises:
            ConfigurationError: No port is free, or the host is not this machine's.
        """
        server = web.Server(
            self._handle,
            handler_cancellation=True,  # a client that leaves cancels its generation
            auto_decompress=False,  # request bodies pass as they are
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
        )
        runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        try:
            self._port = await listen_on_first_free(
                runner, self._settings.host, self._settings.ports, self._settings.tls
            )
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self._log(f"Serving on {self.base_url} ({', '.join(self._models) or 'no models'})")

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests with 503 and wait for the running ones.

        Args:
            timeout_s: How long to wait; 0 does not wait.

        Returns:
            Whether all ended in time.
        """
        self._own.is_draining = True
        if self._handlers and timeout_s > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)
        # Whatever breaks off from here on does so because of the stop.
        self._proxy.is_stopping = bool(self._handlers)
        return not self._handlers

    async def stop(self) -> None:
        """Cut what still runs and free the port; does nothing the second time."""
        self._own.is_draining = True
        self._proxy.is_stopping = True
        for handler in list(self._handlers):
            handler.cancel()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        await self._client.close()

    async def engine_text(self, model: str, path: str, timeout_s: float = 2.0) -> str:
        """Return the text of a route of a model's engine, such as its metrics.

        Raises:
            EngineCrashError: It does not answer with 200 in time.
        """
        return await self._client.get_text(self._models[model].upstream.address, path, timeout_s)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._access is None:
            return await self._answer(request, self._recorder.open())
        record = self._recorder.open()
        started = time.monotonic()
        status = CLIENT_CLOSED_STATUS
        try:
            response = await self._answer(request, record)
            if request.transport is not None and not request.transport.is_closing():
                status = response.status
            return response
        finally:
            self._access(
                access_line(
                    request.method,
                    request.raw_path,
                    record.model,
                    status,
                    time.monotonic() - started,
                    request.headers.get("X-Request-Id", ""),
                )
            )

    async def _answer(self, request: web.BaseRequest, record: RequestRecord) -> web.StreamResponse:
        try:
            target = self._routes.resolve(request.method, _origin_form(request))
        except DeployError as error:
            return await self._refuse_unrouted(request, record, error)
        if isinstance(target, Own):
            return await self._answer_own(request, target)
        exchange = Exchange(request, record)
        try:
            exchange.identity = await self._own.identify(request)
            # Last, and nothing is awaited from here to _enter: a drain that saw no request in
            # flight must not be followed by one.
            if self.is_draining:
                raise refuse_draining()
        except DeployError as error:
            return await self._refuse(exchange, error)
        self._enter()
        try:
            return await self._proxy.serve(exchange, target)
        finally:
            self._leave()

    async def _answer_own(self, request: web.BaseRequest, target: Own) -> web.StreamResponse:
        try:
            return await self._own.answer(request, target)
        except DeployError as error:
            return answer_for(error).response()
        except Exception as error:  # noqa: BLE001 - the client gets an envelope, the console the rest
            self._log(f"{request.method} {target.route} failed: {type(error).__name__}: {error}")
            return answer_for(error).response()

    async def _refuse_unrouted(
        self, request: web.BaseRequest, record: RequestRecord, error: DeployError
    ) -> web.StreamResponse:
        """Refuse a path that leads nowhere; only who may use the instance learns its models."""
        exchange = Exchange(request, record)
        try:
            await self._own.identify(request)
        except DeployError as refusal:
            return await self._refuse(exchange, refusal)
        return await self._refuse(exchange, error)

    async def _refuse(self, exchange: Exchange, error: DeployError) -> web.StreamResponse:
        answer = answer_for(error)
        exchange.record.close(Outcome.REFUSED, answer.status)
        return await exchange.fail(answer, is_last=self.is_draining)

    def _enter(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self._idle.clear()

    def _leave(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.discard(task)
        if not self._handlers:
            self._idle.set()


def _origin_form(request: web.BaseRequest) -> str:
    """Return path and query as they came; of an absolute target (a proxy's form) the same part."""
    raw = request.raw_path
    if raw.startswith("/"):
        return raw
    return request.rel_url.raw_path_qs
