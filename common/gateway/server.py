"""The clients' connections of one gateway, and who answers what comes on them."""

from __future__ import annotations

import asyncio

from common.errors import DeployError
from common.gateway.envelope import answer_for
from common.gateway.exchange import Exchange
from common.gateway.http.answer import Answer
from common.gateway.http.client_connection import ClientConnection
from common.gateway.http.hangup import HangupWatch
from common.gateway.http.headers import REQUEST_KINDS, FieldKinds
from common.gateway.http.incoming_body import IncomingBody
from common.gateway.http.request import RequestHead
from common.gateway.http.serving import Handler
from common.gateway.own_exchange import OwnExchange, Refused
from common.gateway.own_routes import OwnRoutes
from common.gateway.proxy import ModelProxy
from common.gateway.routing import Own

SWEEP_EVERY_S = 1.0
"""Time-outs are looked at so often, all together: a timer for each request would cost more."""

CLOSE_WITHIN_S = 0.5


class GatewayServer:
    """Owns the connections; hands each request to what answers it.

    Attributes:
        now: The loop's time in seconds, of the last sweep.
    """

    def __init__(self, proxy: ModelProxy, own: OwnRoutes) -> None:
        self._proxy = proxy
        self._own = own
        self.kinds = FieldKinds(REQUEST_KINDS)
        self.timeouts = proxy.settings.timeouts
        self.max_body_bytes = proxy.max_body_bytes
        self.is_tls = proxy.settings.tls is not None
        self.now = 0.0
        self._connections: set[ClientConnection] = set()
        self._hangups = HangupWatch()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = asyncio.Event()
        self._closed.set()

    def connection(self) -> ClientConnection:
        """Return the protocol of a new connection."""
        return ClientConnection(self)

    def start(self) -> None:
        """Begin to look at time-outs."""
        self._sweep()

    async def stop(self) -> None:
        """Cut all connections."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._hangups.close()
        for connection in list(self._connections):
            connection.abort()
        if self._connections:
            try:
                await asyncio.wait_for(self._closed.wait(), CLOSE_WITHIN_S)
            except asyncio.TimeoutError:
                pass

    # What the connections call.

    def opened(self, connection: ClientConnection) -> None:
        """A client connected."""
        self._connections.add(connection)
        self._closed.clear()

    def held(self, connection: ClientConnection, is_held: bool) -> None:
        """Nothing is read from a client for now, or it is again."""
        if is_held:
            self._hangups.add(connection)
        else:
            self._hangups.remove(connection)

    def closed(self, connection: ClientConnection) -> None:
        """A client is gone."""
        self._hangups.remove(connection)
        self._connections.discard(connection)
        if not self._connections:
            self._closed.set()

    def handler(
        self, connection: ClientConnection, head: RequestHead, body: IncomingBody
    ) -> Handler:
        """Return what answers a request."""
        proxy = self._proxy
        try:
            route = proxy.route(head.method, head.target)
        except DeployError as error:
            return self._unrouted(connection, head, body, error)
        if proxy.cors.is_on and head.method == b"OPTIONS":
            preflight = proxy.cors.preflight(head)
            if preflight is not None:
                return Refused(proxy, connection, head, body, preflight)
        found = route.found
        if found.__class__ is Own:
            assert isinstance(found, Own)
            return OwnExchange(proxy, connection, head, body, self._own.answer, found)
        return Exchange(proxy, connection, head, body, route, proxy.recorder.open())

    def refusal(
        self, connection: ClientConnection, body: IncomingBody, error: Exception
    ) -> Handler:
        """Return what answers bytes that are no request."""
        head = RequestHead(b"", b"", [], False, False)
        return Refused(self._proxy, connection, head, body, answer_for(error).answer())

    def too_large(self) -> Exception:
        """Return the error of a body above the limit."""
        return self._proxy.too_large()

    def _unrouted(
        self,
        connection: ClientConnection,
        head: RequestHead,
        body: IncomingBody,
        error: DeployError,
    ) -> Handler:
        """Refuse a path that leads nowhere; only who may use the instance learns its models."""
        if self._proxy.cors.is_on and head.method == b"OPTIONS":
            preflight = self._proxy.cors.preflight(head)
            if preflight is not None:
                return Refused(self._proxy, connection, head, body, preflight)

        async def refuse(*_: object) -> Answer:
            identity = await self._own.identify(head)
            if identity.models is not None:
                self._proxy.refuse_target(head.method, head.target, identity.models)
            raise error

        return OwnExchange(
            self._proxy, connection, head, body, refuse, Own("page"), is_counted=True
        )

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = now = loop.time()
        self._timer = loop.call_later(SWEEP_EVERY_S, self._sweep)
        self._proxy.renew_date()
        self._proxy.pools.sweep()
        for connection in list(self._connections):
            connection.check(now)
