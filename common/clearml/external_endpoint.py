"""A route of the server's AI Application Gateway to this instance: asked for, and looked for.

The SDK writes what is asked for into the task's runtime properties (``_SERVICE``, ``_ADDRESS``,
``_PORT``; for a static route ``_ROUTER_ENDPOINT_MODE`` and its ``_PARAM``) and tags the task as
``external_service``. The gateway reads that and answers with ``endpoint`` and ``browser_endpoint``.
The SDK's own waiting warns at each look; here the caller waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.clearml.api import ClearMLApi
from common.clearml.task import OpenTask
from common.errors import ControlPlaneError

ADVANCED = "advanced"
"""The feature set that the SDK asks for before it requests a route."""

_OF_A_ROUTE = frozenset(
    {
        "_SERVICE",
        "_ADDRESS",
        "_PORT",
        "_ROUTER_ENDPOINT_MODE",
        "_ROUTER_ENDPOINT_MODE_PARAM",
        "endpoint",
        "browser_endpoint",
    }
)


class NoGatewayError(ControlPlaneError):
    """The server has no AI Application Gateway."""

    code = "no_gateway"


@dataclass(frozen=True)
class GrantedRoute:
    """Where clients reach the instance through the gateway.

    Attributes:
        url: For programs, without a slash at its end.
        browser_url: For a browser, which the gateway has log in.
    """

    url: str
    browser_url: str


class RouteRequest:
    """The route of one task. Every method talks to the server: never call one on the event loop.

    Args:
        task: The instance's own.
        api: The server, for calls that are bounded in time.
        static_route: Name of a route that an administrator made; None: one of the task's own.
    """

    def __init__(self, task: OpenTask, api: ClearMLApi, static_route: str | None) -> None:
        self._task = task
        self._api = api
        self._static_route = static_route

    def check(self) -> None:
        """Find out whether the server has a gateway.

        Raises:
            NoGatewayError: It has none.
            ServerAwayError: It cannot be reached now.
            ControlPlaneError: It refuses the credentials.
        """
        features = self._api.feature_set()
        if features != ADVANCED:
            raise NoGatewayError(
                f"The ClearML server {self._api.host} has no AI Application Gateway (its feature set is "
                f'"{features}").'
            )

    def ask(self, port: int) -> None:
        """Ask for the route to this process.

        What an earlier run of the task left is taken away first: the SDK would ask for a second
        endpoint beside it, and an old answer would look like a new one.

        Args:
            port: Where this process listens.

        Raises:
            ServerAwayError: The server cannot be reached now.
            ControlPlaneError: It has no such route, or the route cannot be used; in its words.
        """
        runtime = self._runtime()
        kept = {name: value for name, value in runtime.items() if name not in _OF_A_ROUTE}
        if kept != runtime:
            self._api.call("tasks", "edit", task=self._task.id, runtime=kept, force=True)
        self._task.request_endpoint(port, self._static_route)

    def look(self) -> GrantedRoute | None:
        """Return the route if the gateway has granted it by now.

        Raises:
            ServerAwayError: The server cannot be reached now.
            ControlPlaneError: It refuses.
        """
        runtime = self._runtime()
        url = str(runtime.get("endpoint") or runtime.get("browser_endpoint") or "").rstrip("/")
        if not url:
            return None
        return GrantedRoute(url, str(runtime.get("browser_endpoint") or url).rstrip("/"))

    def _runtime(self) -> dict[str, Any]:
        answer = self._api.call("tasks", "get_by_id", task=self._task.id)
        return dict(answer["task"].get("runtime") or {})
