"""The page's two HTML documents, put together from the files in ``assets``.

Each is one document without any other file, so that it works behind every path prefix and without
any other host. Styles and scripts are named by their hashes in the Content-Security-Policy, which
lets nothing else run; the browser also refuses every assignment of HTML from a script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from common.gateway.page.state import Credential

SCRIPTS = (
    "dom.js",
    "theme.js",
    "models.js",
    "memory.js",
    "example.js",
    "playground.js",
    "charts.js",
    "console.js",
    "page.js",
)
"""Put together in this order into one function's body."""

_LABELS: Mapping[Credential, str] = {
    "none": "API key",
    "key": "API key of this instance",
    "token": "ClearML token",
}
_HELP: Mapping[Credential, str] = {
    "none": "",
    "key": "Who may read the instance's ClearML task gets the key by <code>clearml-deploy key</code> "
    "and the task's ID.",
    "token": "<code>clearml-deploy token</code> prints one for your ClearML credentials.",
}


class PageDocuments:
    """Reads the page's files once and makes documents of them."""

    def __init__(self) -> None:
        self._style = _asset("page.css")
        self._page = _asset("page.html")
        self._login = _asset("login.html")
        self._icons = _asset("icons.svg")
        body = "\n".join(_asset(name) for name in SCRIPTS)
        self._script = f'(() => {{\n"use strict";\n{body}\n}})();\n'
        self._login_script = f'(() => {{\n"use strict";\n{_asset("theme.js")}\n}})();\n'
        self.policy = _policy(self._style, self._script)
        self.login_policy = _policy(self._style, self._login_script)

    def page(self, title: str, first: Mapping[str, Any]) -> str:
        """Return the page.

        Args:
            title: The instance's name.
            first: The data that the page begins with, as its data route returns it.
        """
        return _filled(
            self._page,
            {
                "title": escape(title),
                "style": self._style,
                "icons": self._icons,
                "first": _json_in_html(first),
                "script": self._script,
            },
        )

    def login(self, title: str, credential: Credential, *, message: str = "") -> str:
        """Return the log-in form; it tells nothing about the models.

        Args:
            title: The instance's name.
            credential: What it asks for.
            message: Why the last attempt failed.
        """
        error = f'<p class="notice bad" role="alert">{escape(message)}</p>' if message else ""
        return _filled(
            self._login,
            {
                "title": escape(title),
                "style": self._style,
                "icons": self._icons,
                "error": error,
                "label": _LABELS[credential],
                "help": _HELP[credential],
                "script": self._login_script,
            },
        )


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Put values into ``{{name}}``; what a value contains is not looked at again."""
    head, *rest = template.split("{{")
    parts = [head]
    for piece in rest:
        name, _, text = piece.partition("}}")
        parts += [values[name], text]
    return "".join(parts)


def _json_in_html(value: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        "connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    )


def _source(text: str) -> str:
    """The hash under which the Content-Security-Policy allows an element with this text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
