"""A route that is granted while the gateway serves: its address, its path, its authentication."""

from __future__ import annotations

import pytest
from gateway_harness import AUTH, KEY, StubProcess, running, served

from common.errors import RequestError
from common.gateway.auth import ApiKeyAuthenticator, OpenAuthenticator
from common.gateway.routing import ByModelField, Own, RouteTable, ToModel
from common.gateway.switched_auth import SwitchedAuthenticator

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def test_published_url_is_told_and_its_path_leads_here(stub: StubProcess) -> None:
    async with running([served(stub, "m")]) as run:
        assert run.gateway.url_for("m") == f"{run.gateway.base_url}/m/v1"
        async with run.session.get(f"{run.base}/team/llm/v1/models") as answer:
            assert answer.status == 404
        run.gateway.publish("https://gw.example.com/team/llm")
        assert run.gateway.url_for("m") == "https://gw.example.com/team/llm/m/v1"
        for path in ("/v1", "/m/v1", "/team/llm/v1", "/team/llm/m/v1"):
            async with run.session.post(f"{run.base}{path}/chat/completions", json=CHAT) as answer:
                assert answer.status == 200, path
        for path in ("", "/", "/health", "/v1/models"):
            async with run.session.get(f"{run.base}/team/llm{path}") as answer:
                assert answer.status == 200, path
        async with run.session.get(f"{run.base}/team/llm/?data=state") as answer:
            state = await answer.json()
            assert state["instance"]["public_url"] == "https://gw.example.com/team/llm"


def test_outer_path_changes_nothing_for_other_paths() -> None:
    table = RouteTable(["llm", "other"])
    target = "/llm/v1/completions?x=1"
    assert table.resolve("POST", target) == ToModel("llm", "/v1/completions?x=1", "/v1/completions")
    table.accept_prefix("/llm/")
    # A model of the route's name stays reachable...
    assert table.resolve("POST", target) == ToModel("llm", "/v1/completions?x=1", "/v1/completions")
    assert table.resolve("POST", "/llm" + target).name == "llm"  # type: ignore[union-attr]
    # ...and what stands behind the route is what it is without it.
    assert table.resolve("POST", "/llm/other/v1/completions").name == "other"  # type: ignore[union-attr]
    assert isinstance(table.resolve("GET", "/llm/health"), Own)
    assert isinstance(table.resolve("GET", "/llm?x=1"), Own)
    for path in ("/llmother/v1/completions", "/llm/slots", "/llm/llm/slots", "/llm/../health"):
        with pytest.raises(RequestError):
            table.resolve("POST", path)


def test_outer_path_of_two_parts() -> None:
    table = RouteTable(["m"])
    table.accept_prefix("/team/llm")
    assert table.resolve("POST", "/team/llm/v1/completions") == ByModelField(
        "/v1/completions", "/v1/completions"
    )
    table.accept_prefix("")
    with pytest.raises(RequestError):
        table.resolve("POST", "/team/llm/v1/completions")


async def test_exchanged_authenticator_decides_from_then_on(stub: StubProcess) -> None:
    switched = SwitchedAuthenticator(ApiKeyAuthenticator(KEY))
    async with running([served(stub, "m")], authenticator=switched, headers={}) as run:

        async def status(headers: dict[str, str]) -> int:
            url = f"{run.base}/v1/chat/completions"
            async with run.session.post(url, json=CHAT, headers=headers) as answer:
                return answer.status

        assert [await status({}), await status(AUTH)] == [401, 200]
        async with run.session.get(f"{run.base}/") as page:
            assert "password" in await page.text()
        switched.use(OpenAuthenticator("gateway"))
        assert [await status({}), await status(AUTH)] == [200, 200]
        async with run.session.get(f"{run.base}/?data=state") as page:
            assert (await page.json())["access"]["credential"] == "none"
        switched.use(ApiKeyAuthenticator("another-key-0123456789"))
        assert await status(AUTH) == 401
