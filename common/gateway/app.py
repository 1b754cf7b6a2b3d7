"""The gateway of one instance: wiring, start, drain and stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from urllib.parse import quote, urlsplit

from common.errors import InternalError
from common.gateway.auth import Authenticator
from common.gateway.listen import listen_on_first_free, reachable_host
from common.gateway.models import AdminOperations, GatewaySettings, InstanceView, ServedModel
from common.gateway.own_routes import OwnRoutes
from common.gateway.proxy import ModelProxy
from common.gateway.routing import RouteTable
from common.gateway.served_engine import ServedEngine
from common.gateway.server import GatewayServer
from common.gateway.waiting import engine_text
from common.telemetry.recorder import Recorder


class Gateway:
    """Serves the models of one instance over HTTP. One event loop.

    Args:
        settings: How it serves.
        models: The endpoints.
        authenticator: Who may use them.
        recorder: Gets one record per request.
        admin: Operations behind ``/admin``; None: there are none.
        log: Gets one line per event worth a person's attention.
        view: What the page and the metrics show of the instance; None: only what the gateway knows.
        access: Gets one line per request; None: nobody wants them.

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
        self._log = log
        self._names = [model.name for model in models]
        routes = RouteTable(
            (model.name for model in models),
            ((adapter, model.name) for model in models for adapter in model.adapters),
        )
        self._own = OwnRoutes(settings, models, routes, authenticator, recorder, admin, view)
        self._proxy = ModelProxy(
            settings, models, routes, authenticator, recorder, self._own.secret_of, log, access
        )
        self._own.proxy = self._proxy
        self._server = GatewayServer(self._proxy, self._own)
        self._listener: asyncio.AbstractServer | None = None
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
        self._proxy.accept_prefix(urlsplit(url).path)

    def url_for(self, model: str) -> str:
        """Return the OpenAI base URL of one model."""
        return f"{self.base_url}/{quote(model, safe='/')}/v1"

    @property
    def in_flight(self) -> int:
        """Requests for models that have not ended, those that wait for a model included."""
        return self._proxy.in_flight

    def in_flight_of(self, model: str) -> int:
        """Requests that hold a place at one model: it must not be moved while there are any."""
        return self._proxy.in_flight_of(model)

    def demand(self, model: str) -> ServedEngine:
        """Return the count of a model's requests, for whoever decides where models are."""
        return self._proxy.engine(model)

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused."""
        return self._proxy.is_draining

    async def start(self) -> None:
        """Listen on the first free candidate port.

        Raises:
            ConfigurationError: No port is free, or the host is not this machine's.
        """
        settings = self._settings
        self._listener, self._port = await listen_on_first_free(
            self._server.connection, settings.host, settings.ports, settings.tls
        )
        self._server.start()
        self._log(f"Serving on {self.base_url} ({', '.join(self._names) or 'no models'})")

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests with 503 and wait for the running ones.

        Args:
            timeout_s: How long to wait; 0 does not wait.

        Returns:
            Whether all ended in time.
        """
        proxy = self._proxy
        proxy.is_draining = True
        if proxy.in_flight and timeout_s > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(proxy.idle(), timeout_s)
        # Whatever breaks off from here on does so because of the stop.
        proxy.is_stopping = bool(proxy.in_flight)
        return not proxy.in_flight

    async def stop(self) -> None:
        """Cut what still runs and free the port; does nothing the second time."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._proxy.stop()
        await self._server.stop()

    async def engine_text(self, model: str, path: str, timeout_s: float = 2.0) -> str:
        """Return the text of a route of a model's engine, such as its metrics.

        Raises:
            EngineCrashError: It does not answer with 200 in time.
        """
        return await engine_text(self._proxy.engine(model), path, timeout_s)
