"""*Max Input Tokens* and *Max Total Tokens*: count as the engine counts, refuse as OpenAI refuses.

Only the engine knows its tokenizer and its chat template, so it is asked: ``/apply-template`` turns
messages into the prompt, ``/tokenize`` counts it (llama.cpp's routes). Bodies are never rewritten,
so a request that names no output length passes when its prompt leaves room for one token; what it
may then generate is bounded by the engine's own settings. A prompt that the engine cannot count is
passed on: the engine's own answer says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from common.errors import RequestError

Ask = Callable[[str, dict[str, Any]], Awaitable[tuple[int, dict[str, Any]]]]
"""Post JSON to one of the engine's routes and return status and answer."""

# Where the clients of the four APIs write how much may be generated; -1 is llama.cpp's "endless".
OUTPUT_FIELDS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "n_predict")

CHAT_PATHS = frozenset({"/v1/chat/completions"})
RESPONSES_PATHS = frozenset({"/v1/responses"})
MESSAGES_PATHS = frozenset({"/v1/messages"})
PROMPT_FIELDS = {
    "/v1/completions": "prompt",
    "/completion": "prompt",
    "/v1/embeddings": "input",
    "/embedding": "content",
}


@dataclass(frozen=True)
class TokenLimits:
    """Limits of one model; None: no limit."""

    max_input: int | None
    max_total: int | None

    @property
    def are_set(self) -> bool:
        """Whether there is anything to check."""
        return self.max_input is not None or self.max_total is not None


def is_counted(path: str) -> bool:
    """Whether requests to this decoded path carry a prompt that the limits are about."""
    return path in PROMPT_FIELDS or path in CHAT_PATHS | RESPONSES_PATHS | MESSAGES_PATHS


async def check_token_limits(
    path: str, body: dict[str, Any], limits: TokenLimits, ask: Ask
) -> None:
    """Let a request pass or refuse it.

    Args:
        path: Decoded path at the engine.
        body: The request.
        limits: The model's limits.
        ask: How to reach the engine.

    Raises:
        RequestError: 400 ``context_length_exceeded`` with the numbers.
        EngineError: The engine could not be asked.
    """
    prompt_tokens = await count_prompt(path, body, ask)
    if prompt_tokens is not None:
        refuse_above(limits, prompt_tokens, requested_output(body), is_chat=path in CHAT_PATHS)


def refuse_above(
    limits: TokenLimits, prompt_tokens: int, output_tokens: int | None, *, is_chat: bool
) -> None:
    """Decide by the numbers (pure).

    Raises:
        RequestError: 400 ``context_length_exceeded``.
    """
    param = "messages" if is_chat else "prompt"
    if limits.max_input is not None and prompt_tokens > limits.max_input:
        raise _exceeded(
            f"This model takes at most {limits.max_input} input tokens (Max Input Tokens). "
            f"However, your {param} resulted in {prompt_tokens} tokens. "
            f"Please reduce the length of the {param}.",
            param,
        )
    if limits.max_total is None:
        return
    if output_tokens is None:
        if prompt_tokens >= limits.max_total:
            raise _exceeded(
                f"This model's maximum context length is {limits.max_total} tokens (Max Total "
                f"Tokens). However, your {param} resulted in {prompt_tokens} tokens, which leaves "
                f"no room for an answer. Please reduce the length of the {param}.",
                param,
            )
    elif prompt_tokens + output_tokens > limits.max_total:
        raise _exceeded(
            f"This model's maximum context length is {limits.max_total} tokens (Max Total Tokens). "
            f"However, you requested {prompt_tokens + output_tokens} tokens ({prompt_tokens} in "
            f"the {param}, {output_tokens} in the completion). Please reduce the length of the "
            f"{param} or of the completion.",
            param,
        )


def requested_output(body: dict[str, Any]) -> int | None:
    """Return how many tokens the client asks for at most; None when it names no number."""
    for name in OUTPUT_FIELDS:
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


async def count_prompt(path: str, body: dict[str, Any], ask: Ask) -> int | None:
    """Return the tokens of the longest prompt in a request; None when it cannot be counted."""
    if path in CHAT_PATHS:
        return await _count_chat(body, ask)
    if path in RESPONSES_PATHS:
        return await _count_chat({**body, "messages": responses_messages(body)}, ask)
    if path in MESSAGES_PATHS:
        status, answer = await ask("/v1/messages/count_tokens", body)
        return _number(answer.get("input_tokens")) if status == 200 else None
    counts = [await _count_prompt(p, ask) for p in prompts_of(body.get(PROMPT_FIELDS[path]))]
    known = [count for count in counts if count is not None]
    return max(known) if known else None


def prompts_of(value: Any) -> list[Any]:
    """Split a `prompt` or `input` field into prompts: texts, or lists of tokens and texts."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return []
    if any(isinstance(item, int) for item in value):
        return [value]
    return list(value)


def responses_messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the Responses API's `instructions` and `input` as chat messages, text parts only."""
    messages: list[dict[str, Any]] = []
    if isinstance(body.get("instructions"), str):
        messages.append({"role": "system", "content": body["instructions"]})
    given = body.get("input")
    items = given if isinstance(given, list) else [{"role": "user", "content": given}]
    for item in items:
        if not isinstance(item, dict):
            continue
        content = item.get("content")
        if isinstance(content, list):
            texts = [part.get("text") for part in content if isinstance(part, dict)]
            content = "\n".join(text for text in texts if isinstance(text, str))
        if isinstance(content, str):
            messages.append({"role": item.get("role", "user"), "content": content})
    return messages


async def _count_chat(body: dict[str, Any], ask: Ask) -> int | None:
    status, answer = await ask("/apply-template", body)
    prompt = answer.get("prompt")
    if status != 200 or not isinstance(prompt, str):
        return None
    return await _count_text(prompt, ask)


async def _count_prompt(prompt: Any, ask: Ask) -> int | None:
    if isinstance(prompt, str):
        return await _count_text(prompt, ask)
    if not isinstance(prompt, list):
        return None
    total = sum(1 for item in prompt if isinstance(item, int))
    for text in prompt:
        if isinstance(text, str):
            total += await _count_text(text, ask) or 0
    return total


async def _count_text(text: str, ask: Ask) -> int | None:
    # add_special as in a completion: the model's begin-of-text token counts, too.
    question = {"content": text, "add_special": True, "parse_special": True}
    status, answer = await ask("/tokenize", question)
    tokens = answer.get("tokens")
    return len(tokens) if status == 200 and isinstance(tokens, list) else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _exceeded(message: str, param: str) -> RequestError:
    return RequestError(message, code="context_length_exceeded", param=param)
