"""External endpoints of the advanced feature set, as an application gateway would grant them.

A task asks by the runtime keys ``_SERVICE``, ``_ADDRESS`` and ``_PORT`` (for a named one with the
suffix ``__<name>``), and for a static route by ``_ROUTER_ENDPOINT_MODE`` and its ``_PARAM``; the
server answers by ``endpoint`` and ``browser_endpoint`` with the same suffix. Where these lead,
`router.py` passes requests on to the task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from common.local_server.wire import JsonDict

SERVICE = "service"
"""First part of the path of a route that a task has for itself."""

_SERVICE = "_SERVICE"
_HTTP_SERVICE = "EXTERNAL"
_STATIC = "_ROUTER_ENDPOINT_MODE_PARAM"


class Asked(NamedTuple):
    """An endpoint that a task asked for.

    Attributes:
        suffix: Of the runtime keys: empty, or ``__<name>``.
        address: Where the task's application listens, as host and port.
        route: Static route; empty for one of the task's own.
    """

    suffix: str
    address: str
    route: str


def asked_endpoints(runtime: Mapping[str, Any]) -> Iterator[Asked]:
    """What a task's runtime properties ask for; what is incomplete is left out."""
    for key, value in runtime.items():
        if not key.startswith(_SERVICE) or value != _HTTP_SERVICE:
            continue
        suffix = key[len(_SERVICE) :]
        host, port = runtime.get("_ADDRESS" + suffix), runtime.get("_PORT" + suffix)
        if host and port:
            shown = f"[{host}]" if ":" in str(host) else host
            yield Asked(suffix, f"{shown}:{port}", str(runtime.get(_STATIC + suffix) or ""))


def with_external_endpoints(
    runtime: Mapping[str, Any], task_id: str, router_url: str, routes: Iterable[str]
) -> JsonDict:
    """The runtime properties with the granted addresses written in.

    Applied after every edit, since the SDK writes the whole map back and may wipe them.

    Args:
        runtime: The properties as edited.
        task_id: Whose they are.
        router_url: Address of the router.
        routes: Static routes that it has; others are not granted.
    """
    result = dict(runtime)
    for asked in asked_endpoints(runtime):
        if asked.route and asked.route not in routes:
            continue
        path = quote(asked.route) or f"{SERVICE}/{task_id}{asked.suffix}"
        result["endpoint" + asked.suffix] = f"{router_url}/{path}"
        result["browser_endpoint" + asked.suffix] = f"{router_url}/{path}"
    return result
