"""Adapters (LoRA): listed after their model, served by its engine under names of their own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import openai
import pytest
from gateway_harness import KEY, ManualUpstream, StubProcess, check_refused, running, served, until

from common.errors import ConfigurationError
from common.gateway.routing import ByModelField, Own, RouteTable, ToModel

TABLE = RouteTable(["base", "other"], [("sql", "base"), ("team/chat", "base"), ("base/x", "other")])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (
            "/sql/v1/chat/completions",
            ToModel("base", "/v1/chat/completions", "/v1/chat/completions"),
        ),
        ("/team%2Fchat/v1/x?y", ToModel("base", "/v1/x?y", "/v1/x")),
        ("/base/x/v1/y", ToModel("other", "/v1/y", "/v1/y")),
        ("/sql/tokenize", ToModel("base", "/tokenize", "/tokenize")),
        ("/sql/v2/rerank", ToModel("base", "/v2/rerank", "/v2/rerank")),
        ("/v2/rerank", ByModelField("/v2/rerank", "/v2/rerank")),
        ("/sql/v1/models", Own("models")),
        ("/v1/models/team/chat", Own("model", "team/chat")),
    ],
)
def test_the_name_of_an_adapter_leads_to_its_model(target: str, expected: object) -> None:
    method = "GET" if isinstance(expected, Own) else "POST"
    assert TABLE.resolve(method, target) == expected


@pytest.mark.parametrize(
    ("names", "adapters"),
    [
        (["a"], [("a", "a")]),
        (["a", "b"], [("x", "a"), ("x", "b")]),
        (["a"], [("a/v1", "a")]),
        (["a/v1"], [("a", "a/v1")]),
    ],
)
def test_names_are_unique_over_models_and_adapters(
    names: list[str], adapters: list[tuple[str, str]]
) -> None:
    with pytest.raises(ConfigurationError, match="endpoint name"):
        RouteTable(names, adapters)


async def test_openai_client_lists_retrieves_and_uses_adapters(stub: StubProcess) -> None:
    models = [
        served(stub, "base", adapters=("sql", "team/chat")),
        served(stub, "other", status="loading"),
    ]
    async with (
        running(models) as run,
        openai.AsyncOpenAI(base_url=f"{run.base}/v1", api_key=KEY, max_retries=0) as client,
    ):
        listed = (await client.models.list()).data
        assert [entry.id for entry in listed] == ["base", "sql", "team/chat", "other"]
        extra = [entry.model_extra or {} for entry in listed]
        assert [entry.get("parent") for entry in extra] == [None, "base", "base", None]
        assert [entry["status"] for entry in extra] == ["ready", "ready", "ready", "loading"]
        one = await client.models.retrieve("sql")
        assert (one.id, (one.model_extra or {})["parent"]) == ("sql", "base")
        named = await client.models.with_raw_response.list()
        url = f"{run.base}/base/v1/models"
        async with run.session.get(url) as answer:
            assert await answer.json() == named.http_response.json()

        messages: Any = [{"role": "user", "content": "x"}]
        for name in ("sql", "team/chat", "base"):
            answered = await client.chat.completions.create(model=name, messages=messages)
            assert answered.choices[0].message.content
        audio = await client.audio.transcriptions.create(model="sql", file=("a.wav", b"sound"))
        assert (audio.model_extra or {})["model"] == "sql"
        with pytest.raises(openai.NotFoundError, match="base, other, sql, team/chat"):
            await client.chat.completions.create(model="SQL", messages=messages)
        assert run.results("base") == {("ok", 200): 4}
        assert run.results("sql") == {}


async def test_the_path_of_an_adapter_reaches_its_engine_with_the_body_unchanged(
    stub: StubProcess,
) -> None:
    models = [served(stub, "base", adapters=("sql",)), served(stub, "other", status="loading")]
    async with running(models) as run:
        for path in ("/sql/v1/echo", "/base/v1/echo", "/v1/echo"):
            body = b'{"model": "sql",  "x": 1}'
            async with run.session.post(run.base + path, data=body) as answer:
                assert (answer.status, await answer.read()) == (200, body)
        # Whatever the body says, the path of a model decides.
        async with run.session.post(f"{run.base}/base/v1/echo", data=b"not json") as answer:
            assert await answer.read() == b"not json"
        async with run.session.post(f"{run.base}/v1/echo", json={}) as answer:
            words = ("base", "sql", "other")
            await check_refused(answer, expect=400, code="model_required", words=words)


async def test_one_model_with_adapters_needs_no_name(stub: StubProcess) -> None:
    async with running([served(stub, "base", adapters=("sql",))]) as run:
        async with run.session.post(f"{run.base}/v1/echo", json={"x": 1}) as answer:
            assert answer.status == 200


async def test_limits_are_those_of_the_model(stub: StubProcess) -> None:
    async with running([served(stub, "m", adapters=("sql",), max_concurrent_requests=1)]) as run:

        async def upload(started: asyncio.Event, go_on: asyncio.Event) -> Any:
            async def body() -> Any:
                yield b'{"model": "sql"}'
                started.set()
                await go_on.wait()

            async with run.session.post(f"{run.base}/sql/v1/echo", data=body()) as answer:
                return answer.status

        started, go_on = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(upload(started, go_on))
        await started.wait()
        await until(lambda: run.gateway.in_flight_of("m") == 1)
        async with run.session.post(f"{run.base}/v1/echo", json={"model": "sql"}) as answer:
            await check_refused(answer, expect=429, code="too_many_requests", words=("m",))
        go_on.set()
        assert await first == 200


class Operations:
    """Remembers what was operated."""

    def __init__(self) -> None:
        self.unloaded: list[str] = []

    async def load(self, name: str) -> None:
        raise AssertionError

    async def sleep(self, name: str) -> None:
        raise AssertionError

    async def unload(self, name: str) -> None:
        self.unloaded.append(name)


async def test_an_adapter_is_not_operated_by_itself(stub: StubProcess) -> None:
    admin = Operations()
    async with running([served(stub, "m", adapters=("sql",))], admin=admin) as run:
        async with run.session.post(f"{run.base}/admin/models/sql/unload") as answer:
            words = ("'sql'", "'m'", "unload")
            await check_refused(answer, expect=409, code="not_a_model", words=words)
        async with run.session.post(f"{run.base}/admin/models/m/unload") as answer:
            assert answer.status == 200
        async with run.session.get(f"{run.base}/admin/models") as answer:
            assert [entry["id"] for entry in (await answer.json())["data"]] == ["m"]
    assert admin.unloaded == ["m"]


@pytest.mark.parametrize(
    "route",
    [
        "/sleep", "/wake_up", "/is_sleeping", "/collective_rpc", "/reset_prefix_cache",
        "/reset_mm_cache", "/server_info", "/invocations", "/start_profile", "/stop_profile",
        "/scale_elastic_ep", "/update_config", "/load", "/version", "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter", "/v1/load%5flora_adapter", "/v1/load_lora_adapter/",
        "/docs", "/openapi.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "/base", "/sql", "/service/1/base"])
async def test_the_operators_routes_of_an_engine_are_out_of_reach(
    stub: StubProcess, prefix: str, route: str
) -> None:
    before = (await stub.stats())["requests"]
    async with running([served(stub, "base", adapters=("sql",))]) as run:
        for method in ("GET", "POST"):
            url = f"{run.base}{prefix}{route}"
            async with run.session.request(method, url, json={"model": "base"}) as answer:
                assert answer.status == 404, await answer.text()
    assert (await stub.stats())["requests"] == before


@pytest.mark.parametrize("route", ["/v1/score", "/v2/rerank", "/pooling", "/classify"])
async def test_routes_of_scoring_models_pass(stub: StubProcess, route: str) -> None:
    body = b'{"model": "base", "query": "a",   "documents": ["b"]}'
    async with running([served(stub, "base"), served(stub, "other")]) as run:
        for path in (route, f"/base{route}"):
            headers = {"Content-Type": "application/json"}
            async with run.session.post(run.base + path, data=body, headers=headers) as answer:
                assert (answer.status, await answer.read()) == (200, body)


async def test_the_page_shows_adapters_with_their_model(stub: StubProcess) -> None:
    async with running([served(stub, "base", adapters=("s<q>l",))]) as run:
        async with run.session.get(f"{run.base}/") as answer:
            assert "s<q>l" not in await answer.text()
        async with run.session.get(f"{run.base}/?data=state") as answer:
            state = await answer.json()
    assert [(m["name"], m["adapters"]) for m in state["models"]] == [("base", ["s<q>l"])]


async def test_metrics_know_models_only(stub: StubProcess) -> None:
    async with running([served(stub, "base", adapters=("sql",))]) as run:
        async with run.session.post(f"{run.base}/v1/echo", json={"model": "sql"}) as answer:
            assert answer.status == 200
        async with run.session.get(f"{run.base}/metrics") as answer:
            text = await answer.text()
        assert 'model="base"' in text
        assert 'model="sql"' not in text


async def test_the_key_of_an_engine_is_sent_to_it_and_the_clients_is_not(
    stub: StubProcess,
) -> None:
    address = replace(stub.address, key="internal")
    assert "internal" not in repr(address)
    model = served(stub, "m")
    model = replace(model, upstream=ManualUpstream("m", address))
    async with running([model]) as run:
        async with run.session.post(f"{run.base}/m/v1/inspect", data=b"x") as answer:
            seen = {name.lower(): value for name, value in (await answer.json())["headers"]}
    assert seen["authorization"] == "Bearer internal"
    assert KEY not in str(seen)
