"""What a request may have to wait for, in this order: who asks, which model its body names, a place
at the model, the rest of a small body, the model itself, a count of its tokens, a connection."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from common.errors import EngineCrashError
from common.gateway.body import RequestBody
from common.gateway.heartbeat import wait_with_heartbeats
from common.gateway.http.engine_client import ask_engine
from common.gateway.http.engine_connection import EngineConnection
from common.gateway.http.engine_pool import EngineConnectError, EnginePool
from common.gateway.token_limits import check_token_limits, is_counted

if TYPE_CHECKING:
    from common.gateway.exchange import Exchange
    from common.gateway.proxy import ModelProxy
    from common.gateway.served_engine import ServedEngine

RECONNECT_EVERY_S = 0.1
RECONNECT_FOR_S = 10.0
"""For the supervisor to notice the death of an engine that refused a connection: one of several
processes closes its socket seconds before the last of them has ended."""


async def serve(proxy: ModelProxy, exchange: Exchange) -> None:
    """Bring a request to its engine from wherever it stands. Its end is recorded in every outcome."""
    await _until_done(exchange, _serve(proxy, exchange))


async def send_again(proxy: ModelProxy, exchange: Exchange) -> None:
    """Send a request again, on a fresh connection."""
    await _until_done(exchange, _forward(proxy, exchange, is_again=True))


async def _until_done(exchange: Exchange, work: Awaitable[None]) -> None:
    try:
        await work
    except asyncio.CancelledError:
        if exchange.task is asyncio.current_task():  # by the end of the event loop
            exchange.stop()
        raise
    except Exception as error:  # noqa: BLE001 - every failure becomes an answer and a record
        exchange.fail(error)
    finally:
        if exchange.task is asyncio.current_task():
            exchange.task = None


async def _serve(proxy: ModelProxy, exchange: Exchange) -> None:
    if exchange.identity is None:
        await _identify(proxy, exchange)
        if exchange.route.engine is not None:
            exchange.assign(exchange.route.engine)
        length = exchange.head.content_length
        if length is not None and length > proxy.max_body_bytes:
            raise proxy.too_large()
    body = exchange.kept = RequestBody(exchange.head, exchange.body)
    body.memory, exchange.memory = exchange.memory, None
    engine = exchange.engine
    if engine is None:
        name = await body.model() if body.is_present else None
        engine = proxy.engine_named(name, exchange)
        exchange.assign(engine)
    await body.prepare()  # before it takes a place: a client that sends slowly must not hold one
    if not exchange.has_place:
        await _wait_for_a_place(exchange, engine)
    await _forward(proxy, exchange)


async def _identify(proxy: ModelProxy, exchange: Exchange) -> None:
    secret = proxy.secret_of(exchange.head)
    identity = await proxy.authenticator.identify(secret)
    _check_wanted(exchange)
    if identity is None:
        raise proxy.authenticator.refuse(secret)
    exchange.identify(identity)


async def _wait_for_a_place(exchange: Exchange, engine: ServedEngine) -> None:
    identity = exchange.identity
    assert identity is not None
    if engine.admission.has_room:
        exchange.record.queue()
    await engine.admission.wait(identity.name, identity.priority)
    exchange.got_place()


def _check_wanted(exchange: Exchange) -> None:
    """Stop for a client that left at the very moment that something came which was waited for.

    `asyncio.wait_for` returns its result then, and the cancellation is lost (before Python 3.12).
    """
    if exchange.is_over:
        raise asyncio.CancelledError


async def _forward(proxy: ModelProxy, exchange: Exchange, *, is_again: bool = False) -> None:
    body, engine = exchange.kept, exchange.engine
    assert engine is not None
    if body is None:  # sent at once the first time
        body = exchange.kept = RequestBody(exchange.head, exchange.body)
        body.memory, exchange.memory = exchange.memory, None
    pool, link = await _connected(proxy, exchange, engine, body, is_fresh=is_again)
    try:
        _check_wanted(exchange)
    except asyncio.CancelledError:
        link.close()
        raise
    if body.memory is not None:
        exchange.memory = body.memory
        exchange.forward(pool, link, body.memory, len(body.memory))
        return
    size = body.size
    exchange.forward(pool, link, b"", size)
    is_chunked = size is None
    async for block in body.blocks():
        await link.write(b"%x\r\n%b\r\n" % (len(block), block) if is_chunked else block)
    if is_chunked:
        await link.write(b"0\r\n\r\n")


async def _connected(
    proxy: ModelProxy,
    exchange: Exchange,
    engine: ServedEngine,
    body: RequestBody,
    *,
    is_fresh: bool,
) -> tuple[EnginePool, EngineConnection]:
    """Return a connection to the engine, which is ready.

    While it refuses connections it may be about to restart: nothing was sent then, so nothing can
    happen twice.
    """
    refused_since: float | None = None
    while True:
        try:
            await _ensure_ready(proxy, exchange, engine, body)
            await _check_limits(exchange, engine, body)
            pool = engine.pool()
            return pool, (None if is_fresh else pool.take()) or await pool.connect()
        except EngineConnectError:
            now = time.monotonic()
            refused_since = now if refused_since is None else refused_since
            if now - refused_since > RECONNECT_FOR_S:
                raise
            await asyncio.sleep(RECONNECT_EVERY_S)


async def _ensure_ready(
    proxy: ModelProxy, exchange: Exchange, engine: ServedEngine, body: RequestBody
) -> None:
    upstream = engine.model.upstream
    settings = proxy.settings
    ready = upstream.ensure_ready
    if upstream.status == "ready":
        await ready(settings.load_wait_s)  # returns at once; the status alone is no promise
        return
    exchange.record.wake()
    if exchange.has_begun or await body.asks_for_stream():
        await wait_with_heartbeats(
            exchange,
            ready(settings.load_wait_s),
            settings.heartbeat_after_s,
            settings.heartbeat_every_s,
        )
    else:
        await ready(settings.load_wait_s)


async def _check_limits(exchange: Exchange, engine: ServedEngine, body: RequestBody) -> None:
    path = exchange.route.path
    if not engine.limits.are_set or not is_counted(path) or not body.is_present:
        return

    async def ask(route: str, question: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, text = await ask_engine(engine.pool(), "POST", route, json.dumps(question).encode())
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = {}
        return status, parsed if isinstance(parsed, dict) else {}

    await check_token_limits(path, await body.json_object(), engine.limits, ask)


async def engine_text(engine: ServedEngine, path: str, timeout_s: float) -> str:
    """Return the text of one of an engine's own routes, such as its metrics.

    Raises:
        EngineCrashError: It does not answer with 200 in time.
    """
    try:
        status, text = await asyncio.wait_for(ask_engine(engine.pool(), "GET", path), timeout_s)
    except asyncio.TimeoutError:
        raise EngineCrashError(f"The engine did not answer on {path}.") from None
    if status != 200:
        raise EngineCrashError(f"The engine answered {status} on {path}.")
    return text.decode("utf-8", "replace")
