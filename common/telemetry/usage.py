"""Token counts of one request, read from the last pieces of its answer.

Formats: OpenAI's ``usage`` (chat, completions, embeddings: ``prompt_tokens``,
``completion_tokens``), that of its Responses API and of Anthropic's Messages API (``input_tokens``,
``output_tokens``; a Messages stream has the former in its first event), and llama.cpp's ``timings``
where an answer has no usage. Only the object with the counts is parsed. A text that quotes JSON
does not mislead: within a JSON string the quotes are escaped, so it has no such key.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

_TAIL_BYTES = 16 * 1024
"""How much of an answer's end is searched: engines put the usage among the last fields."""
_HEAD_BYTES = 4 * 1024
_OBJECT_BYTES = 1024
"""The longest usage that is read: those of today, details included, have some 300 bytes."""
_TRIES = 4
"""How many keys of that name are looked at, from the end: a later one may be null."""

_USAGE = b'"usage"'
_TIMINGS = b'"timings"'
_MESSAGE_START = b"event: message_start"
_MESSAGE_DELTA = b'"message_delta"'

_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # raw_decode without its frame


class RequestUsage(NamedTuple):
    """Tokens of one request.

    Attributes:
        prompt: Of the prompt, cached ones included; 0 when the answer does not say.
        completion: Generated.
        is_estimated: Counted from the events of a stream whose answer does not say.
    """

    prompt: int
    completion: int
    is_estimated: bool


NO_USAGE = RequestUsage(0, 0, False)
"""Of a request whose answer tells nothing of tokens."""


def read_usage(first: bytes, tail: bytes) -> RequestUsage | None:
    """Return the tokens that an answer names, or None when it names none.

    Args:
        first: Its first piece, which may be all of it.
        tail: Its last pieces, joined.
    """
    if first.startswith(_MESSAGE_START) and _MESSAGE_DELTA not in tail:
        return None  # cut off: the counts at its start are not those of its end
    found = _last_object(tail[-_TAIL_BYTES:], _USAGE)
    if found is not None:
        prompt = _number(found, "prompt_tokens", "input_tokens")
        completion = _number(found, "completion_tokens", "output_tokens")
        if prompt is None:  # Anthropic's stream: the last event has the output alone
            prompt = _number(_last_object(first[:_HEAD_BYTES], _USAGE) or {}, "input_tokens")
        return RequestUsage(prompt or 0, completion or 0, False)
    found = _last_object(tail[-_TAIL_BYTES:], _TIMINGS)
    if found is not None:
        prompt = (_number(found, "prompt_n") or 0) + (_number(found, "cache_n") or 0)
        return RequestUsage(prompt, _number(found, "predicted_n") or 0, False)
    found = _last_object(first[:_HEAD_BYTES], _USAGE)  # llama.cpp's embeddings have it there
    if found is not None and _MESSAGE_START not in first:
        return RequestUsage(_number(found, "prompt_tokens", "input_tokens") or 0, 0, False)
    return None


def estimate_usage(first: bytes, tail: bytes, newlines: int) -> RequestUsage:
    """Count the events of a stream that carried a token.

    Events with a name (``event:``, of Responses and Messages) have three line ends, others two.
    What opens and ends a stream carries no token: the event that sets the role, ``[DONE]``.

    Args:
        first: The first piece.
        tail: The last pieces, joined.
        newlines: Line ends in the whole stream.
    """
    if first.startswith(b"event:"):
        events = newlines // 3 - 2
        prompt = _number(_last_object(first[:_HEAD_BYTES], _USAGE) or {}, "input_tokens") or 0
        return RequestUsage(prompt, max(0, events), True)
    events = newlines // 2 - tail.endswith((b"[DONE]\n\n", b"[DONE]\r\n\r\n"))
    events -= b'"role"' in first[:_HEAD_BYTES]
    return RequestUsage(0, max(0, events), True)


def _last_object(data: bytes, key: bytes) -> dict[str, Any] | None:
    """Return the last object with counts that stands at a key, None if there is none."""
    end = len(data)
    for _ in range(_TRIES):
        start = data.rfind(key, 0, end)
        if start < 0:
            return None
        end = start
        value = data[start + len(key) : start + len(key) + _OBJECT_BYTES].lstrip()
        if value[:1] != b":":
            continue  # a value that reads so, not a key
        value = value[1:].lstrip()
        if value[:1] != b"{":
            continue  # null, or a schema's word
        try:
            found, _ = _scan(value.decode("latin-1"), 0)  # bytes of other alphabets only in strings
        except (ValueError, StopIteration, RecursionError):
            continue  # cut off, or longer than any usage
        if _COUNTS.intersection(found):
            return found  # type: ignore[no-any-return]
    return None


_COUNTS = frozenset(
    {
        *("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"),
        *("prompt_n", "predicted_n"),
    }
)


def _number(found: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = found.get(name)
        # A tool's schema may have a field of that name; its value is an object.
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
