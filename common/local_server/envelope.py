"""The envelope of every answer: `meta` beside `data`; the HTTP status is `meta.result_code`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.local_server.wire import CallError, JsonDict, new_id

API_VERSION = "2.34"


def success(endpoint: str, version: str, data: Mapping[str, Any]) -> JsonDict:
    """Wrap the data of a call that went well."""
    return {"meta": _meta(endpoint, version, 200, 0, "OK"), "data": dict(data)}


def failure(endpoint: str, version: str, error: CallError) -> JsonDict:
    """Wrap a refused call; `data` is empty, as the SDK's parser wants an object there."""
    meta = _meta(endpoint, version, error.status, error.subcode, str(error))
    return {"meta": {**meta, "error_data": error.data}, "data": {}}


def unknown_endpoint(endpoint: str) -> CallError:
    """The error of a call that this server does not have: 404/0, as on the real one."""
    return CallError(0, f"Unable to find endpoint for name {endpoint} and version", status=404)


def _meta(endpoint: str, version: str, code: int, subcode: int, message: str) -> JsonDict:
    call_id = new_id()
    return {
        "id": call_id,
        "trx": call_id,
        "endpoint": {
            "name": endpoint,
            "requested_version": version or API_VERSION,
            "actual_version": API_VERSION,
        },
        "result_code": code,
        "result_subcode": subcode,
        "result_msg": message,
        "error_stack": "",
        "error_data": {},
    }
