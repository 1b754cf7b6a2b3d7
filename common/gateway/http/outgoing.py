"""The bytes of a request to an engine (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from common.gateway.http.request import RequestHead


class Sender(Protocol):
    """A client's connection.

    Attributes:
        peer: The client's address.
        scheme: ``http`` or ``https``.
        origin_lines: The fields that say so, up to the value of the last one, X-Forwarded-Host.
    """

    peer: bytes
    scheme: bytes
    origin_lines: bytes


def request_bytes(
    head: RequestHead,
    target: bytes,
    first_lines: bytes,
    sender: Sender,
    request_id: bytes,
    payload: bytes,
    length: int | None,
) -> bytes:
    """Return a request's head with the beginning of its body.

    Args:
        head: The client's.
        target: What the engine is asked for.
        first_lines: What follows the target in every request to this engine.
        sender: Where the request came from.
        request_id: What the request is called.
        payload: What of the body goes with the head.
        length: The whole body's; None: it goes in chunks.
    """
    begin = head.begin
    if begin is None or begin[0] is not target or begin[1] is not first_lines:
        begin = head.begin = (target, first_lines, _begin(head, target, first_lines, sender))
    if length is not None and (length or head.content_length is not None):
        return b"".join((begin[2], request_id, b"\r\nContent-Length: %d\r\n\r\n" % length, payload))
    lines = [begin[2], request_id, b"\r\n"]
    if head.content_length is not None:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif head.is_chunked:
        lines.append(
            b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: 0\r\n"
        )
    lines += (b"\r\n", payload)
    return b"".join(lines)


def _begin(head: RequestHead, target: bytes, first_lines: bytes, sender: Sender) -> bytes:
    lines = [head.method, b" ", target, first_lines, *head.forwarded]
    if head.is_forwarded:
        lines += _behind_a_proxy(head, sender)
    else:
        lines += (sender.origin_lines, head.host)
    lines.append(b"\r\nX-Request-Id: ")
    return b"".join(lines)


def _behind_a_proxy(head: RequestHead, sender: Sender) -> Iterable[bytes]:
    """Append the client to what a proxy in front says, and keep the rest of that."""
    before = head.forwarded_for
    return (
        b"X-Forwarded-For: ",
        b"%b, %b" % (before, sender.peer) if before else sender.peer,
        b"\r\nX-Forwarded-Proto: ",
        head.forwarded_proto or sender.scheme,
        b"\r\nX-Forwarded-Host: ",
        head.forwarded_host or head.host,
    )
