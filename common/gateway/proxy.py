"""A request's way to its model: pick, admit, wait, limit, forward, relay."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
from aiohttp import web

from common.errors import CapacityError, EngineCrashError, EngineError, RequestError
from common.gateway.admission import Admission
from common.gateway.auth import Identity
from common.gateway.body import RequestBody
from common.gateway.envelope import ErrorAnswer, answer_for
from common.gateway.exchange import EVENT_STREAM, ClientGoneError, Exchange
from common.gateway.forward import (
    EngineClient,
    EngineConnectError,
    client_response,
    headers_for_engine,
)
from common.gateway.heartbeat import wait_with_heartbeats
from common.gateway.key_limits import KeyLimiter
from common.gateway.models import GatewaySettings, ServedModel
from common.gateway.routing import ByModelField, RouteTable, ToModel
from common.gateway.token_limits import TokenLimits, check_token_limits, is_counted
from common.telemetry.recorder import CLIENT_CLOSED_STATUS, Outcome

RECONNECT_EVERY_S = 0.1
RECONNECT_FOR_S = 10.0
"""For the supervisor to notice the death of an engine that refused a connection: one of several
processes closes its socket seconds before the last of them has ended."""

JSON = "application/json"

MAX_ERROR_BYTES = 64 * 1024


class ModelProxy:
    """Forwards requests to the engines of one instance.

    Args:
        settings: Limits and times.
        models: The endpoints.
        routes: Their names.
        client: The engines' HTTP client.
        log: Gets a line for each engine failure.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        models: Sequence[ServedModel],
        routes: RouteTable,
        client: EngineClient,
        log: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._models = {name: model for model in models for name in (model.name, *model.adapters)}
        self._only = models[0] if len(models) == 1 else None
        self._routes = routes
        self._client = client
        self._log = log
        self._admissions = {
            m.name: Admission(
                m.name,
                m.max_concurrent_requests,
                max_waiting=m.max_waiting_requests or 0,
                max_wait_s=m.max_queue_s,
            )
            for m in models
        }
        self._limiter = KeyLimiter()
        self.is_stopping = False

    @property
    def in_flight(self) -> int:
        """Requests that hold a place at any model, those that wait for it to load included."""
        return sum(admission.in_flight for admission in self._admissions.values())

    def in_flight_of(self, name: str) -> int:
        """As `in_flight`, of one model."""
        return self._admissions[name].in_flight

    async def serve(self, exchange: Exchange, target: ToModel | ByModelField) -> web.StreamResponse:
        """Answer one request; its record is closed in every outcome."""
        try:
            response = await self._serve(exchange, target)
            self._close(exchange, Outcome.OK, response.status)
            return response
        except asyncio.CancelledError:
            outcome = Outcome.STOPPED if self.is_stopping else Outcome.CLIENT_CLOSED
            self._close(exchange, outcome, 503 if self.is_stopping else CLIENT_CLOSED_STATUS)
            exchange.abort()
            raise
        except ClientGoneError:
            self._close(exchange, Outcome.CLIENT_CLOSED, CLIENT_CLOSED_STATUS)
            exchange.abort()
            return exchange.response or web.Response(status=CLIENT_CLOSED_STATUS)
        except Exception as error:  # noqa: BLE001 - every failure becomes an answer and a record
            return await self._answer_failure(exchange, error)

    async def _answer_failure(self, exchange: Exchange, error: Exception) -> web.StreamResponse:
        outcome = _outcome_of(error)
        if self.is_stopping and outcome is Outcome.ENGINE_DIED:
            outcome = Outcome.STOPPED
            error = CapacityError("The instance was stopped before the answer was complete.")
        answer = answer_for(error)
        if outcome in (Outcome.ENGINE_DIED, Outcome.INTERNAL):
            self._log(
                f"A request for {exchange.record.model!r} failed: {type(error).__name__}: {error}"
            )
        committed = exchange.response
        self._close(exchange, outcome, committed.status if committed else answer.status)
        return await exchange.fail(answer)

    def _close(self, exchange: Exchange, outcome: Outcome, status: int) -> None:
        """End the record, and count its tokens for the key."""
        usage = exchange.record.close(outcome, status)
        if exchange.is_limited and exchange.identity is not None:
            exchange.is_limited = False
            self._limiter.leave(exchange.identity, usage.prompt + usage.completion)

    async def _serve(
        self, exchange: Exchange, target: ToModel | ByModelField
    ) -> web.StreamResponse:
        identity = exchange.identity
        assert identity is not None
        if isinstance(target, ToModel):
            self._assign(exchange, identity, target.name)
        body = RequestBody(exchange.request, self._settings.max_body_bytes)
        try:
            model = await self._pick(target, body)
            self._assign(exchange, identity, model.name)
            admission = self._admissions[model.name]
            if not admission.try_enter(identity.name, identity.priority):
                if admission.has_room:
                    exchange.record.queue()
                await admission.wait(identity.name, identity.priority)
            entered = time.monotonic()
            try:
                await body.prepare()
                return await self._forward(exchange, model, target, body)
            finally:
                admission.leave(time.monotonic() - entered, identity.name)
        finally:
            body.close()

    def _assign(self, exchange: Exchange, identity: Identity, model: str) -> None:
        """Say which model the request is for, unless its key may not make it: that is no use of it."""
        if not exchange.is_limited:
            self._limiter.enter(identity, model)
            exchange.is_limited = True
            exchange.record.assign(model, identity.name)

    async def _pick(self, target: ToModel | ByModelField, body: RequestBody) -> ServedModel:
        if isinstance(target, ToModel):
            return self._models[target.name]
        name = await body.model() if body.is_present else None
        if name is None:
            if self._only is not None:
                return self._only
            raise RequestError(
                f"The request names no model: set the field 'model', or use /<model>{target.path}. "
                f"Served: {', '.join(self._routes.names)}.",
                code="model_required",
                param="model",
            )
        model = self._models.get(name)
        if model is None:
            raise self._routes.unknown_model(name)
        return model

    async def _forward(
        self,
        exchange: Exchange,
        model: ServedModel,
        target: ToModel | ByModelField,
        body: RequestBody,
    ) -> web.StreamResponse:
        async def request() -> aiohttp.ClientResponse:
            await self._ensure_ready(exchange, model, body)
            await self._check_limits(model, target.path, body)
            return await self._send(exchange, model, target, body)

        async with await self._until_connected(request, body) as upstream:
            return await self._relay(exchange, upstream)

    async def _until_connected(
        self,
        request: Callable[[], Awaitable[aiohttp.ClientResponse]],
        body: RequestBody,
    ) -> aiohttp.ClientResponse:
        """Make a request again while the engine refuses connections: it may be about to restart.

        Nothing was sent then, so nothing can happen twice.
        """
        refused_since: float | None = None
        while True:
            try:
                return await request()
            except EngineConnectError:
                now = time.monotonic()
                refused_since = now if refused_since is None else refused_since
                if not body.can_repeat or now - refused_since > RECONNECT_FOR_S:
                    raise
                await asyncio.sleep(RECONNECT_EVERY_S)

    async def _ensure_ready(
        self, exchange: Exchange, model: ServedModel, body: RequestBody
    ) -> None:
        upstream = model.upstream
        wait_s = self._settings.load_wait_s
        if upstream.status == "ready":
            await upstream.ensure_ready(wait_s)  # returns at once; the status alone is no promise
            return
        exchange.record.wake()
        if exchange.response is not None or await body.asks_for_stream():
            settings = self._settings
            await wait_with_heartbeats(
                exchange,
                upstream.ensure_ready(wait_s),
                settings.heartbeat_after_s,
                settings.heartbeat_every_s,
            )
        else:
            await upstream.ensure_ready(wait_s)

    async def _check_limits(self, model: ServedModel, path: str, body: RequestBody) -> None:
        limits = TokenLimits(model.max_input_tokens, model.max_total_tokens)
        if not limits.are_set or not is_counted(path) or not body.is_present:
            return

        async def ask(route: str, question: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            return await self._client.post_json(model.upstream.address, route, question)

        await check_token_limits(path, await body.json_object(), limits, ask)

    async def _send(
        self,
        exchange: Exchange,
        model: ServedModel,
        target: ToModel | ByModelField,
        body: RequestBody,
    ) -> aiohttp.ClientResponse:
        exchange.record.start()
        request = exchange.request
        try:
            return await self._client.send(
                model.upstream.address,
                request.method,
                target.target,
                headers_for_engine(request.headers),
                body.payload(),
            )
        except EngineCrashError:
            if body.failure is not None:  # not the engine's fault: the upload broke off
                raise body.failure from None
            raise

    async def _relay(
        self, exchange: Exchange, upstream: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        """Pass the engine's answer on, each piece when it comes; pieces are never looked into."""
        is_stream = upstream.content_type == EVENT_STREAM
        if exchange.response is None:
            await exchange.commit(client_response(upstream))
        elif upstream.status != 200 or not is_stream:
            return await exchange.fail(await _late_error(upstream))
        record = exchange.record
        tells_usage = is_stream or upstream.content_type == JSON
        while chunk := await _read(upstream):
            if is_stream:
                record.first_token()
            if tells_usage:
                record.saw(chunk)
            await exchange.write(chunk)
        return await exchange.finish()


async def _read(upstream: aiohttp.ClientResponse) -> bytes:
    try:
        return await upstream.content.readany()
    except (aiohttp.ClientError, OSError) as error:
        raise EngineCrashError(
            "The engine's answer broke off: it crashed or closed the connection."
        ) from error


async def _late_error(upstream: aiohttp.ClientResponse) -> ErrorAnswer:
    """Turn an answer that came after the 200 was committed into the text of an error event."""
    text = (await upstream.content.read(MAX_ERROR_BYTES)).decode("utf-8", "replace")
    try:
        error = json.loads(text)["error"]
        message, kind, code = error["message"], error.get("type"), error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, kind, code = f"The engine answered {upstream.status}: {text[:500]}", None, None
    return ErrorAnswer(
        upstream.status, str(message), str(kind or "server_error"), str(code or upstream.status)
    )


def _outcome_of(error: Exception) -> Outcome:
    if isinstance(error, RequestError):
        return Outcome.REFUSED
    if isinstance(error, CapacityError):
        return Outcome.TIMEOUT
    if isinstance(error, EngineError):
        return Outcome.ENGINE_DIED
    return Outcome.INTERNAL
