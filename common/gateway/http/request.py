"""The head of a client's request, as the gateway needs it (pure)."""

from __future__ import annotations

import re

from common.errors import RequestError
from common.gateway.http import headers as h

SAFE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")

FieldList = list[tuple[bytes, bytes]]


class RequestHead:
    """A request's line and fields.

    Attributes:
        method: As it came, such as ``POST``.
        target: Request target as it came.
        is_http10: Whether the client speaks HTTP/1.0.
        keeps_alive: Whether the connection may carry a further request.
        is_plain: Whether its answer needs nothing special: a body, and a connection that goes on.
        fields: All fields as they came.
        forwarded: Those for the engine, flat: name, ``: ``, value, CRLF, and so on.
        content_length: Length of the body; None: it has none, or it is chunked.
        is_chunked: Whether the body comes in chunks.
        expects_continue: Whether the client waits for 100 before it sends the body.
        is_forwarded: Whether a proxy in front says who asks (X-Forwarded-...).
        begin: What an engine got of it last: its target, its pool's lines, and the head up to the
            request's ID, which is the same whenever this head comes again.
        request_id: What the client calls this request; empty when it does not, or not sanely.
    """

    # What most requests do not have stands in the class, and in an instance's own dictionary when set.
    __slots__ = (
        "__dict__",
        "_secret",
        "authorization",
        "begin",
        "content_length",
        "content_type",
        "fields",
        "forwarded",
        "host",
        "is_http10",
        "is_plain",
        "keeps_alive",
        "method",
        "target",
    )

    is_chunked = expects_continue = has_cookie = is_forwarded = False
    api_key = content_encoding = origin = request_id = b""
    forwarded_for = forwarded_proto = forwarded_host = b""

    def __init__(
        self, method: bytes, target: bytes, fields: FieldList, is_http10: bool, keeps_alive: bool
    ) -> None:
        self.method = method
        self.target = target
        self.fields = fields
        self.is_http10 = is_http10
        self.keeps_alive = keeps_alive
        self.content_length: int | None = None
        self.begin: tuple[bytes, bytes, bytes] | None = None
        self._secret: str | None = ""  # not looked for yet
        self.is_plain = keeps_alive and not is_http10 and method != b"HEAD"
        self.forwarded: list[bytes] = []
        self.content_type = self.authorization = self.host = b""

    @property
    def has_body(self) -> bool:
        """Whether a body is announced, and not an empty one."""
        return self.is_chunked or bool(self.content_length)

    @property
    def can_recur(self) -> bool:
        """Whether the same fields with another length have the same meaning on their connection."""
        return self.is_plain and self.content_length is not None and not self.expects_continue

    def announce(self, length: int) -> None:
        """Say that the body has another length."""
        self.content_length = length
        value = b"%d" % length
        self.fields = [
            (name, value if name.lower() == b"content-length" else text)
            for name, text in self.fields
        ]

    @property
    def secret(self) -> str | None:
        """The key of ``X-Api-Key`` or ``Authorization: Bearer``; None when there is neither.

        With both, the latter may be meant for a gateway in front, which passes it on.
        """
        if self._secret == "":
            self._secret = self._find_secret()
        return self._secret

    def _find_secret(self) -> str | None:
        api_key = self.api_key
        if api_key and (api_key := api_key.strip()):
            return api_key.decode("utf-8", "surrogateescape")
        scheme, _, value = self.authorization.partition(b" ")
        if (scheme == b"Bearer" or scheme.lower() == b"bearer") and (value := value.strip()):
            return value.decode("utf-8", "surrogateescape")
        return None

    def values(self, name: str) -> list[str]:
        """Return all values of a field, in their order."""
        wanted = name.lower().encode("latin-1")
        return [v.decode("latin-1").strip() for n, v in self.fields if n.lower() == wanted]


