"""Keys, refusals, own routes and the page, over HTTP."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from gateway_harness import (
    KEY,
    StubProcess,
    assert_error,
    check_refused,
    raw_exchange,
    running,
    served,
    settings,
    until,
)
from prometheus_client.parser import text_string_to_metric_families

from common.errors import CapacityError, ConfigurationError
from common.gateway.app import Gateway
from common.gateway.auth import ApiKeyAuthenticator, OpenAuthenticator
from common.gateway.key_file import add_key, create_key, revoke_key
from common.gateway.keys import Role, make_entry
from common.telemetry.recorder import Recorder

NAME = "org/repo/M.gguf"
CHAT = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}


def split(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    head, body = raw.split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, body


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"Authorization": "Bearer wrong"}, "invalid_api_key"),
        ({"X-Api-Key": "wrong"}, "invalid_api_key"),
        ({"Authorization": "Basic dGVzdA=="}, "missing_api_key"),
        ({"Authorization": f"Bearer {KEY}x"}, "invalid_api_key"),
        ({"Cookie": "clearml_deploy_session=guess"}, "missing_api_key"),
    ],
)
async def test_no_key_and_wrong_key_are_refused(
    stub: StubProcess, headers: dict[str, str], code: str
) -> None:
    before = (await stub.stats())["requests"]
    async with running([served(stub)], headers=headers) as run:
        for method, path in (
            ("POST", "/v1/chat/completions"),
            ("POST", f"/{NAME}/v1/chat/completions"),
            ("GET", "/v1/models"),
            ("GET", "/metrics"),
            ("GET", "/admin/models"),
            ("GET", "/nothing/here"),
        ):
            async with run.session.request(method, run.base + path) as answer:
                error = await check_refused(answer, expect=401, code=code)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert NAME not in error["message"]
                assert "wrong" not in error["message"]
        assert run.recorder.last_activity is None
    assert (await stub.stats())["requests"] == before


async def test_keys_of_the_file_open_by_role_and_close_when_revoked(
    stub: StubProcess, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    _, user = create_key(file, "alice")
    clock = [0.0]
    guard = ApiKeyAuthenticator(KEY, file, clock=lambda: clock[0])
    async with running([served(stub)], authenticator=guard, headers={}) as run:

        async def status(path: str, key: str) -> int:
            async with run.session.get(run.base + path, headers={"X-Api-Key": key}) as answer:
                return answer.status

        assert await status("/v1/models", user) == 200
        assert await status("/admin/models", user) == 403
        assert await status("/admin/models", KEY) == 200
        _, operator = create_key(file, "bob", Role.ADMIN)
        clock[0] += 2
        assert await status("/admin/models", operator) == 200
        revoke_key(file, "alice")
        clock[0] += 2
        assert await status("/v1/models", user) == 401
        file.write_text("broken")
        clock[0] += 2
        assert await status("/admin/models", operator) == 200


async def test_a_key_for_some_models_is_told_of_no_others(
    stub: StubProcess, tmp_path: Path
) -> None:
    entry, key = make_entry("alice", models=["mine"])
    add_key(tmp_path / "keys.json", entry)
    guard = ApiKeyAuthenticator(KEY, tmp_path / "keys.json")
    requests = [
        ("POST", "/v1/chat/completions", CHAT | {"model": "nope"}),
        ("POST", "/v1/completions", {"prompt": "x"}),
        ("POST", "/nope/v1/chat/completions", CHAT),
        ("GET", "/nowhere", None),
        ("GET", "/v1/models/nope", None),
        ("GET", "/v1/models/secret", None),
        ("GET", "/v1/models", None),
    ]
    models = [served(stub, "mine"), served(stub, "secret")]
    async with running(models, authenticator=guard, headers={"X-Api-Key": key}) as run:
        for method, path, body in requests:
            async with run.session.request(method, run.base + path, json=body) as answer:
                text = (await answer.text()).replace("'secret' does not exist", "")
                assert "mine" in text, path
                assert "secret" not in text, path


async def test_open_instance_serves_everybody_and_is_operated_by_nobody(stub: StubProcess) -> None:
    async with running([served(stub)], authenticator=OpenAuthenticator(), headers={}) as run:
        async with run.session.post(f"{run.base}/v1/chat/completions", json=CHAT) as answer:
            assert answer.status == 200
        async with run.session.get(f"{run.base}/admin/models") as answer:
            await check_refused(answer, expect=403, code="admin_required")


async def test_unknown_models_are_told_the_known_ones(stub: StubProcess) -> None:
    async with running([served(stub), served(stub, "other")]) as run:
        for path, body in (
            ("/v1/chat/completions", CHAT | {"model": "nope"}),
            ("/nope/v1/chat/completions", CHAT),
        ):
            async with run.session.post(run.base + path, json=body) as answer:
                await check_refused(
                    answer, expect=404, code="model_not_found", words=["nope", NAME, "other"]
                )
        async with run.session.post(f"{run.base}/v1/completions", json={"prompt": "x"}) as answer:
            await check_refused(answer, expect=400, code="model_required", words=[NAME])
        async with run.session.get(f"{run.base}/{NAME}") as answer:
            await check_refused(answer, expect=404, code="not_found", words=[f"/{NAME}/v1/"])
        assert run.results("")[("refused", 404)] == 3


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{not json", "invalid_json"),
        (b"", "model_required"),
        (b"[1, 2]", "invalid_json"),
        (b'{"model": 5}', "invalid_model"),
        (b'{"text": "' + b"x" * 400_000, "invalid_json"),
    ],
)
async def test_bodies_that_name_no_model_are_refused(
    stub: StubProcess, body: bytes, code: str
) -> None:
    async with (
        running([served(stub), served(stub, "other")]) as run,
        run.session.post(f"{run.base}/v1/chat/completions", data=body) as answer,
    ):
        await check_refused(answer, expect=400, code=code)


async def test_body_too_large_is_413(stub: StubProcess) -> None:
    async with running([served(stub)], max_body_bytes=300_000) as run:
        port = run.gateway.port
        head = f"POST /{NAME}/v1/echo HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n"
        announced = head + "Content-Length: 104857600\r\nConnection: close\r\n\r\n"

        def upload_100_mb() -> bytes:
            """A client that sends all of it before it reads, as most do."""
            with socket.create_connection(("127.0.0.1", port), 10) as sock:
                sock.sendall(announced.encode())
                block = b"x" * 1_048_576
                for _ in range(100):
                    sock.sendall(block)
                return sock.makefile("rb").read()

        status, headers, body = split(await asyncio.to_thread(upload_100_mb))
        assert_error(status, headers, body, expect=413, code="body_too_large", words=["MiB"])

        for path in (f"/{NAME}/v1/echo", "/v1/echo"):  # streamed through, and kept to look inside

            async def unannounced() -> Any:
                for _ in range(10):
                    yield b"x" * 65536

            async with run.session.post(run.base + path, data=unannounced()) as answer:
                await check_refused(answer, expect=413, code="body_too_large")
        await until(lambda: run.gateway.in_flight == 0)
        assert run.results("") == {("refused", 413): 1}
        assert run.results() == {("refused", 413): 2}


@pytest.mark.parametrize(
    "path",
    [
        f"/{NAME}/slots",
        f"/{NAME}/props",
        f"/{NAME}/lora-adapters",
        f"/{NAME}/models/load",
        f"/{NAME}/metrics",
        f"/{NAME}/health",
        f"/{NAME}/sleep",
        f"/{NAME}/v1/load_lora_adapter",
        f"/{NAME}/v1/%6Coad_lora_adapter",
        f"/{NAME}/v1/../slots",
        f"/{NAME}/v1/%2e%2e/slots",
        f"/{NAME}/v1%2F..%2Fslots",
        f"/{NAME}//slots",
        f"/{NAME}/v1/..%5cslots",
        f"/{NAME}/v1/x%00/../../slots",
        "/slots",
        "/props",
        "/models/unload",
        "/v1/unload_lora_adapter",
        "/stub/stats",
    ],
)
async def test_engine_operations_are_out_of_reach(stub: StubProcess, path: str) -> None:
    before = await stub.stats()
    async with running([served(stub)]) as run:
        for method in ("GET", "POST"):
            raw = await raw_exchange(
                run.gateway.port,
                f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n"
                "Connection: close\r\nContent-Length: 0\r\n\r\n".encode(),
            )
            assert split(raw)[0] in (400, 404), raw
    after = await stub.stats()
    assert after["requests"] == before["requests"]
    assert after["admin_hits"] == before["admin_hits"] == 0


async def test_engine_errors_and_own_errors_look_alike_for_methods(stub: StubProcess) -> None:
    async with running([served(stub)]) as run:
        for method, path in (("DELETE", "/v1/models"), ("POST", "/health"), ("GET", "/tokenize")):
            async with run.session.request(method, run.base + path) as answer:
                await check_refused(answer, expect=405, code="method_not_allowed")


async def test_health_and_readiness_need_no_key(stub: StubProcess) -> None:
    first, second = served(stub), served(stub, "other", status="loading")
    async with running([first, second], headers={}) as run:

        async def status(path: str) -> int:
            async with run.session.get(run.base + path) as answer:
                assert NAME not in await answer.text()
                return answer.status

        assert (await status("/health"), await status("/ready")) == (200, 200)
        first.upstream.become("sleeping")  # type: ignore[attr-defined]
        assert (await status("/health"), await status("/ready")) == (200, 503)
        assert await status("/service/abc/health") == 200


async def test_model_list_and_metrics_are_no_activity(stub: StubProcess) -> None:
    loading = served(stub, "other", status="failed")
    loading.upstream.failure = "no memory"  # type: ignore[misc]
    async with running([served(stub), loading]) as run:
        for path in ("/v1/models", f"/{NAME}/v1/models", "/service/x/v1/models/"):
            async with run.session.get(run.base + path) as answer:
                data = (await answer.json())["data"]
            assert [(m["id"], m["status"]) for m in data] == [(NAME, "ready"), ("other", "failed")]
            assert data[1]["failure"] == "no memory"
            assert data[0]["created"] == 1700000000
        for path in ("/health", "/ready", "/metrics", "/admin/models", "/", f"/v1/models/{NAME}"):
            async with run.session.get(run.base + path) as answer:
                assert answer.status == 200
        assert run.recorder.last_activity is None
        assert sum(m.requests for m in run.recorder.snapshot().models.values()) == 0

        async with run.session.post(f"{run.base}/v1/chat/completions", json=CHAT) as answer:
            await answer.read()
        assert run.recorder.last_activity is not None
        async with run.session.get(f"{run.base}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            families = {f.name: f for f in text_string_to_metric_families(await answer.text())}
        [sample] = families["clearml_deploy_requests"].samples
        assert sample.labels == {"model": NAME, "outcome": "ok", "status": "200"}
        statuses = families["clearml_deploy_model_status"].samples
        assert {(s.labels["model"], s.labels["status"]) for s in statuses if s.value} == {
            (NAME, "ready"),
            ("other", "failed"),
        }


class Operations:
    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []

    async def load(self, name: str) -> None:
        self.done.append(("load", name))

    async def sleep(self, name: str) -> None:
        raise CapacityError("no room")

    async def unload(self, name: str) -> None:
        self.done.append(("unload", name))


async def test_admin_operations(stub: StubProcess) -> None:
    operations = Operations()
    async with running([served(stub)], admin=operations) as run:

        async def post(path: str) -> Any:
            return await run.session.post(f"{run.base}/admin/models/{path}")

        for path in (f"{NAME}/load", f"{NAME}/unload"):
            answer = await post(path)
            assert answer.status == 200
            assert (await answer.json())["id"] == NAME
        assert operations.done == [("load", NAME), ("unload", NAME)]
        await check_refused(await post(f"{NAME}/sleep"), expect=503, code="capacity")
        await check_refused(await post("nope/load"), expect=404, code="model_not_found")
        await check_refused(await post(f"{NAME}/explode"), expect=404, code="not_found")
    async with running([served(stub)]) as run:
        answer = await run.session.post(f"{run.base}/admin/models/{NAME}/load")
        await check_refused(answer, expect=501, code="not_available")


async def test_page_logs_in_with_a_cookie(stub: StubProcess) -> None:
    async with running([served(stub)], headers={}) as run:
        async with run.session.get(f"{run.base}/") as answer:
            page = await answer.text()
            assert NAME not in page
            assert 'type="password"' in page
            assert "Test &lt;instance&gt;" in page
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        async with run.session.post(f"{run.base}/", data={"key": "wrong"}) as answer:
            assert answer.status == 401
            assert "Set-Cookie" not in answer.headers
        async with run.session.post(
            f"{run.base}/", data={"key": KEY}, allow_redirects=False
        ) as answer:
            assert answer.status == 303
            cookie = answer.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            assert KEY not in cookie
        jar = {"Cookie": cookie.split(";")[0]}
        run.session.cookie_jar.clear()
        async with run.session.get(f"{run.base}/", headers=jar) as answer:
            page = await answer.text()
        assert NAME in page
        assert f'"path":"{NAME}/v1"' in page
        assert KEY not in page
        assert "src=" not in page
        async with run.session.get(f"{run.base}/v1/models", headers=jar) as answer:
            assert answer.status == 200
        async with run.session.post(
            f"{run.base}/", data={"logout": "1"}, headers=jar, allow_redirects=False
        ) as answer:
            assert answer.status == 303
        async with run.session.get(f"{run.base}/v1/models", headers=jar) as answer:
            assert answer.status == 401


async def test_taken_ports_are_stepped_over(stub: StubProcess) -> None:
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        first.listen()
        taken = first.getsockname()[1]
        async with running([served(stub)], ports=(taken, 0)) as run:
            assert run.gateway.port not in (0, taken)
            assert run.gateway.url_for("a b/c") == f"{run.base}/a%20b/c/v1"
        gateway = Gateway(
            settings(ports=(taken,)), [], OpenAuthenticator(), Recorder(), None, lambda line: None
        )
        with pytest.raises(ConfigurationError, match=str(taken)):
            await gateway.start()
        await gateway.stop()
        elsewhere = Gateway(
            settings(host="192.0.2.7"), [], OpenAuthenticator(), Recorder(), None, lambda line: None
        )
        with pytest.raises(ConfigurationError, match="General/host"):
            await elsewhere.start()
        await elsewhere.stop()


async def test_public_url_is_what_clients_are_told(stub: StubProcess) -> None:
    async with running([served(stub)], public_url="https://llm.example.com/x/") as run:
        assert run.gateway.url_for(NAME) == f"https://llm.example.com/x/{NAME}/v1"
        async with run.session.post(
            f"{run.base}/", data={"key": KEY}, allow_redirects=False
        ) as answer:
            assert "Secure" in answer.headers["Set-Cookie"]


async def test_broken_http_and_absolute_targets(stub: StubProcess) -> None:
    async with running([served(stub)]) as run:
        raw = await raw_exchange(run.gateway.port, b"NONSENSE\r\n\r\n")
        assert raw.startswith(b"HTTP/1.0 400") or raw.startswith(b"HTTP/1.1 400")
        raw = await raw_exchange(
            run.gateway.port,
            f"GET http://x/v1/models HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n"
            "Connection: close\r\n\r\n".encode(),
        )
        assert split(raw)[0] == 200


async def test_uploads_leave_no_files(
    stub: StubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with running([served(stub)]) as run:

        async def upload() -> Any:
            yield b'{"model": "org/repo/M.gguf", "x": "'
            for _ in range(3):
                yield b"y" * 900_000
            yield b'"}'

        async with run.session.post(f"{run.base}/v1/inspect", data=upload()) as answer:
            assert (await answer.json())["size"] == 2_700_037
    assert list(tmp_path.iterdir()) == []
