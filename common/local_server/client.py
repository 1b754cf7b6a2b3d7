"""Calls of this program to its own server."""

from __future__ import annotations

from typing import Any, Final

import requests

from common.errors import ControlPlaneError, RefusedError
from common.local_server.wire import JsonDict

_TIMEOUT_S: Final = 10.0


class ServerClient:
    """A plain client of a ClearML API with the owner's keys; blocks."""

    def __init__(self, api_url: str, access_key: str, secret_key: str) -> None:
        self._api_url = api_url
        self._session = requests.Session()
        # A proxy from the environment has no way to this machine's loopback.
        self._session.trust_env = False
        self._session.auth = (access_key, secret_key)

    def __enter__(self) -> ServerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def call(self, endpoint: str, **data: Any) -> JsonDict:
        """One call; returns `data` of the answer.

        Raises:
            ControlPlaneError: The server does not answer, or refuses the call.
        """
        try:
            response = self._session.post(
                f"{self._api_url}/{endpoint}", json=data, timeout=_TIMEOUT_S
            )
            content = response.json()
        except (requests.RequestException, ValueError) as error:
            raise ControlPlaneError(
                f"The local server at {self._api_url} does not answer {endpoint}"
                f" ({type(error).__name__}). Start it with `clearml-deploy local up`."
            ) from error
        if response.status_code != 200:
            meta = content["meta"]
            raise RefusedError(
                f"The local server refused {endpoint}: {meta['result_msg']}",
                status=meta["result_code"],
                subcode=meta["result_subcode"],
            )
        answer: JsonDict = content["data"]
        return answer
