"""The way of a request to its engine where nothing has to be waited for: most requests' way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.gateway import model_field
from common.gateway.body import check_encoding, is_multipart, model_name

if TYPE_CHECKING:
    from common.gateway.exchange import Exchange
    from common.gateway.proxy import ModelProxy
    from common.gateway.served_engine import ServedEngine


def go_at_once(proxy: ModelProxy, exchange: Exchange) -> bool:
    """Do all that can be done without waiting; whether the engine has the request now."""
    head = exchange.head
    identity = proxy.authenticator.known(head.secret)
    if identity is None:
        return False
    exchange.identity = identity
    proxy.enter(exchange)
    engine = exchange.route.engine
    if engine is not None:
        exchange.assign(engine)
    elif exchange.body.is_complete and exchange.body.size <= model_field.SMALL_BODY_BYTES:
        engine = _named_engine(proxy, exchange)
        if engine is not None:
            exchange.assign(engine)
    if not exchange.body.is_complete:
        if (head.content_length or 0) > proxy.max_body_bytes:
            raise proxy.too_large()
        return False
    if engine is None or not engine.admission.try_enter(identity.name, identity.priority):
        return False
    exchange.got_place()
    if engine.has_token_limits or engine.upstream.status != "ready":
        return False
    pool = engine.pool()
    link = pool.take()
    if link is None:
        return False
    memory = exchange.memory
    if memory is None:
        memory = exchange.memory = exchange.body.take()
    exchange.forward(pool, link, memory, len(memory))
    return True


def _named_engine(proxy: ModelProxy, exchange: Exchange) -> ServedEngine | None:
    """Return the engine that a small body names; None: the body has to be looked at otherwise."""
    head = exchange.head
    if not exchange.body.size:
        return proxy.unnamed_engine(exchange)
    if head.content_type[:1] in b"mM" and is_multipart(head):
        return None
    if head.content_encoding:
        check_encoding(head)
    memory = exchange.memory = exchange.body.take()
    name = model_field.leading_model(memory)
    if name is None:
        name = model_name(model_field.parse_object(memory).get("model"))
    return proxy.engine_named(name, exchange)
