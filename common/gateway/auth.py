"""Who may use the instance: authenticators, the credential in a request, browser sessions."""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from common.errors import ConfigurationError, RequestError
from common.gateway.key_file import list_keys
from common.gateway.keys import KeyEntry, KeyLimits, Role, hash_key

KEY_FILE_CHECK_S = 1.0
"""How often the key file is looked at: a revoked key works for at most so long."""

SESSION_S = 12 * 3600.0
MAX_SESSIONS = 256
SESSION_COOKIE = "clearml_deploy_session"


@dataclass(frozen=True)
class Identity:
    """Who asks.

    Attributes:
        name: For the telemetry and the limits; no secret.
        role: What is allowed.
        models: Endpoint names that may be used; None: all.
        priority: Higher goes first where requests wait for a place at a model.
        limits: How much may be used; None: no limit.
    """

    name: str
    role: Role
    models: frozenset[str] | None = None
    priority: int = 0
    limits: KeyLimits | None = None


class Authenticator(Protocol):
    """Decides about the secret that a request carries. Never blocks the event loop."""

    @property
    def needs_secret(self) -> bool:
        """Whether a browser has to log in."""

    def known(self, secret: str | None) -> Identity | None:
        """Return who shows this secret, from memory.

        None: it opens nothing, or somebody has to be asked; `identify` tells which.
        """

    async def identify(self, secret: str | None) -> Identity | None:
        """Return who shows this secret, or None when it opens nothing.

        Raises:
            RequestError: It is known, and may not use this instance.
            CapacityError: It cannot be decided now.
        """

    def refuse(self, secret: str | None) -> RequestError:
        """Return the 401 for a secret that opens nothing, or for none; does not repeat it."""


class OpenAuthenticator:
    """``none`` and ``gateway``: everybody may use the instance, nobody may operate it.

    Args:
        name: Under which the telemetry counts everybody.
    """

    needs_secret = False

    def __init__(self, name: str = "anonymous") -> None:
        self._identity = Identity(name, Role.USE)

    def known(self, secret: str | None) -> Identity | None:
        """Return the one user that there is."""
        return self._identity

    async def identify(self, secret: str | None) -> Identity | None:
        """As `known`."""
        return self._identity

    def refuse(self, secret: str | None) -> RequestError:
        """As of an instance with keys; never needed."""
        return refuse_unknown(secret)


class _HeldKey:
    """A key in memory: its digest as bytes, and who it is."""

    __slots__ = ("digest", "expires", "identity")

    def __init__(self, entry: KeyEntry) -> None:
        limits = entry.limits if entry.limits.are_set else None
        self.digest = bytes.fromhex(entry.sha256)
        self.expires = entry.expires
        self.identity = Identity(entry.name, entry.role, entry.models, entry.priority, limits)


class ApiKeyAuthenticator:
    """``api_key``: the instance's own key, those of its configuration and those of a key file.

    The file is read again when it changes. One that became unreadable leaves the last good keys in
    force and is reported once. Looking costs one `stat` a second at most, on the event loop: a
    thread that looks would have to be waited for, or let a key pass that was just revoked.

    A key is found by its SHA-256, so that the time does not grow with the number of keys. That time
    tells nothing about a key: whoever measures it cannot choose the digest. The digests themselves
    are compared in constant time. A key that was found is known without its digest until the key
    file is looked at again; a dictionary compares whole hashes, seeded at random, before it
    compares texts, so its time tells nothing of a wrong key either.

    Args:
        api_key: The instance's key.
        key_file: Further keys; may be missing, and may appear later.
        entries: Further keys that do not change.
        api_key_role: What the instance's own key may do. Who has it may read the task, so by
            default it may also operate the models.
        log: Gets a line when the key file cannot be read.
        clock: Monotonic seconds.
        wall_clock: Unix time in seconds, for the ends of keys.

    Raises:
        ConfigurationError: The key file exists and is no key file.
    """

    needs_secret = True

    def __init__(
        self,
        api_key: str,
        key_file: Path | None = None,
        entries: Sequence[KeyEntry] = (),
        *,
        api_key_role: Role = Role.ADMIN,
        log: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        own = KeyEntry("instance", "instance", api_key_role, hash_key(api_key), 0)
        self._fixed = (*entries, own)
        self._key_file = key_file
        self._log = log
        self._clock = clock
        self._wall_clock = wall_clock
        self._check_at = clock() + KEY_FILE_CHECK_S
        self._stamp = self._file_stamp()
        self._held: dict[bytes, _HeldKey] = {}
        self._shown: dict[str, _HeldKey] = {}
        self._hold(list_keys(key_file) if key_file else ())

    def known(self, secret: str | None) -> Identity | None:
        """Return whose key this is."""
        if self._clock() < self._check_at and secret is not None:
            held = self._shown.get(secret) or self._find(secret)
        else:
            held = self._find(secret)
        if held is None or (held.expires is not None and self._is_over(held)):
            return None
        return held.identity

    async def identify(self, secret: str | None) -> Identity | None:
        """As `known`: everything is in memory."""
        return self.known(secret)

    def refuse(self, secret: str | None) -> RequestError:
        """Tell a key that has expired from a wrong one: only who has the key learns so."""
        held = self._find(secret)
        if held is not None and self._is_over(held):
            return RequestError(
                f"The API key {held.identity.name!r} has expired.",
                status=401,
                code="expired_api_key",
            )
        return refuse_unknown(secret)

    def _find(self, secret: str | None) -> _HeldKey | None:
        if not secret:
            return None
        if self._clock() >= self._check_at:
            self._reload_if_changed()
        digest = sha256(secret.encode("utf-8", "surrogateescape")).digest()
        held = self._held.get(digest)
        if held is None or not hmac.compare_digest(held.digest, digest):
            return None
        self._shown[secret] = held
        return held

    def _is_over(self, held: _HeldKey) -> bool:
        return held.expires is not None and self._wall_clock() >= held.expires

    def _hold(self, of_file: Sequence[KeyEntry]) -> None:
        # The instance's own key comes last: no other entry may take its place.
        keys = [_HeldKey(entry) for entry in (*of_file, *self._fixed)]
        self._held = {key.digest: key for key in keys}

    def _reload_if_changed(self) -> None:
        self._check_at = self._clock() + KEY_FILE_CHECK_S
        self._shown.clear()
        stamp = self._file_stamp()
        if self._key_file is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._hold(list_keys(self._key_file))
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


def refuse_use(identity: Identity) -> RequestError:
    """Return the 403 for a key that may only read the metrics."""
    return RequestError(
        f"The key {identity.name!r} may read the metrics but not use the models; this route needs a "
        "key with the role 'use' or 'admin'.",
        status=403,
        error_type="permission_error",
        code="use_required",
    )


def refuse_role(identity: Identity) -> RequestError:
    """Return the 403 for an operation that needs the admin role."""
    return RequestError(
        f"The key {identity.name!r} may not operate the models; this route needs a key with the role "
        "'admin'.",
        status=403,
        error_type="permission_error",
        code="admin_required",
    )
