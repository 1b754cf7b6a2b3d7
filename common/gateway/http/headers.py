"""Which header fields pass a proxy, and which it has to read (pure)."""

from __future__ import annotations

from collections.abc import Iterable

# Kinds of request and response fields, as small integers: they are compared for every field.
PASSES = 0
DROPPED = 1
CONNECTION = 2
CONTENT_LENGTH = 3
TRANSFER_ENCODING = 4
CONTENT_TYPE = 5
CONTENT_ENCODING = 6
HOST = 7
EXPECT = 8
AUTHORIZATION = 9
API_KEY = 10
COOKIE = 11
REQUEST_ID = 12
FORWARDED_FOR = 13
FORWARDED_PROTO = 14
FORWARDED_HOST = 15
ORIGIN = 16
UPGRADE = 17
DATE = 18

# RFC 9110 7.6.1 and the older ones that some peers still send; `Connection` may name more.
_HOP_BY_HOP = {
    b"connection": CONNECTION,
    b"content-length": CONTENT_LENGTH,
    b"keep-alive": DROPPED,
    b"proxy-authenticate": DROPPED,
    b"proxy-authorization": DROPPED,
    b"proxy-connection": DROPPED,
    b"te": DROPPED,
    b"trailer": DROPPED,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"upgrade": UPGRADE,
}

REQUEST_KINDS = {
    **_HOP_BY_HOP,
    b"content-type": CONTENT_TYPE,
    b"content-encoding": CONTENT_ENCODING,
    b"host": HOST,
    b"expect": EXPECT,
    b"authorization": AUTHORIZATION,
    b"x-api-key": API_KEY,
    b"cookie": COOKIE,
    b"x-request-id": REQUEST_ID,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"x-forwarded-host": FORWARDED_HOST,
    b"origin": ORIGIN,
    # With a conversation's ID llama.cpp goes on generating when its client has left, and keeps the
    # answer for whoever knows the ID.
    b"x-conversation-id": DROPPED,
    # What a proxy in front says of the client in other words must not contradict the above.
    b"forwarded": DROPPED,
}

RESPONSE_KINDS = {
    **_HOP_BY_HOP,
    b"content-type": CONTENT_TYPE,
    b"date": DATE,
    b"x-request-id": DROPPED,  # the gateway's own is returned
    # Who may read an answer from another origin is the gateway's decision, not an engine's.
    b"access-control-allow-origin": DROPPED,
    b"access-control-allow-credentials": DROPPED,
    b"access-control-allow-methods": DROPPED,
    b"access-control-allow-headers": DROPPED,
    b"access-control-expose-headers": DROPPED,
    b"access-control-max-age": DROPPED,
}

# `Connection: Content-Length` must not unframe a body, nor may it hide who asks.
_NEVER_HOP_BY_HOP = frozenset(
    {
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"host",
        b"authorization",
        b"x-api-key",
        b"cookie",
        b"transfer-encoding",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-request-id",
    }
)

MAX_KNOWN_SPELLINGS = 1024
"""Peers choose the spelling: what is remembered of it has to have an end."""


class FieldKinds:
    """Looks up the kind of a field by its name in any spelling; remembers the spellings it saw.

    Args:
        kinds: Kind by lower-case name; all others pass.
    """

    __slots__ = ("_kinds", "seen")

    def __init__(self, kinds: dict[bytes, int]) -> None:
        self._kinds = kinds
        self.seen: dict[bytes, int] = dict(kinds)

    def of(self, name: bytes) -> int:
        """Return the kind of a field."""
        kind = self.seen.get(name)
        if kind is None:
            kind = self._kinds.get(name.lower(), PASSES)
            if len(self.seen) < MAX_KNOWN_SPELLINGS:
                self.seen[name] = kind
        return kind


def connection_tokens(values: Iterable[bytes]) -> frozenset[bytes]:
    """Return the lower-case names that `Connection` fields make hop-by-hop, its options included."""
    tokens = {token.strip().lower() for value in values for token in value.split(b",")}
    return frozenset(tokens - _NEVER_HOP_BY_HOP - {b""})


def only_options(value: bytes) -> bool:
    """Whether a `Connection` field names no other field: the usual case, told quickly."""
    return value in _PLAIN_OPTIONS or value.lower() in _PLAIN_OPTIONS


_PLAIN_OPTIONS = frozenset({b"keep-alive", b"close", b""})


def without(fields: list[bytes], names: frozenset[bytes]) -> list[bytes]:
    """Return a flat list of name, ``: ``, value, CRLF without the named fields."""
    kept: list[bytes] = []
    for start in range(0, len(fields), 4):
        if fields[start].lower() not in names:
            kept += fields[start : start + 4]
    return kept
