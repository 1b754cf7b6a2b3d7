"""Models, roles and limits of keys, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway_harness import (
    KEY,
    Running,
    StubProcess,
    check_refused,
    running,
    served,
    until,
)

from common.gateway.auth import ApiKeyAuthenticator
from common.gateway.key_file import add_key
from common.gateway.keys import KeyEntry, KeyLimits, Role, make_entry

NAME = "org/repo/M.gguf"
CHAT = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}


async def post(run: Running, key: str, body: dict[str, Any] = CHAT, path: str = "") -> Any:
    url = f"{run.base}{path}/v1/chat/completions"
    return await run.session.post(url, json=body, headers={"X-Api-Key": key})


def guard_of(*entries: KeyEntry) -> ApiKeyAuthenticator:
    return ApiKeyAuthenticator(KEY, None, entries)


async def test_a_key_uses_its_models_by_field_and_by_path(stub: StubProcess) -> None:
    entry, key = make_entry("ci", models=["other"])
    models = [served(stub), served(stub, "other", adapters=("sql",))]
    async with running(models, authenticator=guard_of(entry), headers={}) as run:
        for name in ("other", "sql"):
            assert (await post(run, key, CHAT | {"model": name})).status == 200
            assert (await post(run, key, path=f"/{name}")).status == 200
        for refused in (await post(run, key), await post(run, key, path=f"/{NAME}")):
            await check_refused(refused, expect=403, code="model_not_allowed", words=["'ci'", NAME])
        # It was no use of that model, and none of the instance.
        assert run.results(NAME) == {}
        assert run.results("")[("refused", 403)] == 2
        async with run.session.get(f"{run.base}/v1/models", headers={"X-Api-Key": key}) as answer:
            assert [item["id"] for item in (await answer.json())["data"]] == ["other", "sql"]


async def test_a_key_for_the_metrics_reads_them_and_nothing_else(stub: StubProcess) -> None:
    entry, key = make_entry("prometheus", Role.METRICS)
    async with running([served(stub)], authenticator=guard_of(entry), headers={}) as run:
        headers = {"X-Api-Key": key}
        for path, status in (
            ("/metrics", 200),
            ("/?data=state", 200),
            ("/v1/models", 403),
            (f"/v1/models/{NAME}", 403),
            ("/admin/models", 403),
        ):
            async with run.session.get(run.base + path, headers=headers) as answer:
                assert answer.status == status, path
        await check_refused(await post(run, key), expect=403, code="use_required")
        assert run.recorder.last_activity is None


async def test_requests_over_a_minutes_limit_are_told_when_to_come_back(stub: StubProcess) -> None:
    entry, key = make_entry("ci", limits=KeyLimits(requests_per_minute=2))
    async with running([served(stub)], authenticator=guard_of(entry), headers={}) as run:
        assert [(await post(run, key)).status for _ in range(2)] == [200, 200]
        refused = await post(run, key)
        assert 50 <= int(refused.headers["Retry-After"]) <= 60
        await check_refused(
            refused, expect=429, code="rate_limit_exceeded", words=["'ci'", "2 requests a minute"]
        )
        assert (await post(run, KEY)).status == 200


async def test_tokens_of_answers_count_for_the_key(stub: StubProcess) -> None:
    entry, key = make_entry("ci", limits=KeyLimits(tokens_per_minute=1))
    async with running([served(stub)], authenticator=guard_of(entry), headers={}) as run:
        first = await post(run, key, CHAT | {"stream": True})
        assert first.status == 200
        await first.read()
        await until(lambda: run.gateway.in_flight == 0)
        refused = await post(run, key)
        await check_refused(refused, expect=429, code="rate_limit_exceeded", words=["1 tokens"])


async def test_requests_at_once_are_counted_until_the_client_leaves(start_stub: Any) -> None:
    stub = start_stub("--tokens", "10000", "--token-delay", "0.05")
    entry, key = make_entry("ci", limits=KeyLimits(concurrent=1))
    async with running([served(stub)], authenticator=guard_of(entry), headers={}) as run:
        stream = await post(run, key, CHAT | {"stream": True})
        await stream.content.readany()
        refused = await post(run, key)
        assert refused.headers["Retry-After"] == "1"
        await check_refused(refused, expect=429, code="rate_limit_exceeded")
        stream.close()
        await until(lambda: run.gateway.in_flight == 0)
        again = await post(run, key, CHAT | {"stream": True})
        assert again.status == 200
        again.close()


async def test_a_request_that_fails_in_any_way_gives_its_place_back(stub: StubProcess) -> None:
    entry, key = make_entry("ci", limits=KeyLimits(concurrent=1))
    model = served(stub, max_concurrent_requests=1, status="failed")
    model.upstream.error = RuntimeError("broken")
    async with running([model], authenticator=guard_of(entry), headers={}) as run:
        for _ in range(3):
            assert (await post(run, key)).status == 500
        for _ in range(3):
            refused = await post(run, key, CHAT | {"model": "nope"})
            await check_refused(refused, expect=404, code="model_not_found")


async def test_a_limit_is_in_force_without_a_restart(stub: StubProcess, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    clock = [0.0]
    guard = ApiKeyAuthenticator(KEY, file, clock=lambda: clock[0])
    async with running([served(stub)], authenticator=guard, headers={}) as run:
        entry, key = make_entry("ci", limits=KeyLimits(requests_per_minute=1))
        assert (await post(run, key)).status == 401
        add_key(file, entry)
        clock[0] += 2
        assert (await post(run, key)).status == 200
        assert (await post(run, key)).status == 429


async def test_usage_is_counted_by_the_names_of_the_keys(stub: StubProcess) -> None:
    entry, key = make_entry("ci")
    async with running([served(stub)], authenticator=guard_of(entry), headers={}) as run:
        for each in (key, key, KEY):
            await (await post(run, each)).read()
        await until(lambda: run.gateway.in_flight == 0)
        counts = {
            name: totals.requests for (name, _), totals in run.recorder.snapshot().keys.items()
        }
        assert counts == {"ci": 2, "instance": 1}
