"""Secrets out of what is printed: the values that are known, and what looks like one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from common.runtime.app import App

MASK: Final = "******"
_MASKED: Final = rf"\g<1>{MASK}"
_HEADER_WORDS: Final = ("authorization", "api-key", "cookie", "bearer")

# Values too short to be secrets would blank out ordinary text.
_SHORTEST: Final = 6
_SHORTEST_VARIABLE: Final = 8
_SECRET_VARIABLE: Final = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|SECRET_KEY|ACCESS_KEY|CREDENTIALS)$", re.I
)

# Each keeps its first group. All of them stay linear in the length of a line: an engine may log a
# whole prompt, and this runs in the event loop.
_LOGIN: Final = re.compile(r"(://(?:[^\s/@:'\"]{0,100}:)?)[^\s/@'\"]{1,500}(?=@)")
_HEADER: Final = re.compile(
    r"(\b(?:authorization|x-api-key|cookie|set-cookie)['\"]?\s?[:=]\s?(?:b?['\"])?"
    r"(?:(?:bearer|basic)\s)?)[^\s'\",;)}\]]+",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"(\bbearer\s)[\w.~+/=-]{8,}", re.IGNORECASE)
# Presigned addresses hold a signature.
_QUERY: Final = re.compile(
    r"([?&](?:[\w-]{0,40}(?:token|secret|signature|password|api[_-]?key|credential)|key|sig)=)"
    r"[^\s&'\"#]+",
    re.IGNORECASE,
)
# Tokens of Hugging Face have this form wherever they are.
_TOKEN: Final = re.compile(r"\bhf_[A-Za-z0-9]{16,}\b")


def secret_variables(environ: Mapping[str, str]) -> list[str]:
    """The values in an environment whose names say that they are secret."""
    return [
        value
        for name, value in environ.items()
        if len(value) >= _SHORTEST_VARIABLE and _SECRET_VARIABLE.search(name)
    ]


def secret_parameters(app: App, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an app's parameters that are declared as secret, as they were given."""
    secret = {option.path for option in app.settings.options() if option.secret}
    return {path: value for path, value in parameters.items() if path in secret}


class Redactor:
    """Masks secrets in lines. `hide` may be called in one thread while others use `clean`."""

    def __init__(self) -> None:
        self._known: tuple[str, ...] = ()

    def hide(self, secrets: Iterable[str | None]) -> None:
        """Mask these values from now on; those shorter than six characters are left."""
        known = {*self._known, *(s for s in secrets if s and len(s) >= _SHORTEST)}
        # One that holds another goes first: else the rest of it would stay.
        self._known = tuple(sorted(known, key=len, reverse=True))

    def clean(self, text: str) -> str:
        """The text with every secret replaced by asterisks."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, MASK)
        if "hf_" in text:
            text = _TOKEN.sub(MASK, text)
        if "://" in text:
            text = _QUERY.sub(_MASKED, _LOGIN.sub(_MASKED, text))
        lower = text.lower()
        if any(word in lower for word in _HEADER_WORDS):
            text = _BEARER.sub(_MASKED, _HEADER.sub(_MASKED, text))
        return text
