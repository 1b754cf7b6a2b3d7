"""One streamed chat request, as any OpenAI client would send it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import requests

from common.errors import EngineCrashError

_TIMEOUT_S = (5, 120)


def stream_chat(url: str, key: str, model: str, prompt: str) -> Iterator[str]:
    """Yield the pieces of the answer as they come.

    Args:
        url: The model's endpoint, ending in ``/v1``.
        key: The instance's key.
        model: The endpoint's name.
        prompt: What the user says.

    Raises:
        EngineCrashError: The endpoint answered with an error or cut the answer off.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "max_tokens": 64,
        "temperature": 0,
    }
    headers = {"Authorization": f"Bearer {key}"}
    with requests.Session() as session:
        session.trust_env = (
            False  # a proxy meant for the internet cannot reach this machine's loopback
        )
        try:
            with session.post(
                f"{url}/chat/completions",
                json=body,
                headers=headers,
                stream=True,
                timeout=_TIMEOUT_S,
            ) as response:
                if response.status_code != 200:
                    raise EngineCrashError(
                        f"{url} answered {response.status_code}: {response.text}"
                    )
                yield from _pieces(response.iter_lines())
        except requests.RequestException as error:
            raise EngineCrashError(
                f"The answer from {url} broke off: {type(error).__name__}"
            ) from error


def _pieces(lines: Iterator[bytes]) -> Iterator[str]:
    for line in lines:
        if not line.startswith(b"data: "):
            continue
        data = line[len(b"data: ") :]
        if data == b"[DONE]":
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise EngineCrashError(f"The engine reported: {chunk['error'].get('message')}")
        for choice in chunk.get("choices", []):
            piece = (choice.get("delta") or {}).get("content")
            if piece:
                yield piece
    raise EngineCrashError("The answer ended without its closing mark.")
