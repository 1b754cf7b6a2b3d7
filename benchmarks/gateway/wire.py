"""What goes over the wire: requests that tell the stub engine what to do, and its answers. Pure.

The orders stand in the text of the chat message, which every proxy for LLMs passes on. All answers
are valid OpenAI JSON, and each event of a stream has its number in its text, so that a proxy
that writes the JSON anew can be checked for lost, doubled and swapped events too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

MODEL = "bench"
PATH = "/v1/chat/completions"
BODY_BYTES = 1024
EVENT_BYTES = 200

_ORDERS = re.compile(rb"stub:(\d+):(\d+):([01]):([01]):")
_NUMBER = re.compile(rb"#(\d{6})")
_ANSWER_MARK = "#answer"
_CREATED = 1_700_000_000


@dataclass(frozen=True)
class Script:
    """What the stub engine does with one request.

    Attributes:
        events: Of `EVENT_BYTES` each, before those that close the stream; 0: one JSON answer.
        gap_us: Microseconds between two events; 0: as fast as it can.
        closes: The engine closes its socket after the stream, although it said nothing of it, as
            llama.cpp does.
        holds: After the first event it waits for ``POST /stub/release``.
    """

    events: int = 0
    gap_us: int = 0
    closes: bool = False
    holds: bool = False

    @property
    def text(self) -> str:
        """The orders as they stand in the message."""
        return f"stub:{self.events}:{self.gap_us}:{self.closes:d}:{self.holds:d}:"


def script_in(body: bytes) -> Script | None:
    """Return the orders in a request's body, None when it has none."""
    found = _ORDERS.search(body)
    if found is None:
        return None
    events, gap_us, closes, holds = (int(group) for group in found.groups())
    return Script(events, gap_us, bool(closes), bool(holds))


def request_body(script: Script) -> bytes:
    """Return a chat request of `BODY_BYTES`."""
    return _padded(
        lambda fill: {
            "model": MODEL,
            "messages": [{"role": "user", "content": script.text + fill}],
            "max_tokens": max(1, script.events),
            "stream": script.events > 0,
        },
        BODY_BYTES,
    )


def request(script: Script, host: str, key: str) -> bytes:
    """Return the bytes of an HTTP/1.1 request."""
    body = request_body(script)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


def answer() -> bytes:
    """Return the JSON answer of `BODY_BYTES`."""
    return _padded(
        lambda fill: {
            "id": "chatcmpl-stub",
            "object": "chat.completion",
            "created": _CREATED,
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": _ANSWER_MARK + fill},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        },
        BODY_BYTES,
    )


def event(number: int) -> bytes:
    """Return one event of a stream, of `EVENT_BYTES`."""
    frame = len(b"data: \n\n")
    choice = {"index": 0, "finish_reason": None}
    data = _padded(
        lambda fill: _chunk([choice | {"delta": {"content": f"#{number:06d}{fill}"}}]),
        EVENT_BYTES - frame,
    )
    return b"data: " + data + b"\n\n"


def closing(events: int) -> bytes:
    """Return the events that close a stream: the reason, the usage, the end."""
    usage = {"prompt_tokens": 11, "completion_tokens": events, "total_tokens": 11 + events}
    last = _chunk([{"index": 0, "finish_reason": "stop", "delta": {}}])
    parts = (last, _chunk([]) | {"usage": usage})
    return b"".join(b"data: " + _json(part) + b"\n\n" for part in parts) + b"data: [DONE]\n\n"


def payload(script: Script) -> bytes:
    """Return what a client must get: the body without its framing."""
    if not script.events:
        return answer()
    return b"".join(event(number) for number in range(script.events)) + closing(script.events)


def fault_in(body: bytes | bytearray, script: Script, expected: bytes | None) -> str | None:
    """Return what is wrong with a received body, None when nothing is.

    Args:
        body: Without its framing.
        script: What was asked.
        expected: Exactly this; None: a proxy that writes the JSON anew, whose text is looked at.
    """
    if expected is not None:
        if body == expected:
            return None
        return f"{len(body)} bytes that differ from the {len(expected)} that were sent"
    if not script.events:
        return None if _ANSWER_MARK.encode() in body else "the answer has not the engine's text"
    numbers = [int(number) for number in _NUMBER.findall(body)]
    if numbers != list(range(script.events)):
        return f"{len(numbers)} of {script.events} events, or not in their order"
    return None if b"[DONE]" in body else "a stream without its end"


def _chunk(choices: list[dict[str, object]]) -> dict[str, object]:
    return {
        "id": "chatcmpl-stub",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": MODEL,
        "choices": choices,
    }


def _padded(make: Callable[[str], dict[str, object]], size: int) -> bytes:
    """Fill a document's text until it has `size` bytes."""
    missing = size - len(_json(make("")))
    if missing < 0:
        raise ValueError(f"a document of more than {size} bytes: {make('')}")
    return _json(make("x" * missing))


def _json(document: dict[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii")
