"""Find single fields in a request body without changing it and without blocking for long (pure).

A body of many megabytes (images, audio) is not parsed whole: `json.loads` would hold the
interpreter for its whole length. Only its structure is followed, from quote to quote.
"""

from __future__ import annotations

import json
import mmap
import re
from email.message import Message
from typing import Any

from common.errors import RequestError

_match_leading_model = re.compile(rb'\s*\{\s*"model"\s*:\s*"([^"\\\x00-\x1f]*)"\s*[,}]').match

Buffer = bytes | mmap.mmap

SMALL_BODY_BYTES = 256 * 1024
"""Up to here `json.loads` (about 1 ms) is quicker than anything else."""

MAX_FIELD_BYTES = 4096
"""A longer value of a field that we look for is not a model name."""


def json_fields(body: Buffer, names: frozenset[str]) -> dict[str, Any]:
    """Return those of the named top-level fields of a JSON object that hold no object or list.

    Raises:
        RequestError: 400; the body is not a JSON object.
    """
    if len(body) <= SMALL_BODY_BYTES:
        parsed = parse_object(body)
        values = {name: parsed[name] for name in names if name in parsed}
        return {n: v for n, v in values.items() if not isinstance(v, (dict, list))}
    return _scan_fields(body, names)


def leading_model(body: bytes) -> str | None:
    """Return the model's name where a JSON object begins with it; None: the body has to be read.

    Most clients write it first. What follows is for the engine to judge, a second `model` included:
    the engine is chosen, and what may be used of it with a key is decided, by this one.
    """
    found = _match_leading_model(body)
    if found is None:
        return None
    try:
        return found[1].decode()
    except UnicodeDecodeError:
        return None


def parse_object(body: Buffer) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        RequestError: 400; it is not JSON, or not an object.
    """
    try:
        parsed = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise not_json(str(error) or type(error).__name__) from error
    if not isinstance(parsed, dict):
        raise not_json(f"it is a {type(parsed).__name__}, not an object")
    return parsed


def not_json(reason: str) -> RequestError:
    """Return the 400 for a body that cannot be read."""
    return RequestError(f"The request's body is not valid JSON: {reason}.", code="invalid_json")


def multipart_field(body: Buffer, content_type: str, name: str) -> str | None:
    """Return the value of one form field wherever it stands; None when there is none.

    Raises:
        RequestError: 400; the content type has no boundary.
    """
    delimiter = b"--" + _boundary(content_type)
    position = body.find(delimiter)
    while position >= 0:
        start = position + len(delimiter)
        if body[start : start + 2] == b"--":
            return None
        head_end = body.find(b"\r\n\r\n", start)
        if head_end < 0:
            return None
        position = body.find(b"\r\n" + delimiter, head_end)
        if _part_name(body[start:head_end]) == name:
            value = body[head_end + 4 : position if position >= 0 else len(body)]
            return value[:MAX_FIELD_BYTES].decode("utf-8", "replace")
        if position >= 0:
            position += 2
    return None


def _boundary(content_type: str) -> bytes:
    for parameter in content_type.split(";")[1:]:
        key, _, value = parameter.strip().partition("=")
        if key.strip().lower() == "boundary" and value.strip('" '):
            return value.strip().strip('"').encode("latin-1", "replace")
    raise RequestError("The multipart body's Content-Type has no boundary.", code="invalid_body")


def _part_name(head: bytes) -> str | None:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            part = Message()
            part["Content-Disposition"] = value.strip()
            found = part.get_param("name", header="Content-Disposition")
            return found if isinstance(found, str) else None
    return None


def _scan_fields(body: Buffer, names: frozenset[str]) -> dict[str, Any]:
    """Walk over a large object from string to string, keeping only the nesting depth."""
    if body[:MAX_FIELD_BYTES].lstrip()[:1] != b"{":
        raise not_json("it does not begin with an object")
    found: dict[str, Any] = {}
    depth = 0
    position = 0
    key: str | None = None
    while True:
        quote = body.find(b'"', position)
        between = body[position : quote if quote >= 0 else len(body)]
        if key is not None:
            _keep_plain_value(found, key, between)
        depth += _nesting(between)
        if quote < 0:
            if depth != 0:
                raise not_json("its brackets do not match")
            return found
        end = _string_end(body, quote)
        if key is not None and between.strip() == b":":
            found[key] = _string(body, quote, end)
        key = None
        if depth == 1 and end - quote <= MAX_FIELD_BYTES:
            text = _string(body, quote, end)
            if text in names and body[end : end + 64].lstrip()[:1] == b":":
                key = text
        position = end


def _nesting(between: bytes) -> int:
    opened = between.count(b"{") + between.count(b"[")
    return opened - between.count(b"}") - between.count(b"]")


def _keep_plain_value(found: dict[str, Any], key: str, between: bytes) -> None:
    """Keep a number, true, false or null that follows a key: ``: true, `` up to the next string."""
    text = between.lstrip().removeprefix(b":").split(b",")[0].strip().rstrip(b"}").strip()
    if not text:
        return
    found.pop(key, None)  # of a repeated field the last one counts, as in every parser here
    try:
        value = json.loads(text)
    except ValueError:
        return  # the beginning of an object or a list
    if not isinstance(value, (dict, list)):
        found[key] = value


def _string_end(body: Buffer, quote: int) -> int:
    """Return the position after the closing quote."""
    position = quote + 1
    while True:
        end = body.find(b'"', position)
        if end < 0:
            raise not_json("a string has no end")
        backslashes = 0
        while body[end - 1 - backslashes : end - backslashes] == b"\\":
            backslashes += 1
        if backslashes % 2 == 0:
            return end + 1
        position = end + 1


def _string(body: Buffer, quote: int, end: int) -> str:
    try:
        return str(json.loads(body[quote:end]))
    except ValueError as error:
        raise not_json(str(error)) from error
