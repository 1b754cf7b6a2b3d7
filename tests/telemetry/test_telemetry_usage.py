"""Tokens of a request, read from answers as llama.cpp and vLLM give them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.telemetry.recorder import Outcome, Recorder, RequestUsage


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def event(value: Any, name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + compact(value) + b"\n\n"


def usage_of(pieces: Sequence[bytes], *, is_stream: bool = False) -> RequestUsage:
    record = Recorder(["m"]).open()
    record.assign("m")
    record.start()
    if is_stream:
        record.first_token()
    for piece in pieces:
        record.saw(piece)
    return record.close(Outcome.OK, 200)


def exact(prompt: int, completion: int) -> RequestUsage:
    return RequestUsage(prompt, completion, False)


LLAMACPP_TIMINGS = {
    "cache_n": 7,
    "prompt_n": 5,
    "prompt_ms": 41.2,
    "predicted_n": 9,
    "predicted_ms": 120.5,
}
LLAMACPP_USAGE = {
    "completion_tokens": 9,
    "prompt_tokens": 12,
    "total_tokens": 21,
    "prompt_tokens_details": {"cached_tokens": 7},
}
VLLM_USAGE = {
    "prompt_tokens": 12,
    "total_tokens": 21,
    "completion_tokens": 9,
    "prompt_tokens_details": None,
}
RESPONSES_USAGE = {
    "input_tokens": 12,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 21,
}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}


def llamacpp_chat(content: str = "Hi") -> dict[str, Any]:
    choice = CHOICE | {"message": {"role": "assistant", "content": content}}
    return {
        "choices": [choice],
        "created": 1763650000,
        "model": "m",
        "object": "chat.completion",
        "usage": LLAMACPP_USAGE,
        "id": "chatcmpl-1",
        "timings": LLAMACPP_TIMINGS,
    }


def vllm_chat(content: str = "Hi") -> dict[str, Any]:
    choice = CHOICE | {"message": {"role": "assistant", "content": content}, "logprobs": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1763650000,
        "model": "m",
        "choices": [choice],
        "service_tier": None,
        "usage": VLLM_USAGE,
        "prompt_logprobs": None,
        "kv_transfer_params": None,
    }


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (llamacpp_chat(), exact(12, 9)),
        (vllm_chat(), exact(12, 9)),
        ({"id": "resp_1", "output": [], "usage": RESPONSES_USAGE, "user": None}, exact(12, 9)),
        (
            {"type": "message", "usage": {"input_tokens": 12, "output_tokens": 9}},
            exact(12, 9),
        ),
        (
            {
                "type": "message",
                "usage": {
                    "cache_read_input_tokens": 7,
                    "cache_creation_input_tokens": 2,
                    "input_tokens": 3,
                    "output_tokens": 9,
                },
            },
            exact(12, 9),
        ),
        ({"content": "Hi", "tokens_predicted": 9, "timings": LLAMACPP_TIMINGS}, exact(12, 9)),
        (
            {"object": "list", "data": [], "usage": {"prompt_tokens": 4, "total_tokens": 4}},
            exact(4, 0),
        ),
        ({"object": "list", "data": []}, exact(0, 0)),
        ({"usage": None}, exact(0, 0)),
        ({"usage": {"prompt_tokens": "12", "completion_tokens": True}}, exact(0, 0)),
    ],
    ids=[
        *("llamacpp-chat", "vllm-chat", "responses", "messages", "messages-cached"),
        *("llamacpp-native", "embeddings", "no-usage", "null-usage", "no-numbers"),
    ],
)
def test_usage_of_a_whole_answer(answer: dict[str, Any], expected: RequestUsage) -> None:
    assert usage_of([compact(answer)]) == expected
    assert usage_of([json.dumps(answer, indent=2).encode()]) == expected


def test_usage_at_the_beginning_of_long_embeddings() -> None:
    head = b'{"model":"m","object":"list","usage":{"prompt_tokens":6,"total_tokens":6},"data":['
    pieces = [head, *[b"0.123," * 10_000] * 5, b"0.5]}"]
    assert usage_of(pieces) == exact(6, 0)


def chat_chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice]} | more


ROLE = event(chat_chunk({"role": "assistant", "content": None}))
WORDS = [event(chat_chunk({"content": f" w{n}"})) for n in range(9)]
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("usage", [LLAMACPP_USAGE, VLLM_USAGE], ids=["llamacpp", "vllm"])
@pytest.mark.parametrize("with_done", [True, False])
def test_usage_of_a_chat_stream(usage: dict[str, Any], with_done: bool) -> None:
    last = event({"choices": [], "usage": usage})
    pieces = [ROLE, *WORDS, last, *([DONE] if with_done else [])]
    assert usage_of(pieces, is_stream=True) == exact(12, 9)
    assert usage_of([b"".join(pieces)], is_stream=True) == exact(12, 9)


def test_usage_of_a_stream_that_has_timings_only() -> None:
    last = event(chat_chunk({}, timings=LLAMACPP_TIMINGS))
    assert usage_of([ROLE, *WORDS, last, DONE], is_stream=True) == exact(12, 9)


def test_a_null_usage_in_the_last_chunk_does_not_hide_the_one_before() -> None:
    pieces = [*WORDS, event({"usage": VLLM_USAGE}), event({"usage": None}), DONE]
    assert usage_of(pieces, is_stream=True) == exact(12, 9)


def test_usage_of_a_responses_stream() -> None:
    created = event({"response": {"usage": None}}, "response.created")
    deltas = [event({"delta": "w"}, "response.output_text.delta") for _ in range(9)]
    done = event({"response": {"usage": RESPONSES_USAGE}}, "response.completed")
    assert usage_of([created, *deltas, done], is_stream=True) == exact(12, 9)


MESSAGE_START = event(
    {"type": "message_start", "message": {"usage": {"input_tokens": 12, "output_tokens": 0}}},
    "message_start",
)
BLOCK_START = event({"type": "content_block_start"}, "content_block_start")
BLOCK_DELTAS = [event({"type": "content_block_delta"}, "content_block_delta") for _ in range(9)]


def test_a_messages_stream_names_the_prompt_at_its_beginning() -> None:
    delta = event({"type": "message_delta", "usage": {"output_tokens": 9}}, "message_delta")
    stop = event({"type": "message_stop"}, "message_stop")
    pieces = [MESSAGE_START, BLOCK_START, *BLOCK_DELTAS, delta, stop]
    assert usage_of(pieces, is_stream=True) == exact(12, 9)


def test_a_messages_stream_of_llamacpp_with_a_cached_prompt() -> None:
    usage = {"cache_read_input_tokens": 31, "input_tokens": 1, "output_tokens": 0}
    start = event({"type": "message_start", "message": {"usage": usage}}, "message_start")
    delta = event({"type": "message_delta", "usage": {"output_tokens": 9}}, "message_delta")
    assert usage_of([start, *BLOCK_DELTAS, delta], is_stream=True) == exact(32, 9)
    # Seen with an answer that began with an emoji: no first event, so no count of the prompt.
    assert usage_of([*BLOCK_DELTAS, delta], is_stream=True) == exact(0, 9)


@pytest.mark.parametrize("deltas", [0, 1, 9])
def test_a_messages_stream_that_is_cut_off_is_estimated(deltas: int) -> None:
    pieces = [MESSAGE_START, BLOCK_START, *BLOCK_DELTAS[:deltas]]
    assert usage_of(pieces, is_stream=True) == RequestUsage(12, deltas, True)


@pytest.mark.parametrize("pieces", [1, 3, 10], ids=lambda n: f"in-{n}-pieces")
def test_a_stream_without_usage_is_estimated_by_its_events(pieces: int) -> None:
    whole = b"".join([ROLE, *WORDS, DONE])
    size = -(-len(whole) // pieces)
    parts = [whole[at : at + size] for at in range(0, len(whole), size)]
    # An event whose first bytes are in two pieces is not seen: at most one for each cut.
    found = usage_of(parts, is_stream=True)
    assert found.is_estimated
    assert 9 - (pieces - 1) <= found.completion <= 9


def test_events_with_carriage_returns_are_counted() -> None:
    whole = b"".join([ROLE, *WORDS, DONE]).replace(b"\n", b"\r\n")
    assert usage_of([whole], is_stream=True) == RequestUsage(0, 9, True)


@pytest.mark.parametrize("answer", [llamacpp_chat, vllm_chat])
@pytest.mark.parametrize(
    "content",
    [
        '{"usage":{"prompt_tokens":1,"completion_tokens":2}}',
        'Write "usage": {"completion_tokens": 3, "prompt_tokens": 4}, "timings":{"predicted_n":1}',
        json.dumps(json.dumps({"usage": {"prompt_tokens": 1, "completion_tokens": 2}})),
        "usage",
    ],
)
def test_content_that_quotes_a_usage_does_not_mislead(answer: Any, content: str) -> None:
    assert usage_of([compact(answer(content))]) == exact(12, 9)
    without = answer(content)
    for name in ("usage", "timings"):
        without.pop(name, None)
    assert usage_of([compact(without)]) == exact(0, 0)
    pieces = [event(chat_chunk({"content": content})), DONE]
    assert usage_of(pieces, is_stream=True) == RequestUsage(0, 1, True)


def test_a_schema_with_a_field_of_that_name_does_not_mislead() -> None:
    schema = {"usage": {"type": "object", "prompt_tokens": {"type": "integer"}}}
    answer = {"usage": RESPONSES_USAGE, "tools": [{"parameters": {"properties": schema}}]}
    assert usage_of([compact(answer)]) == exact(12, 9)
    harmless = {"usage": {"type": "object", "properties": {}}}
    answer = {"usage": RESPONSES_USAGE, "tools": [{"parameters": {"properties": harmless}}]}
    assert usage_of([compact(answer)]) == exact(12, 9)


def test_a_number_that_no_count_has_is_no_count() -> None:
    digits = b"9" * 5000
    answer = b'{"usage":{"prompt_tokens":' + digits + b',"completion_tokens":' + digits + b"}}"
    assert usage_of([answer]) == exact(0, 0)


@settings(deadline=None)
@given(st.data())
def test_a_usage_may_be_split_anywhere_over_two_pieces(data: st.DataObject) -> None:
    is_stream = data.draw(st.booleans())
    if is_stream:
        whole, rest = event({"choices": [], "usage": VLLM_USAGE}), [DONE]
        before = [ROLE, *WORDS]
    else:
        whole, rest, before = compact(vllm_chat()), [], []
    at = data.draw(st.integers(1, len(whole) - 1))
    pieces = [*before, whole[:at], whole[at:], *rest]
    assert usage_of(pieces, is_stream=is_stream) == exact(12, 9)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200)), st.booleans())
def test_any_bytes_have_some_usage(pieces: list[bytes], is_stream: bool) -> None:
    found = usage_of(pieces, is_stream=is_stream)
    assert found.prompt >= 0
    assert found.completion >= 0
