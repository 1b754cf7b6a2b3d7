"""Which pages in a browser may read the answers (Fetch standard, CORS protocol; pure)."""

from __future__ import annotations

from collections.abc import Iterable

from common.gateway.http.answer import Answer
from common.gateway.http.request import RequestHead

MAX_AGE_S = 600
_EXPOSED = b"Access-Control-Expose-Headers: X-Request-Id, Retry-After\r\n"


class Cors:
    """The origins that may use the instance from a browser.

    Args:
        origins: Such as ``https://app.example.com``; ``*``: all.

    Attributes:
        is_on: Whether any origin is allowed.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        given = [origin.rstrip("/").encode("latin-1", "replace") for origin in origins]
        self._allows_all = b"*" in given
        self._origins = frozenset(given)
        self.is_on = bool(given)

    def lines(self, origin: bytes) -> bytes:
        """Return the fields of an answer to a request from this origin, as lines."""
        if not self._origins:
            return b""
        allowed = self._allowed(origin)
        if allowed is None:
            return b"Vary: Origin\r\n"
        vary = b"" if allowed == b"*" else b"Vary: Origin\r\n"
        return b"Access-Control-Allow-Origin: %b\r\n%b%b" % (allowed, _EXPOSED, vary)

    def preflight(self, head: RequestHead) -> Answer | None:
        """Answer a browser's question before the request; None: it is none, or not allowed.

        Cookies are never allowed: they are for the instance's own page.
        """
        asked = head.values("access-control-request-method")
        if head.method != b"OPTIONS" or not asked or self._allowed(head.origin) is None:
            return None
        names = head.values("access-control-request-headers")
        fields = [
            ("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            ("Access-Control-Allow-Headers", ", ".join(names) or "*"),
            ("Access-Control-Max-Age", str(MAX_AGE_S)),
        ]
        return Answer(204, headers=fields)

    def _allowed(self, origin: bytes) -> bytes | None:
        if not origin:
            return None
        if self._allows_all:
            return b"*"
        return origin if origin in self._origins else None
