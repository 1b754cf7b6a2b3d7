"""``GET /`` and what belongs to it: the page, its data, logging in and out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from common.errors import DeployError, RequestError
from common.gateway.auth import Authenticator, Identity
from common.gateway.models import GatewaySettings, InstanceView, ServedModel
from common.gateway.page.document import PageDocuments
from common.gateway.page.sign_in import SignIn
from common.gateway.page.state import (
    UNTITLED,
    Credential,
    may_read_console,
    own_state,
    shared_state,
)
from common.telemetry.recorder import Recorder

MAX_FORM_BYTES = 4096

STATE_EVERY_S = 1.0
"""However many look at the page, the instance's state is put together once in this time."""

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": with it browsers send "Origin: null" with the page's own forms.
    "Referrer-Policy": "same-origin",
}
FOREIGN_FORM = "This form was sent from another page. Please log in here."


@dataclass(frozen=True)
class PageRequest:
    """A request for the page.

    Attributes:
        method: ``GET``, ``HEAD`` or ``POST``.
        query: The target's query, not decoded.
        headers: Looked up by their usual names.
        cookies: By name.
        body: A form's fields.
        is_tls: The browser came by HTTPS.
    """

    method: str
    query: str
    headers: Mapping[str, str]
    cookies: Mapping[str, str]
    body: bytes = b""
    is_tls: bool = False


@dataclass(frozen=True)
class PageAnswer:
    """What the page's routes answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class PageRoutes:
    """Answers for the page of one instance. One event loop."""

    def __init__(
        self,
        settings: GatewaySettings,
        models: Sequence[ServedModel],
        authenticator: Authenticator,
        recorder: Recorder,
        view: InstanceView | None,
        sign_in: SignIn,
        *,
        in_flight: Callable[[str], int],
        is_draining: Callable[[], bool],
        has_operations: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._models = models
        self._authenticator = authenticator
        self._recorder = recorder
        self._view = view
        self._sign_in = sign_in
        self._in_flight = in_flight
        self._is_draining = is_draining
        self._has_operations = has_operations
        self._clock = clock
        self._started = time.time()
        self._documents: PageDocuments | None = None
        self._shared: dict[str, Any] = {}
        self._shared_until = -math.inf

    @property
    def _credential(self) -> Credential:
        return _credential(self._authenticator)

    async def answer(self, request: PageRequest, secret: str | None) -> PageAnswer:
        """Answer a request.

        Args:
            request: It.
            secret: The key that it carries, or that its session stands for.

        Raises:
            DeployError: The page's data cannot be given; for the page itself there is the form.
        """
        if request.method == "POST":
            return await self._log_in_or_out(request)
        query = parse_qs(request.query)
        try:
            identity = await self._authenticator.identify(secret)
        except DeployError as error:
            if "data" in query:
                raise
            return self._login_form(str(error), error.http_status)
        if query.get("data") == ["state"]:
            if identity is None:
                raise self._authenticator.refuse(secret)
            return self._data(request, identity, query)
        if identity is None:
            return self._login_form("", 200)
        documents = self._read_documents()
        # The charts' points are fetched by the page: an hour of them would hold up its first lines.
        first = self._state(request, identity, lines_after=0, charts_after=math.inf)
        return _html(documents.page(self._title, first), documents.policy, 200)

    def _data(
        self, request: PageRequest, identity: Identity, query: Mapping[str, list[str]]
    ) -> PageAnswer:
        """Answer the page's own polling.

        Raises:
            RequestError: 400; a number is none.
        """
        state = self._state(
            request,
            identity,
            lines_after=int(_number(query, "after")),
            charts_after=_number(query, "since"),
        )
        body = json.dumps(state, ensure_ascii=False, separators=(",", ":")).encode()
        return PageAnswer(200, body, _HEADERS | {"Content-Type": "application/json"})

    def _state(
        self, request: PageRequest, identity: Identity, *, lines_after: int, charts_after: float
    ) -> dict[str, Any]:
        shows_console = may_read_console(identity, self._credential)
        view = self._view
        return own_state(
            self._shared_state(),
            identity,
            view.console(lines_after) if view is not None and shows_console else None,
            credential=self._credential,
            has_session=self._sign_in.cookie_name in request.cookies,
            has_operations=self._has_operations,
            charts_after=charts_after,
        )

    def _shared_state(self) -> dict[str, Any]:
        now = self._clock()
        if now >= self._shared_until:
            self._shared_until = now + STATE_EVERY_S
            self._shared = shared_state(
                self._settings,
                self._models,
                self._recorder.snapshot(),
                self._view.state() if self._view is not None else None,
                in_flight=self._in_flight,
                is_draining=self._is_draining(),
                started=self._started,
            )
        return self._shared

    async def _log_in_or_out(self, request: PageRequest) -> PageAnswer:
        """Answer a form; the browser is sent back to the page, so that reloading sends no key again."""
        form = parse_qs(request.body.decode("utf-8", "replace"))
        if self._sign_in.is_foreign(request.headers):
            return self._login_form(FOREIGN_FORM, 403)
        if "logout" in form:
            return _to_page(self._sign_in.close(request.cookies, is_tls=request.is_tls))
        secret = form.get("key", [""])[0].strip()
        try:
            if await self._authenticator.identify(secret) is None:
                raise self._authenticator.refuse(secret)
        except DeployError as error:
            return self._login_form(str(error), error.http_status)
        return _to_page(self._sign_in.open(secret, is_tls=request.is_tls))

    def _login_form(self, message: str, status: int) -> PageAnswer:
        documents = self._read_documents()
        text = documents.login(self._title, self._credential, message=message)
        return _html(text, documents.login_policy, status)

    def _read_documents(self) -> PageDocuments:
        # At the first visit: an instance that nobody looks at does not pay for it.
        if self._documents is None:
            self._documents = PageDocuments()
        return self._documents

    @property
    def _title(self) -> str:
        return self._settings.instance_name or UNTITLED


def _credential(authenticator: Authenticator) -> Credential:
    if not authenticator.needs_secret:
        return "none"
    return "token" if authenticator.refuse(None).code == "missing_token" else "key"


def _to_page(cookie: str) -> PageAnswer:
    # "?" is the same path without a query: the only relative address that is right behind every
    # prefix, with or without a slash at its end.
    headers = {"Location": "?", "Set-Cookie": cookie, "Cache-Control": "no-store"}
    return PageAnswer(303, b"", headers)


def _html(text: str, policy: str, status: int) -> PageAnswer:
    kind = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy}
    return PageAnswer(status, text.encode(), _HEADERS | kind)


def _number(query: Mapping[str, list[str]], name: str) -> float:
    """Return a number of the query, 0 when it is not there.

    Raises:
        RequestError: 400; it is not a number.
    """
    text = query.get(name, ["0"])[0]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RequestError(f"{name}={text!r} is not a number.", code="invalid_parameter")
    return value
