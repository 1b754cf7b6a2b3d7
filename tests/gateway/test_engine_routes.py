"""No route of an engine is reached that is not for clients.

The lists are those of llama-server (in llama-cpp-python 0.3.36, and xllamacpp 2026.10), of
llama-cpp-python's own server, and of vLLM 0.27.1 and 0.32.0. vLLM's is compared with what is
installed: a new route has to be judged before it can be reached unseen.
"""

from __future__ import annotations

import os
import re

import pytest
from gateway_harness import StubProcess, running, served
from yarl import URL

from common.engines.places import engines_folder
from common.errors import RequestError
from common.gateway.routing import ByModelField, Own, RouteTable, ToModel
from tests.gateway.engine_routes import LLAMA_SERVER, PYTHON_SERVER, VLLM, Use
from tests.vllm.engine_environment import VERSION

TABLE = RouteTable(["org/repo", "m"])
EVERY = {**PYTHON_SERVER, **LLAMA_SERVER, **VLLM}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def reached(method: str, target: str) -> ToModel | ByModelField | None:
    """What an engine would get for a request of a client."""
    try:
        found = TABLE.resolve(method, target)
    except RequestError:
        return None
    return None if isinstance(found, Own) else found


def spellings(route: str) -> list[str]:
    """Ways to write a route that an engine might take for the same."""
    first = route[1]
    return [
        route,
        f"{route}/",
        f"{route}?x=1",
        f"/%{ord(first):02x}{route[2:]}",
        route.replace("/", "//", 1),
        f"/v1/..{route}",
        f"/v1/%2e%2e{route}",
        f"/v1{route}/../..{route}",
        f"/service/task{route}",
    ]


@pytest.mark.parametrize("route", [r for r, use in EVERY.items() if use is Use.OPERATOR])
def test_a_route_of_the_operator_is_not_reached_however_it_is_written(route: str) -> None:
    for target in spellings(route):
        for prefix in ("", "/m", "/org/repo", "/org%2Frepo", "/service/task/m"):
            for method in METHODS:
                assert reached(method, prefix + target) is None, (method, prefix + target)


@pytest.mark.parametrize("route", [r for r, use in EVERY.items() if use is Use.CLIENT])
def test_a_route_for_clients_is_reached_as_it_is(route: str) -> None:
    for prefix in ("", "/m", "/org/repo"):
        found = reached("POST", prefix + route)
        assert found is not None
        assert found.target == route


@pytest.mark.parametrize("route", [r for r, use in EVERY.items() if use is Use.OURS])
def test_a_route_that_the_gateway_has_itself_never_gets_to_an_engine(route: str) -> None:
    for method in METHODS:
        for prefix in ("", "/m"):
            assert reached(method, prefix + route) is None


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_full_url_as_a_target_reaches_no_route_of_the_operator(method: str) -> None:
    for route in ("/slots", "/sleep", "http://m/slots"):
        assert reached(method, f"http://engine{route}") is None


async def test_the_gateway_lets_none_of_them_through(stub: StubProcess) -> None:
    """Over HTTP and with a valid key: also what puts vLLM to sleep, and what writes slots to files."""
    targets = [
        *(route for route, use in EVERY.items() if use is Use.OPERATOR),
        *("/sleep?level=2", "/wake_up?tags=weights", "/%73leep", "/sleep/"),
        *("/slots/0?action=save", "/slots/0?action=restore", "/slots/0?action=erase"),
        *("/slots%2f0?action=save", "/v1/..%2fslots/0?action=save"),
    ]
    before = (await stub.stats())["requests"]
    async with running([served(stub, "m"), served(stub, "org/repo")]) as run:
        run.gateway.publish("https://gw.example.com/team/llm")
        for prefix in ("", "/m", "/org/repo", "/service/1", "/service/1/m", "/team/llm"):
            for target in targets:
                url = URL(f"{run.base}{prefix}{target}", encoded=True)
                async with run.session.post(url, json={"model": "m"}) as answer:
                    assert answer.status in (400, 404, 405), (prefix, target)
        assert (await stub.stats())["requests"] == before
        async with run.session.post(f"{run.base}/team/llm/m/v1/echo", json={}) as answer:
            assert answer.status == 200  # the engine is there


@pytest.mark.engine
def test_every_route_of_the_installed_vllm_was_judged() -> None:
    folder = engines_folder(os.environ) / f"vllm-{VERSION}+cpu"
    found: set[str] = set()
    for source in folder.glob("lib/python3*/site-packages/vllm/entrypoints/**/*.py"):
        text = source.read_text(encoding="utf-8")
        found |= set(
            re.findall(
                r"@?\b(?:app|\w*router)\.(?:get|post|put|patch|delete|websocket|api_route|mount|"
                r"add_\w*route)\(\s*f?[\"'](/[^\"']*)[\"']",
                text,
            )
        )
    assert found, f"vLLM is not installed in {folder}"
    assert found - set(VLLM) == set()
