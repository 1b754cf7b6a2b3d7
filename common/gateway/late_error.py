"""An engine's refusal that comes after the client was told 200."""

from __future__ import annotations

import json

from common.gateway.envelope import ErrorAnswer

MAX_ERROR_BYTES = 64 * 1024


class LateError:
    """Collects the body of an engine's answer that cannot be passed on as it is.

    Args:
        status: The answer's status.
    """

    def __init__(self, status: int) -> None:
        self._status = status
        self._text = b""

    def add(self, piece: bytes) -> None:
        """Keep a piece of the body, up to a limit."""
        self._text += piece[: MAX_ERROR_BYTES - len(self._text)]

    def answer(self) -> ErrorAnswer:
        """Return what the client is told, in the engine's words where it used an envelope."""
        text = self._text.decode("utf-8", "replace")
        try:
            error = json.loads(text)["error"]
            message, kind, code = error["message"], error.get("type"), error.get("code")
        except (ValueError, KeyError, TypeError, AttributeError):
            message, kind, code = f"The engine answered {self._status}: {text[:500]}", None, None
        return ErrorAnswer(
            self._status, str(message), str(kind or "server_error"), str(code or self._status)
        )
