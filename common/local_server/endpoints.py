"""External endpoints of the advanced feature set, as an application gateway would grant them.

A task asks by the runtime keys ``_SERVICE``, ``_ADDRESS`` and ``_PORT`` (for a named one with the
suffix ``__<name>``); the server answers by ``endpoint`` and ``browser_endpoint`` with the same
suffix. There is no gateway here: both are the instance's own address.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.local_server.wire import JsonDict

_SERVICE = "_SERVICE"
_HTTP_SERVICE = "EXTERNAL"


def with_external_endpoints(runtime: Mapping[str, Any]) -> JsonDict:
    """The runtime properties with the granted addresses written in.

    Applied after every edit, since the SDK writes the whole map back and may wipe them.
    """
    result = dict(runtime)
    for key, value in runtime.items():
        if not key.startswith(_SERVICE) or value != _HTTP_SERVICE:
            continue
        suffix = key[len(_SERVICE) :]
        address, port = runtime.get("_ADDRESS" + suffix), runtime.get("_PORT" + suffix)
        if address and port:
            url = f"http://{address}:{port}"
            result["endpoint" + suffix] = url
            result["browser_endpoint" + suffix] = url
    return result
