"""What all requests for models share: names, engines, limits, the ways that wait."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from email.utils import formatdate
from itertools import count
from typing import Any

from common.errors import RequestError
from common.gateway import waiting
from common.gateway.access_log import access_line
from common.gateway.admission import refuse_draining
from common.gateway.auth import Authenticator
from common.gateway.body import too_large
from common.gateway.exchange import Exchange
from common.gateway.http.answer import Answer
from common.gateway.http.client_connection import ClientConnection
from common.gateway.http.cors import Cors
from common.gateway.http.engine_pool import EnginePools
from common.gateway.http.incoming_body import IncomingBody
from common.gateway.http.request import RequestHead
from common.gateway.http.response import StatusLines
from common.gateway.key_limits import KeyLimiter
from common.gateway.models import GatewaySettings, ServedModel
from common.gateway.routing import ByModelField, Own, RouteTable, ToModel
from common.gateway.served_engine import ServedEngine
from common.telemetry.recorder import Recorder, RequestRecord

MAX_KNOWN_TARGETS = 1024
"""Clients choose their targets: what is remembered of them has to have an end."""


class Route:
    """Where a request target leads.

    Attributes:
        found: What the route table says.
        target: What the engine gets.
        path: The decoded path at the engine.
        engine: The model that the path names; None: the body names it, or the gateway answers.
    """

    __slots__ = ("engine", "found", "path", "target")

    def __init__(self, found: Own | ToModel | ByModelField, engine: ServedEngine | None) -> None:
        self.found = found
        self.engine = engine
        self.path = "" if isinstance(found, Own) else found.path
        self.target = b"" if isinstance(found, Own) else found.target.encode("latin-1")


class ModelProxy:
    """Forwards requests to the engines of one instance. One event loop.

    Args:
        settings: Limits and times.
        models: The endpoints.
        routes: Their names.
        authenticator: Who may use them.
        recorder: Gets one record per request.
        secret_of: Finds the key of a request, also that of the page's session.
        log: Gets a line for each engine failure.
        access: Gets a line for each request; None: nobody wants them.

    Attributes:
        access: As given.
        is_draining: Whether new requests are refused.
        is_stopping: Whether what breaks off does so because of the stop.
        date_line: The Date field of answers that have none.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        models: Sequence[ServedModel],
        routes: RouteTable,
        authenticator: Authenticator,
        recorder: Recorder,
        secret_of: Callable[[RequestHead], str | None],
        log: Callable[[str], None],
        access: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = settings
        self.secret_of = secret_of
        self.routes = routes
        self.authenticator = authenticator
        self.recorder = recorder
        self.log = log
        self.access = access
        self.limiter = KeyLimiter()
        self.pools = EnginePools()
        self.engines = [ServedEngine(model, self.pools) for model in models]
        self.cors = Cors(settings.cors_origins)
        self.status_lines = StatusLines()
        self.max_body_bytes = settings.max_body_bytes
        self.is_draining = False
        self.is_stopping = False
        self.date_line = b""
        self.renew_date()
        self._by_name = {
            name: engine
            for engine in self.engines
            for name in (engine.name, *engine.model.adapters)
        }
        self._routes_seen: dict[tuple[bytes, bytes], Route] = {}
        self.request_ids = map(_uuid_pattern(secrets.token_hex(9)).__mod__, count(1))
        self._exchanges: set[Exchange] = set()
        self._idle: asyncio.Event | None = None  # somebody waits for the last one's end

    # Names.

    def route(self, method: bytes, target: bytes) -> Route:
        """Return where a request target leads.

        Raises:
            RequestError: Nowhere.
        """
        key = (method, target)
        route = self._routes_seen.get(key)
        if route is None:
            found = self.routes.resolve(method.decode("latin-1"), origin_form(target))
            engine = self._by_name[found.name] if isinstance(found, ToModel) else None
            route = Route(found, engine)
            if len(self._routes_seen) < MAX_KNOWN_TARGETS:
                self._routes_seen[key] = route
        return route

    def refuse_target(self, method: bytes, target: bytes, allowed: frozenset[str]) -> None:
        """Refuse a target that leads nowhere, for a key that may know of some models only.

        Raises:
            RequestError: As `route`, naming the allowed models alone.
        """
        self.routes.resolve(method.decode("latin-1"), origin_form(target), allowed)

    def accept_prefix(self, path: str) -> None:
        """Have paths below `path` lead here as well; empty: none any more."""
        self.routes.accept_prefix(path)
        self._routes_seen.clear()

    def unnamed_engine(self, exchange: Exchange) -> ServedEngine:
        """Return the one model that a request may leave unnamed.

        Raises:
            RequestError: 400; there are several.
        """
        if len(self.engines) == 1:
            return self.engines[0]
        raise RequestError(
            f"The request names no model: set the field 'model', or use /<model>{exchange.route.path}. "
            f"Served: {self.routes.listed(_allowed(exchange))}.",
            code="model_required",
            param="model",
        )

    def engine_named(self, name: str | None, exchange: Exchange) -> ServedEngine:
        """Return the model that a request's body names.

        Raises:
            RequestError: 404, or 400 when it names none.
        """
        if name is None:
            return self.unnamed_engine(exchange)
        engine = self._by_name.get(name)
        if engine is None:
            raise self.routes.unknown_model(name, _allowed(exchange))
        return engine

    def engine(self, name: str) -> ServedEngine:
        """Return a model by its own name."""
        return self._by_name[name]

    # Fields of heads.

    def new_request_id(self) -> bytes:
        """Return an identifier for a request that has none."""
        return next(self.request_ids)

    def end_head(
        self,
        out: list[bytes],
        connection: ClientConnection,
        head: RequestHead,
        body: IncomingBody,
        request_id: bytes,
    ) -> bool:
        """Add what all answers have in common to a head; whether the connection goes on after it."""
        keeps = connection.may_keep_alive(head, body) and not self.is_draining
        if not keeps:
            out.append(b"Connection: close\r\n")
        elif head.is_http10:
            out.append(b"Connection: keep-alive\r\n")
        out += (self.cors.lines(head.origin), b"X-Request-Id: ", request_id, b"\r\n\r\n")
        return keeps

    def tell(
        self, head: RequestHead, record: RequestRecord, status: int, request_id: bytes
    ) -> None:
        """Write the line of a request that ended, where somebody wants it."""
        if self.access is not None:
            self.access(
                access_line(
                    head.method.decode("latin-1"),
                    head.target.decode("latin-1"),
                    record.model,
                    status,
                    self.recorder.now() - record.arrived,
                    request_id.decode("latin-1"),
                )
            )

    def send_answer(
        self,
        connection: ClientConnection,
        head: RequestHead,
        body: IncomingBody,
        answer: Answer,
        request_id: bytes = b"",
    ) -> bytes:
        """Send a whole answer of our own, and go on with the next request; return what it is called.

        Args:
            connection: The client's.
            head: The request's.
            body: The request's.
            answer: What is sent.
            request_id: What the request is called; empty: what its head says, or a new one.
        """
        out = [self.status_lines.line(answer.status), *answer.field_lines(), self.date_line]
        request_id = request_id or head.request_id or self.new_request_id()
        keeps = self.end_head(out, connection, head, body, request_id)
        if head.method != b"HEAD":
            out.append(answer.body)
        connection.write(b"".join(out))
        connection.answered(keeps_alive=keeps)
        return request_id

    def renew_date(self) -> None:
        """Make the Date field that answers without one get; called once a second."""
        self.date_line = f"Date: {formatdate(usegmt=True)}\r\n".encode()

    def too_large(self) -> RequestError:
        """Return the 413 for a body above the limit."""
        return too_large(self.max_body_bytes)

    # Requests in flight.

    @property
    def in_flight(self) -> int:
        """Requests that have not ended, those that wait for a model included."""
        return len(self._exchanges)

    def in_flight_of(self, name: str) -> int:
        """Requests that hold a place at one model."""
        return self._by_name[name].admission.in_flight

    def enter(self, exchange: Exchange) -> None:
        """Count a request.

        Raises:
            RequestError: 503; the instance takes no new ones.
        """
        # Nothing is awaited in between: a drain that saw no request must not be followed by one.
        if self.is_draining:
            raise refuse_draining()
        self._exchanges.add(exchange)

    def leave(self, exchange: Exchange) -> None:
        """Count its end."""
        self._exchanges.discard(exchange)
        if self._idle is not None and not self._exchanges:
            self._idle.set()

    async def idle(self) -> None:
        """Return when no request is in flight; new ones are refused by then."""
        if self._exchanges:
            if self._idle is None or self._idle.is_set():
                self._idle = asyncio.Event()
            await self._idle.wait()

    def stop(self) -> None:
        """Cut off all requests, and the connections to engines."""
        self.is_draining = self.is_stopping = True
        for exchange in list(self._exchanges):
            exchange.stop()
        self.pools.close()

    # What has to be waited for.

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a task; its exchange keeps it."""
        return asyncio.get_running_loop().create_task(work)

    def wait_for(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Return what brings an exchange to its engine that cannot go at once."""
        return waiting.serve(self, exchange)

    def send_again(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Return what sends a request again whose connection turned out to be dead."""
        return waiting.send_again(self, exchange)


def _allowed(exchange: Exchange) -> frozenset[str] | None:
    """Return the models that the key of a request may know of; None: all."""
    return exchange.identity.models if exchange.identity is not None else None


def _uuid_pattern(unique: str) -> bytes:
    """Return what makes a request's number a UUID (version 4 in form): some engines take no other ID.

    Unique among the instances behind one route, and in the order of arrival.

    Args:
        unique: 18 hexadecimal digits of the gateway.
    """
    parts = (unique[:8], unique[8:12], f"4{unique[12:15]}", f"8{unique[15:]}")
    return f"{'-'.join(parts)}-%012x".encode()


def origin_form(target: bytes) -> str:
    """Return path and query as they came; of an absolute target (a proxy's form) the same part."""
    text = target.decode("latin-1")
    if text.startswith("/") or "://" not in text:
        return text
    authority, slash, rest = text.partition("://")[2].partition("/")
    return (slash + rest or "/") if authority else text
