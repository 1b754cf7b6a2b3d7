"""The line of a request in debug mode."""

from __future__ import annotations

import aiohttp
import pytest

from common.gateway.access_log import access_line
from common.gateway.app import Gateway
from common.gateway.auth import ApiKeyAuthenticator
from common.telemetry.recorder import Recorder
from tests.gateway.gateway_harness import AUTH, KEY, StubProcess, served, settings


def test_a_line_tells_what_was_asked_and_how_it_ended() -> None:
    line = access_line("POST", "/v1/chat/completions", "tiny", 200, 0.3634, "0f-3a")
    assert line == "POST /v1/chat/completions tiny 200 in 363 ms (request 0f-3a)"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/v1/models?api_key=secret-key-1", "/v1/models"),
        ("/a%0Ab%1b[31m", "/a?b?[31m"),
        ("/" + "x" * 300, "/" + "x" * 199 + "..."),
    ],
)
def test_a_target_is_one_short_line_without_its_query(target: str, path: str) -> None:
    assert access_line("GET", target, "", 404, 0) == f"GET {path} - 404 in 0 ms"


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 200, "a\nb"])
def test_what_is_no_request_id_is_left_out(request_id: str) -> None:
    assert "request" not in access_line("GET", "/", "", 200, 0, request_id)


async def test_each_request_is_one_line_without_key_or_body(stub: StubProcess) -> None:
    lines: list[str] = []
    one = served(stub)
    gateway = Gateway(
        settings(),
        [one],
        ApiKeyAuthenticator(KEY),
        Recorder([one.name]),
        None,
        lambda line: None,
        access=lines.append,
    )
    await gateway.start()
    try:
        async with aiohttp.ClientSession(headers={**AUTH, "X-Request-Id": "id-7"}) as session:
            body = {"model": one.name, "messages": [{"role": "user", "content": "the prompt"}]}
            for path, more in (("chat/completions", body), ("chat/completions", {"model": "no"})):
                url = f"{gateway.base_url}/v1/{path}?api_key={KEY}"
                async with session.post(url, json=more) as answer:
                    await answer.read()
            async with session.get(f"{gateway.base_url}/v1/models") as answer:
                await answer.read()
    finally:
        await gateway.stop()
    assert len(lines) == 3
    said = "\n".join(lines)
    assert f"POST /v1/chat/completions {one.name} 200 in " in lines[0]
    assert "POST /v1/chat/completions - 404 in " in lines[1]
    assert "GET /v1/models - 200 in " in lines[2]
    assert all(line.endswith(" (request id-7)") for line in lines)
    assert KEY not in said
    assert "the prompt" not in said
