"""The line that debug mode writes for each request: what was asked, of which model, and how it ended. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

_LONGEST_PATH: Final = 200
# What clients and proxies make: UUIDs, ULIDs, trace ids.
_REQUEST_ID: Final = re.compile(r"[\w.:+/=-]{1,128}")
_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def access_line(
    method: str, target: str, model: str, status: int, seconds: float, request_id: str = ""
) -> str:
    """Write the line of one request.

    Neither headers nor bodies are told, and of the target the path alone: a query may hold a key.

    Args:
        method: As the client sent it.
        target: As the client sent it; cut where it is longer than 200 characters.
        model: The model's name; empty where none was picked.
        status: What the client got, 499 when it was gone before.
        seconds: From the request's arrival to the answer's last byte.
        request_id: ``X-Request-Id``; left out where it is none that a client would send.

    Returns:
        Such as ``POST /v1/chat/completions tiny 200 in 363 ms (request 0f3a)``.
    """
    path = _UNSEEN.sub("?", unquote(target.partition("?")[0]))
    if len(path) > _LONGEST_PATH:
        path = f"{path[:_LONGEST_PATH]}..."
    told = f" (request {request_id})" if _REQUEST_ID.fullmatch(request_id) else ""
    return f"{method} {path} {model or '-'} {status} in {seconds * 1000:.0f} ms{told}"
