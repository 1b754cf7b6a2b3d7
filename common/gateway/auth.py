"""Who may use the instance: authenticators, the credential in a request, browser sessions."""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.errors import ConfigurationError, RequestError
from common.gateway.keys import KeyEntry, Role, hash_key, list_keys

KEY_FILE_CHECK_S = 1.0
"""How often the key file is looked at: a revoked key works for at most so long."""

SESSION_S = 12 * 3600.0
MAX_SESSIONS = 256
SESSION_COOKIE = "clearml_deploy_session"


@dataclass(frozen=True)
class Identity:
    """Who asks; `name` is for the telemetry and is no secret."""

    name: str
    role: Role


class Authenticator(Protocol):
    """Decides about the secret that a request carries. Never blocks the event loop."""

    @property
    def needs_secret(self) -> bool:
        """Whether a browser has to log in."""

    async def identify(self, secret: str | None) -> Identity | None:
        """Return who shows this secret, or None when it opens nothing.

        Raises:
            CapacityError: It cannot be decided now.
        """


class OpenAuthenticator:
    """``none``: everybody may use the instance, nobody may operate it."""

    needs_secret = False

    async def identify(self, secret: str | None) -> Identity | None:
        """Return the anonymous user."""
        return Identity("anonymous", Role.USE)


class ApiKeyAuthenticator:
    """``api_key``: the instance's own key, and the further ones of a key file.

    The file is read again when it changes. One that became unreadable leaves the last good keys in
    force and is reported once.

    Args:
        api_key: The instance's key.
        key_file: Further keys; may be missing, and may appear later.
        api_key_role: What the instance's own key may do. Who has it may read the task, so by
            default it may also operate the models.
        log: Gets a line when the key file cannot be read.
        clock: Monotonic seconds.

    Raises:
        ConfigurationError: The key file exists and is no key file.
    """

    needs_secret = True

    def __init__(
        self,
        api_key: str,
        key_file: Path | None = None,
        *,
        api_key_role: Role = Role.ADMIN,
        log: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = KeyEntry("instance", "instance", api_key_role, hash_key(api_key), 0)
        self._key_file = key_file
        self._log = log
        self._clock = clock
        self._checked = clock()
        self._stamp = self._file_stamp()
        self._entries = (self._own, *(list_keys(key_file) if key_file else ()))

    async def identify(self, secret: str | None) -> Identity | None:
        """Compare with every key, always all of them, each in constant time."""
        if not secret:
            return None
        self._reload_if_changed()
        digest = hash_key(secret)
        found: KeyEntry | None = None
        for entry in self._entries:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return Identity(found.name, found.role) if found else None

    def _reload_if_changed(self) -> None:
        now = self._clock()
        if self._key_file is None or now - self._checked < KEY_FILE_CHECK_S:
            return
        self._checked = now
        stamp = self._file_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._entries = (self._own, *list_keys(self._key_file))
        except ConfigurationError as error:
            if self._log:
                self._log(f"The keys stay as they were: {error}")

    def _file_stamp(self) -> tuple[int, int, int] | None:
        if self._key_file is None:
            return None
        try:
            status = self._key_file.stat()
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size, status.st_ino)


class Sessions:
    """Browser logins: a random cookie value stands for the key that was typed in.

    The key stays in this process's memory and is asked about at each request, so that a revoked key
    ends its sessions. They end with the process.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def open(self, secret: str) -> str:
        """Return the cookie value of a new session; the oldest one goes when there are too many."""
        value = secrets.token_urlsafe(32)
        self._sessions[value] = (self._clock() + SESSION_S, secret)
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return value

    def secret(self, value: str | None) -> str | None:
        """Return the key behind a cookie value, None when there is no such session (any more)."""
        if value is None or value not in self._sessions:
            return None
        ends, secret = self._sessions[value]
        if self._clock() >= ends:
            del self._sessions[value]
            return None
        return secret

    def close(self, value: str | None) -> None:
        """Forget a session."""
        if value is not None:
            self._sessions.pop(value, None)


def secret_from_headers(headers: Mapping[str, str]) -> str | None:
    """Return the key of ``Authorization: Bearer`` or ``X-Api-Key``; None when there is neither."""
    authorization = headers.get("Authorization", "")
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("X-Api-Key") or None


def refuse_unknown(secret: str | None) -> RequestError:
    """Return the 401 for a missing or wrong key; it does not repeat the key."""
    if secret is None:
        return RequestError(
            "This instance asks for an API key: send 'Authorization: Bearer <key>' or "
            "'X-Api-Key: <key>'.",
            status=401,
            code="missing_api_key",
        )
    return RequestError(
        "The API key is not valid for this instance.", status=401, code="invalid_api_key"
    )


def refuse_role(identity: Identity) -> RequestError:
    """Return the 403 for an operation that needs the admin role."""
    return RequestError(
        f"The key {identity.name!r} may use the models but not operate them; this route needs a "
        "key with the role 'admin'.",
        status=403,
        error_type="permission_error",
        code="admin_required",
    )
