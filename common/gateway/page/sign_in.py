"""A browser's log-in: the session cookie, and which requests it may authenticate."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from common.errors import RequestError
from common.gateway.auth import SESSION_COOKIE, SESSION_S, Sessions
from common.gateway.page.origin import origin_of

SAFE_METHODS = ("GET", "HEAD")


class SignIn:
    """The sessions of one instance's page.

    Args:
        instance_id: Tells apart the cookies of instances on one host: cookies know no ports.
        public_url: Returns what clients use instead of the instance's own address.
    """

    def __init__(self, instance_id: str | None, public_url: Callable[[], str | None]) -> None:
        self.cookie_name = f"{SESSION_COOKIE}_{instance_id or 'local'}"
        self._public_url = public_url
        self._sessions = Sessions()

    def secret(
        self, method: str, headers: Mapping[str, str], cookies: Mapping[str, str]
    ) -> str | None:
        """Return the key behind a request's cookie; None without a session.

        Raises:
            RequestError: 403; the request would change something and is not from the page.
        """
        secret = self._sessions.secret(cookies.get(self.cookie_name))
        if secret is None or method in SAFE_METHODS:
            return secret
        if origin_of(headers, self._public_url()) != "own":
            raise RequestError(
                "This request carries a log-in of the instance's page but does not come from that page. "
                "Send the key as 'Authorization: Bearer <key>' instead.",
                status=403,
                error_type="permission_error",
                code="foreign_origin",
            )
        return secret

    def is_foreign(self, headers: Mapping[str, str]) -> bool:
        """Whether a form was sent from another origin."""
        return origin_of(headers, self._public_url()) == "foreign"

    def open(self, secret: str, *, is_tls: bool) -> str:
        """Begin a session; returns the ``Set-Cookie`` header."""
        return self._cookie(self._sessions.open(secret), int(SESSION_S), is_tls)

    def close(self, cookies: Mapping[str, str], *, is_tls: bool) -> str:
        """End a request's session; returns the ``Set-Cookie`` header that makes the browser forget it."""
        self._sessions.close(cookies.get(self.cookie_name))
        return self._cookie("", 0, is_tls)

    def _cookie(self, value: str, max_age_s: int, is_tls: bool) -> str:
        # Without a path the browser takes the page's own folder: also behind a gateway in front that
        # strips a prefix which nobody here knows, and not for the other instances behind it.
        secure = "; Secure" if is_tls else ""
        return f"{self.cookie_name}={value}; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}"
