"""Asks a ClearML server, with a client's token, whether a task may be read."""

from __future__ import annotations

import os
from collections.abc import Mapping

import requests
from requests.auth import AuthBase

from common.errors import ServerAwayError

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 5.0

_CERTIFICATE_VARIABLES = ("CLEARML_API_HOST_VERIFY_CERT", "TRAINS_API_HOST_VERIFY_CERT")
_FALSE = frozenset({"0", "false", "no", "off", "n", "f"})
_TRUE = frozenset({"1", "true", "yes", "on", "y", "t", ""})


class _Bearer(AuthBase):
    """Sets the header itself: without it `requests` would take the worker's own from ``.netrc``."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def may_read_task(host: str, task_id: str, token: str, *, verify: bool | str = True) -> bool | None:
    """Ask with `token` alone whether a task may be read.

    Each question has a connection of its own: a session would carry one user's cookies into the
    question for another.

    Args:
        host: The API server.
        task_id: The task.
        token: What the client showed; the server gets nothing else that could open anything.
        verify: Whether the server's certificate is checked, or the file of the authorities for it.

    Returns:
        Whether it may be read; None when the server does not accept the token.

    Raises:
        ServerAwayError: There is no answer that would tell.
    """
    try:
        response = requests.post(
            f"{host.rstrip('/')}/tasks.get_all_ex",
            json={"id": [task_id], "only_fields": ["id"]},
            auth=_Bearer(token),
            timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            allow_redirects=False,
            verify=None if verify is True else verify,
        )
    except (requests.RequestException, OSError, ValueError) as error:
        # The error's own text may quote the request.
        raise ServerAwayError(
            f"The ClearML server {host} cannot be reached ({type(error).__name__})."
        ) from None
    if response.status_code == 401:
        return None
    if response.status_code == 403:
        return False
    if response.status_code != 200:
        raise ServerAwayError(f"The ClearML server answered with status {response.status_code}.")
    try:
        tasks = response.json()["data"]["tasks"]
        return any(task["id"] == task_id for task in tasks)
    except (ValueError, KeyError, TypeError) as error:
        raise ServerAwayError(
            f"{host} answered, but not as a ClearML API server ({type(error).__name__})."
        ) from None


def api_host() -> str:
    """The configured API server."""
    from clearml.backend_api.session import Session

    return str(Session.get_api_server_host())


def certificate_check(environ: Mapping[str, str] = os.environ) -> bool | str:
    """How the API server's certificate is checked, by the SDK's own setting.

    Returns:
        Whether it is, or the file of the authorities that are trusted.
    """
    from clearml.config import config_obj

    named = next((environ[name] for name in _CERTIFICATE_VARIABLES if environ.get(name)), None)
    value = str(config_obj.get("api.verify_certificate", True) if named is None else named).strip()
    if value.lower() in _FALSE:
        return False
    return True if value.lower() in _TRUE else value