def read_head(
    kinds: h.FieldKinds,
    method: bytes,
    target: bytes,
    fields: FieldList,
    *,
    is_http10: bool,
    keeps_alive: bool,
) -> RequestHead:
    """Sort a request's fields.

    Args:
        kinds: Of `headers.REQUEST_KINDS`.
        method: As it came.
        target: As it came.
        fields: All fields; the parser has checked their syntax and that the framing is one only.
        is_http10: Whether it is HTTP/1.0.
        keeps_alive: What the parser says.

    Raises:
        RequestError: 400, 417 or 501; it cannot be forwarded without being misread by somebody.
    """
    head = RequestHead(method, target, fields, is_http10, keeps_alive)
    forwarded = head.forwarded
    seen = kinds.seen
    hosts = 0
    dropped: list[bytes] | None = None
    for name, value in fields:
        kind = seen.get(name)
        if kind is None:
            kind = kinds.of(name)
        if kind == 0:  # headers.PASSES
            forwarded += (name, b": ", value, b"\r\n")
        elif kind == h.HOST:
            head.host = value
            hosts += 1
        elif kind == h.CONNECTION:
            if not h.only_options(value):
                dropped = [*(dropped or ()), value]
        elif kind == h.CONTENT_LENGTH:
            head.content_length = int(value)
        elif kind == h.CONTENT_TYPE:
            head.content_type = value
            forwarded += (name, b": ", value, b"\r\n")
        elif kind == h.AUTHORIZATION:
            head.authorization = value
        else:
            _read_rare(head, kind, name, value)
    if hosts != 1 and (hosts > 1 or not is_http10):
        raise bad_request("it has no Host field" if hosts == 0 else "it has several Host fields")
    if dropped is not None:
        head.forwarded = h.without(forwarded, h.connection_tokens(dropped))
    return head


def _read_rare(head: RequestHead, kind: int, name: bytes, value: bytes) -> None:
    if kind == h.TRANSFER_ENCODING:
        _read_transfer_encoding(head, value)
    elif kind == h.EXPECT:
        _read_expectation(head, value)
    elif kind in (h.CONTENT_ENCODING, h.ORIGIN):
        head.forwarded += (name, b": ", value, b"\r\n")
        if kind == h.ORIGIN:
            head.origin = value
        else:
            head.content_encoding = value
    elif kind == h.REQUEST_ID:
        if SAFE_REQUEST_ID.fullmatch(value):
            head.request_id = value
    elif kind == h.FORWARDED_FOR:
        head.is_forwarded = True
        before = head.forwarded_for
        head.forwarded_for = b"%b, %b" % (before, value) if before else value
    elif kind in _KEPT_AS:
        head.is_forwarded = head.is_forwarded or kind != h.API_KEY
        setattr(head, _KEPT_AS[kind], value)
    elif kind == h.COOKIE:
        head.has_cookie = True


_KEPT_AS = {
    h.API_KEY: "api_key",
    h.FORWARDED_PROTO: "forwarded_proto",
    h.FORWARDED_HOST: "forwarded_host",
}


def _read_transfer_encoding(head: RequestHead, value: bytes) -> None:
    if head.is_http10:
        raise bad_request("HTTP/1.0 has no Transfer-Encoding")
    if value.strip().lower() != b"chunked":
        raise RequestError(
            "The request's Transfer-Encoding is not supported; send 'chunked' or a Content-Length.",
            status=501,
            code="unsupported_transfer_encoding",
        )
    head.is_chunked = True


def _read_expectation(head: RequestHead, value: bytes) -> None:
    if value.strip().lower() != b"100-continue":
        raise RequestError(
            "The request's Expect is not supported; only '100-continue' is.",
            status=417,
            code="unsupported_expectation",
        )
    head.expects_continue = not head.is_http10


def bad_request(reason: str, status: int = 400, code: str = "bad_request") -> RequestError:
    """Return the refusal of a request that is no proper HTTP."""
    return RequestError(f"The request is not valid HTTP: {reason}.", status=status, code=code)


def cookies(head: RequestHead) -> dict[str, str]:
    """Return the request's cookies; of a repeated one the first counts (RFC 6265 5.4)."""
    found: dict[str, str] = {}
    for line in head.values("cookie") if head.has_cookie else ():
        for pair in line.split(";"):
            name, equals, value = pair.strip().partition("=")
            if equals and name not in found:
                found[name] = value.strip('"')
    return found
