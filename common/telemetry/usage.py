"""Token counts of one request, read from the last pieces of its answer.

Formats: OpenAI's ``usage`` (chat, completions, embeddings: ``prompt_tokens``,
``completion_tokens``), that of its Responses API and of Anthropic's Messages API (``input_tokens``,
``output_tokens``; a Messages stream has the former in its first event), and llama.cpp's ``timings``
where an answer has no usage. Only the object with the counts is parsed. A text that quotes JSON
does not mislead: within a JSON string the quotes are escaped, so it has no such key.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

_TAIL_BYTES = 16 * 1024
"""How much of an answer's end is searched: engines put the usage among the last fields."""
_HEAD_BYTES = 4 * 1024
_OBJECT_BYTES = 1024
"""The longest usage that is read: those of today, details included, have some 300 bytes."""
_TRIES = 4
"""How many keys of that name are looked at, from the end: a later one may be null."""

EVENT = b"data: "
"""What an event that may carry a token begins with; a comment or a name of an event is none."""

_USAGE = b'"usage"'
_TIMINGS = b'"timings"'
_MESSAGE_START = b"event: message_start"
_MESSAGE_DELTA = b'"message_delta"'
_NAMES = (
    *("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"),
    *("prompt_n", "predicted_n"),
)

_INPUTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")

# As llama.cpp and vLLM write it, the former first: three times as fast as to parse the object.
_match_usual = re.compile(
    rb'"usage":\{"(?:completion_tokens":(\d{1,15}),"prompt_tokens":(\d{1,15})'
    rb'|prompt_tokens":(\d{1,15}),(?:"total_tokens":\d+,)?"completion_tokens":(\d{1,15}))'
).match
_match_opening = re.compile(rb"\s*:\s*\{").match
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
    start = tail.rfind(_USAGE)
    if start >= 0 and (usual := _match_usual(tail, start)) is not None:
        completion, prompt = usual.group(1, 2) if usual.lastindex == 2 else usual.group(4, 3)
        return RequestUsage(int(prompt), int(completion), False)
    found = _last_object(tail, _USAGE)
    if found is not None:
        if first.startswith(_MESSAGE_START):
            return _of_messages(first, tail, found)
        return RequestUsage(*_counts(found), False)
    found = _last_object(tail, _TIMINGS)
    if found is not None:
        prompt = _number(found, "prompt_n") + _number(found, "cache_n")
        return RequestUsage(prompt, _number(found, "predicted_n"), False)
    found = _first_usage(first)  # llama.cpp's embeddings have it there
    if found is not None and not first.startswith(_MESSAGE_START):
        return RequestUsage(*_counts(found), False)
    return None


def _of_messages(first: bytes, tail: bytes, found: dict[str, Any]) -> RequestUsage | None:
    """Read an Anthropic stream: its beginning names the prompt, its last events what came of it."""
    if _MESSAGE_DELTA not in tail:
        return None  # cut off: the counts are those of its beginning
    prompt, completion = _counts(found)
    return RequestUsage(prompt or _counts(_first_usage(first) or {})[0], completion, False)


def estimate_usage(first: bytes, tail: bytes, events: int) -> RequestUsage:
    """Estimate the tokens of a stream from the number of its events.

    What opens and ends a stream carries no token: an event that sets the role, ``[DONE]``, and in
    streams whose events have names (Responses, Messages) the two that open it.

    Args:
        first: The first piece.
        tail: The last pieces, joined.
        events: Events in the whole stream.
    """
    if first.startswith(b"event:"):
        prompt, _ = _counts(_first_usage(first) or {})
        return RequestUsage(prompt, max(0, events - 2), True)
    is_ended = tail.rstrip().endswith(b"[DONE]")
    has_role = b'"role"' in first[:_HEAD_BYTES]
    return RequestUsage(0, max(0, events - is_ended - has_role), True)


def _first_usage(first: bytes) -> dict[str, Any] | None:
    return _last_object(first[:_HEAD_BYTES], _USAGE)


def _last_object(data: bytes, key: bytes) -> dict[str, Any] | None:
    """Return the last object with counts that stands at a key, None if there is none."""
    end = len(data)
    for _ in range(_TRIES):
        end = data.rfind(key, -_TAIL_BYTES, end)
        if end < 0:
            return None
        start = end + len(key)
        if data[start : start + 2] == b":{":  # as the engines write it
            start += 1
        elif (opening := _match_opening(data, start)) is not None:
            start = opening.end() - 1
        else:
            continue  # null, or a value that reads so and not a key
        try:
            # Other alphabets are only in strings, which nobody reads here.
            found = _scan(data[start : start + _OBJECT_BYTES].decode("latin-1"), 0)[0]
        except (ValueError, StopIteration, RecursionError):
            continue  # cut off, or longer than any usage
        if any(type(found.get(name)) is int for name in _NAMES):  # a schema has objects there
            return found  # type: ignore[no-any-return]
    return None


def _counts(found: dict[str, Any]) -> tuple[int, int]:
    # Anthropic's input_tokens are those that came from no cache; OpenAI's include the others.
    return (
        _number(found, "prompt_tokens") or sum(_number(found, name) for name in _INPUTS),
        _number(found, "completion_tokens") or _number(found, "output_tokens"),
    )


def _number(found: dict[str, Any], name: str) -> int:
    """Return a count; 0 where there is none."""
    value = found.get(name)
    return value if type(value) is int and value > 0 else 0
