"""Every error as OpenAI's envelope, whether it is told by a status or inside a stream."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import CapacityError, DeployError, RequestError
from common.gateway.http.answer import Answer, json_answer

DEFAULT_RETRY_AFTER_S = 5.0
"""For a model that is still loading: soon enough to be useful, rare enough not to be a load."""


@dataclass(frozen=True)
class ErrorAnswer:
    """One error as a client gets it."""

    status: int
    message: str
    error_type: str
    code: str
    param: str | None = None
    retry_after_s: float | None = None

    def payload(self) -> dict[str, Mapping[str, str | None]]:
        """Return OpenAI's error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.error_type,
                "param": self.param,
                "code": self.code,
            }
        }

    def answer(self) -> Answer:
        """Return the answer with its status."""
        answer = json_answer(self.payload(), self.status)
        if self.retry_after_s is not None:
            answer.headers.append(("Retry-After", str(max(1, math.ceil(self.retry_after_s)))))
        if self.status == 401:
            answer.headers.append(("WWW-Authenticate", "Bearer"))
        return answer

    def sse_event(self) -> bytes:
        """Return the answer as the one SSE event that ends a stream whose 200 is already out."""
        return b"event: error\ndata: " + json.dumps(self.payload()).encode() + b"\n\n"


def answer_for(error: BaseException) -> ErrorAnswer:
    """Return what a client gets for an exception.

    Of an error that is not ours the client learns nothing: its text may hold anything.
    """
    if isinstance(error, RequestError):
        return ErrorAnswer(
            error.http_status,
            str(error),
            error.error_type,
            error.code,
            error.param,
            error.retry_after_s,
        )
    if isinstance(error, DeployError):
        retry_after_s = None
        if isinstance(error, CapacityError):
            retry_after_s = error.retry_after_s or DEFAULT_RETRY_AFTER_S
        kind = "invalid_request_error" if error.http_status < 500 else "server_error"
        return ErrorAnswer(
            error.http_status, str(error), kind, error.code, retry_after_s=retry_after_s
        )
    message = "The gateway made a mistake with this request; its console has the details."
    return ErrorAnswer(500, message, "server_error", "internal")
