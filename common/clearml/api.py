"""Calls to the ClearML API server, bounded in time.

The SDK's own setters retry for hours while the server is away, on the thread that called them. These
calls use the same session class (configuration, credentials, token renewal) with few retries, and
raise.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from common.errors import ControlPlaneError, RefusedError, ServerAwayError

# A few quick tries bridge a restart of the server; longer outages are the caller's to wait out.
_LOGIN_TIMEOUT_S = 20.0
# To connect, and for the next byte of the answer.
_ANSWER_TIMEOUTS_S = (5.0, 30.0)
# What the SDK says when the server, or a proxy in front of it, has no answer to a login now.
_NO_LOGIN_NOW = re.compile(r"\(error (5\d\d|429) from")
_RETRIES = {"total": 3, "connect": 3, "read": 3, "backoff_factor": 0.3, "backoff_max": 3.0}


class ClearMLApi:
    """A session with the configured ClearML server; the first call logs in."""

    def __init__(self) -> None:
        self._session: Any = None
        self._login: _Login | None = None

    @property
    def host(self) -> str:
        """The API server's address as configured."""
        from clearml.backend_api.session import Session

        return str(Session.get_api_server_host())

    def task_page(self, project_id: str, task_id: str) -> str:
        """The page of a task in the server's web UI."""
        from clearml.backend_api.session import Session

        web = str(Session.get_app_server_host()).rstrip("/")
        return f"{web}/projects/{project_id or '*'}/experiments/{task_id}/output/log"

    def feature_set(self) -> str:
        """What the server offers: ``basic``, ``advanced``, as its login token says.

        Raises:
            ServerAwayError: It cannot be reached.
            ControlPlaneError: It refuses the credentials.
        """
        self._connected()
        from clearml.backend_api.session import Session

        return str(Session.feature_set)

    def connect(self) -> None:
        """Log in now, to learn within seconds whether the server is there.

        Raises:
            ServerAwayError: It cannot be reached.
            ControlPlaneError: It refuses the credentials.
        """
        self._connected()

    def call(self, service: str, action: str, **body: Any) -> dict[str, Any]:
        """Call ``service.action`` and return the answer's data.

        Raises:
            ServerAwayError: The server cannot be reached now.
            ControlPlaneError: It refuses; with its own words.
        """
        return self._send(service, action, json=body)

    def post_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Send events, a JSON line each, with one call of ``events.add_batch``.

        Raises:
            ServerAwayError: The server cannot be reached now.
            ControlPlaneError: It refuses all of them; with its own words.
        """
        self._send(
            "events",
            "add_batch",
            data="\n".join(json.dumps(event) for event in events),
            headers={"Content-Type": "application/json-lines"},
        )

    def _send(self, service: str, action: str, **content: Any) -> dict[str, Any]:
        from clearml.backend_api.session.session import LoginError

        session = self._connected()
        try:
            response = session.send_request(service, action, **content)
        except LoginError as error:  # the token has to be renewed now and then
            raise _login_error(self.host, error) from error
        except (requests.RequestException, OSError) as error:
            raise ServerAwayError(
                f"The ClearML server {self.host} cannot be reached ({type(error).__name__}). "
                "Check that it runs and that clearml.conf names it."
            ) from error
        if response.status_code >= 500 or response.status_code == 429:
            raise ServerAwayError(
                f"The ClearML server answered with status {response.status_code}."
            )
        try:
            answer = response.json()
        except ValueError as error:
            raise ControlPlaneError(
                f"{self.host} answered {service}.{action} with status {response.status_code} and no JSON: "
                "it may not be a ClearML API server."
            ) from error
        meta = answer.get("meta", {})
        if meta.get("result_code") != 200:
            raise RefusedError(
                f"The ClearML server refused {service}.{action}: {meta.get('result_msg') or 'no reason given'} "
                f"({meta.get('result_code')}/{meta.get('result_subcode')}).",
                status=int(meta.get("result_code") or 0),
                subcode=int(meta.get("result_subcode") or 0),
            )
        data: dict[str, Any] = answer.get("data") or {}
        return data

    def _connected(self) -> Any:
        """Log in once, on a thread of its own: the SDK retries some errors without end.

        An untrusted certificate is one of them. A login that hangs is left behind, and no second one is
        started while it does.
        """
        if self._session is not None:
            return self._session
        if not is_configured():
            raise ControlPlaneError(
                "No ClearML server is configured here. Run `clearml-init`, or, for a server on this machine, "
                "`clearml-deploy local up`, and set CLEARML_CONFIG_FILE as it says."
            )
        if self._login is None:
            self._login = _Login()
        login = self._login
        login.join(_LOGIN_TIMEOUT_S)
        if login.is_alive():
            raise ServerAwayError(
                f"The ClearML server {self.host} did not answer the login within {_LOGIN_TIMEOUT_S:g} s. "
                "Check its address and, for a private certificate authority, REQUESTS_CA_BUNDLE."
            )
        self._login = None
        if login.error is not None:
            raise _login_error(self.host, login.error) from login.error
        self._session = login.session
        return self._session


class _Login(threading.Thread):
    """One try to open a session; its outcome is in `session` or `error` when it has ended."""

    def __init__(self) -> None:
        super().__init__(name="clearml-login", daemon=True)
        self.session: Any = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        from clearml.backend_api.session import Session

        try:
            session: Any = Session(http_retries_config=dict(_RETRIES))
            # The SDK's own would wait five minutes for an answer, and as long again at each retry.
            session._session_timeout = _ANSWER_TIMEOUTS_S
            session._write_session_timeout = _ANSWER_TIMEOUTS_S
            self.session = session
        except Exception as error:  # noqa: BLE001 - the SDK's login errors derive from Exception alone
            self.error = error


def _login_error(host: str, error: Exception) -> ControlPlaneError:
    """Tell a server that is away from one that refuses; the SDK wraps both into one class."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    # The wrapped error of requests is only there as text.
    is_away = isinstance(error, (requests.RequestException, OSError)) or "HTTPConnection" in text
    if is_away or _NO_LOGIN_NOW.search(text):
        return ServerAwayError(
            f"The ClearML server {host} cannot be reached. Check that it runs and that clearml.conf names it."
        )
    return ControlPlaneError(
        f"The login at the ClearML server {host} failed: {text}. Check the credentials in clearml.conf; new "
        "ones are made in the ClearML UI, in the workspace's settings."
    )


def is_configured(environ: dict[str, str] | os._Environ[str] = os.environ) -> bool:
    """Whether a ClearML server is configured: a configuration file, or credentials in the environment."""
    if any(environ.get(name) for name in ("CLEARML_API_ACCESS_KEY", "CLEARML_AUTH_TOKEN")):
        return True
    named = environ.get("CLEARML_CONFIG_FILE") or environ.get("TRAINS_CONFIG_FILE")
    candidates = [named] if named else ["~/clearml.conf", "~/trains.conf"]
    return any(Path(candidate).expanduser().is_file() for candidate in candidates)
