"""Requests and answers of the gateway's own routes: small, whole, without a framework."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import InternalError
from common.gateway.http.request import RequestHead, cookies


class OwnRequest:
    """A request that the gateway answers itself, with its whole body.

    Args:
        head: Its head.
        body: Its body.
        is_tls: Whether it came encrypted to this process.
    """

    def __init__(self, head: RequestHead, body: bytes, *, is_tls: bool) -> None:
        self.head = head
        self.body = body
        self.is_tls = is_tls
        self.method = head.method.decode("latin-1")
        self.target = head.target.decode("latin-1")

    @property
    def cookies(self) -> Mapping[str, str]:
        """Its cookies."""
        return cookies(self.head)

    @property
    def headers(self) -> Mapping[str, str]:
        """Its fields; of a repeated one the first."""
        return FieldMap(self.head)

    @property
    def query(self) -> str:
        """The target's query, not decoded."""
        return self.target.partition("?")[2]


class FieldMap(Mapping[str, str]):
    """The fields of a request by their names in any spelling; of a repeated one the first."""

    def __init__(self, head: RequestHead) -> None:
        self._values: dict[str, str] = {}
        for name, value in head.fields:
            text = value.decode("latin-1").strip()
            self._values.setdefault(name.decode("latin-1").lower(), text)

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass
class Answer:
    """A whole answer of the gateway's own.

    Attributes:
        status: HTTP status.
        body: Its body.
        content_type: Its media type; empty: no body.
        headers: Further fields; set before it is sent.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)

    def field_lines(self) -> list[bytes]:
        """Return its fields as lines, Content-Length included.

        Raises:
            InternalError: A value would break out of its line.
        """
        fields = [*self.headers]
        if self.content_type:
            fields.append(("Content-Type", self.content_type))
        if self.status not in (204, 304):
            fields.append(("Content-Length", str(len(self.body))))
        for name, value in fields:
            if "\r" in value or "\n" in value or "\0" in value:
                raise InternalError(f"the value of {name} has a line end")
        return [f"{name}: {value}\r\n".encode("latin-1", "replace") for name, value in fields]


def json_answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer in JSON."""
    body = json.dumps(data).encode()
    return Answer(status, body, "application/json; charset=utf-8", list((headers or {}).items()))
