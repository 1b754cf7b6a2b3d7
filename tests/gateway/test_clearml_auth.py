"""ClearML tokens as keys: what is kept, how often the server is asked, and what it decides."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from gateway_harness import StubProcess, check_refused, running, served
from hypothesis import given
from hypothesis import strategies as st

from common.clearml.token_access import may_read_task
from common.errors import CapacityError, RequestError, ServerAwayError
from common.gateway.clearml_auth import (
    MAX_ANSWERS,
    MAX_QUESTIONS,
    MAX_WAITING,
    NO_S,
    YES_S,
    ClearMLAuthenticator,
    Verdict,
    read_claims,
)
from common.gateway.keys import Role
from common.local_server import RunningServer, add_user, restrict, start_background, stop


def make_token(user: str = "u1", name: str = "Anna", **claims: Any) -> str:
    """A token as a ClearML server makes it; signed by nobody who matters."""
    payload = {"identity": {"user": user, "user_name": name, "company": "c"}} | claims
    return jwt.encode(payload, "x" * 32, algorithm="HS256")


class Server:
    """What a ClearML server would say, and a clock; questions can be held up."""

    def __init__(self, verdict: Verdict = Verdict.MAY_READ) -> None:
        self.verdict = verdict
        self.error: Exception | None = None
        self.asked: list[str] = []
        self.now = 100.0
        self.lines: list[str] = []
        self.running = 0
        self.most = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self._lock = threading.Lock()

    def ask(self, token: str) -> Verdict:
        with self._lock:
            self.asked.append(token)
            self.running += 1
            self.most = max(self.most, self.running)
        self.go_on.wait(20)
        with self._lock:
            self.running -= 1
        if self.error is not None:
            raise self.error
        return self.verdict

    def guard(self) -> ClearMLAuthenticator:
        return ClearMLAuthenticator(
            self.ask,
            log=self.lines.append,
            clock=lambda: self.now,
            wall_clock=lambda: 1_800_000_000 + self.now,
        )


async def until_asked(server: Server, number: int) -> None:
    deadline = time.monotonic() + 10
    while len(server.asked) < number:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_yes_holds_for_a_minute_without_asking() -> None:
    server = Server()
    guard = server.guard()
    token = make_token()
    assert guard.known(token) is None
    identity = await guard.identify(token)
    assert identity is not None
    assert (identity.name, identity.role) == ("Anna", Role.USE)
    server.now += YES_S - 1
    assert guard.known(token) is identity
    assert await guard.identify(token) is identity
    assert len(server.asked) == 1
    server.now += 1
    assert guard.known(token) is None
    assert await guard.identify(token) is not None
    assert len(server.asked) == 2


@pytest.mark.parametrize("verdict", [Verdict.UNKNOWN, Verdict.MAY_NOT_READ])
async def test_a_no_holds_for_seconds(verdict: Verdict) -> None:
    server = Server(verdict)
    guard = server.guard()
    token = make_token()
    for _ in range(3):
        if verdict is Verdict.UNKNOWN:
            assert await guard.identify(token) is None
        else:
            with pytest.raises(RequestError) as caught:
                await guard.identify(token)
            assert (caught.value.http_status, caught.value.code) == (403, "task_not_readable")
    assert len(server.asked) == 1
    server.verdict = Verdict.MAY_READ
    server.now += NO_S
    assert await guard.identify(token) is not None


async def test_a_yes_ends_with_its_token() -> None:
    server = Server()
    guard = server.guard()
    token = make_token(exp=1_800_000_000 + int(server.now) + 10)
    assert await guard.identify(token) is not None
    server.now += 9
    assert guard.known(token) is not None
    server.now += 1
    assert guard.known(token) is None
    server.verdict = Verdict.UNKNOWN
    assert await guard.identify(token) is None


async def test_the_server_decides_about_a_token_that_is_over_by_this_machines_clock() -> None:
    server = Server()
    guard = server.guard()
    token = make_token(exp=1_700_000_000)
    assert await guard.identify(token) is not None
    server.now += NO_S
    assert guard.known(token) is None


async def test_a_token_is_asked_about_once_however_many_show_it() -> None:
    server = Server()
    server.go_on.clear()
    guard = server.guard()
    token = make_token()
    tasks = [asyncio.create_task(guard.identify(token)) for _ in range(50)]
    await until_asked(server, 1)
    tasks[0].cancel()
    server.go_on.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(not isinstance(r, BaseException) and r is not None for r in results[1:])
    assert len(server.asked) == 1


async def test_an_answer_is_kept_when_everybody_who_waited_has_left() -> None:
    server = Server()
    server.go_on.clear()
    guard = server.guard()
    token = make_token()
    task = asyncio.create_task(guard.identify(token))
    await until_asked(server, 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.go_on.set()
    deadline = time.monotonic() + 10
    while guard.known(token) is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_questions_are_bounded_and_the_rest_is_told_to_come_back() -> None:
    server = Server()
    server.go_on.clear()
    guard = server.guard()
    number = MAX_QUESTIONS + MAX_WAITING
    tasks = [asyncio.create_task(guard.identify(make_token(f"u{i}"))) for i in range(number)]
    await until_asked(server, MAX_QUESTIONS)
    with pytest.raises(CapacityError) as caught:
        await guard.identify(make_token("one too many"))
    assert caught.value.http_status == 503
    assert caught.value.retry_after_s
    server.go_on.set()
    assert all(identity is not None for identity in await asyncio.gather(*tasks))
    assert server.most <= MAX_QUESTIONS


async def test_a_server_that_is_away_is_503_and_not_asked_at_every_request() -> None:
    server = Server()
    guard = server.guard()
    known, other = make_token(), make_token("u2")
    assert await guard.identify(known) is not None
    server.error = ServerAwayError("gone")
    server.now += YES_S - 1
    for _ in range(20):
        with pytest.raises(CapacityError) as caught:
            await guard.identify(other)
        assert caught.value.retry_after_s
    assert len(server.asked) == 2
    assert await guard.identify(known) is not None
    server.now += 1
    with pytest.raises(CapacityError):
        await guard.identify(known)
    server.error = None
    server.now += 1
    assert await guard.identify(known) is not None
    away, again = server.lines
    assert "gone" in away
    assert "again" in again


async def test_a_mistake_lets_nobody_in() -> None:
    server = Server()
    server.error = KeyError("x")
    with pytest.raises(CapacityError):
        await server.guard().identify(make_token())


@pytest.mark.parametrize(
    "secret", [None, "", "cdk-key", "a.b", "a.b.c.d", "..", "a.!.c", "x" * 9000, "é.é.é", "a.W10.c"]
)
async def test_what_is_no_token_is_refused_without_asking(secret: str | None) -> None:
    server = Server()
    assert await server.guard().identify(secret) is None
    assert server.asked == []


async def test_wrong_tokens_push_out_no_right_one() -> None:
    server = Server()
    guard = server.guard()
    token = make_token()
    assert await guard.identify(token) is not None
    server.verdict = Verdict.UNKNOWN
    for number in range(MAX_ANSWERS + 50):
        await guard.identify(make_token(f"guess {number}"))
    assert guard.known(token) is not None
    assert len(guard._no) == MAX_ANSWERS


@given(st.text())
def test_any_text_can_be_read_as_a_token(text: str) -> None:
    read_claims(text)
    part = base64.urlsafe_b64encode(text.encode("utf-8", "replace")).decode().rstrip("=")
    read_claims(f"a.{part}.c")


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_claims_of_any_shape_are_read(value: Any) -> None:
    for payload in (
        {"exp": value, "identity": value},
        {"identity": {"user_name": value, "user": value}},
    ):
        text = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
        claims = read_claims(f"a.{text}.c")
        assert claims is not None
        assert 0 < len(claims.name) <= 64
        assert claims.name.isprintable()


# The real question, to a real server with access control.


class Tokens:
    """A server with a task that Anna may read and Bert may not."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.users = {name: add_user(server.data_dir, name) for name in ("anna_t", "bert_t")}
        with server.client() as owner:
            project = owner.call("projects.create", name="tokens")["id"]
            made = owner.call("tasks.create", name="instance", type="inference", project=project)
            self.task = str(made["id"])
        restrict(server.data_dir, "tokens", ["anna_t"])

    def of(self, name: str, **body: Any) -> str:
        user = self.users[name]
        answer = requests.post(
            f"{self.server.api_url}/auth.login",
            json=body,
            auth=(user["access_key"], user["secret_key"]),
            timeout=10,
        )
        return str(answer.json()["data"]["token"])

    def ask(self, token: str) -> Verdict:
        found = may_read_task(self.server.api_url, self.task, token)
        return {True: Verdict.MAY_READ, False: Verdict.MAY_NOT_READ, None: Verdict.UNKNOWN}[found]


@pytest.fixture(scope="module")
def tokens(clearml_server: RunningServer) -> Tokens:
    return Tokens(clearml_server)


def test_the_server_decides_by_its_access_control(tokens: Tokens) -> None:
    assert tokens.ask(tokens.of("anna_t")) is Verdict.MAY_READ
    assert tokens.ask(tokens.of("bert_t")) is Verdict.MAY_NOT_READ
    assert tokens.ask(make_token()) is Verdict.UNKNOWN
    assert may_read_task(tokens.server.api_url, "0" * 32, tokens.of("anna_t")) is False


def test_the_workers_own_credentials_never_answer_for_a_client(
    tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna = tokens.users["anna_t"]
    netrc = tmp_path / "netrc"
    netrc.write_text(
        f"machine 127.0.0.1 login {anna['access_key']} password {anna['secret_key']}\n"
    )
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert tokens.ask(make_token()) is Verdict.UNKNOWN
    assert tokens.ask(tokens.of("bert_t")) is Verdict.MAY_NOT_READ


def test_what_is_no_clearml_server_is_away() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening: refused
        host = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServerAwayError) as caught:
            may_read_task(host, "task", "secret.token.x")
        assert "secret" not in str(caught.value)


def test_a_page_that_is_no_api_is_away(clearml_server: RunningServer) -> None:
    with pytest.raises(ServerAwayError):
        may_read_task(clearml_server.files_url, "task", make_token())


async def test_clients_get_in_with_tokens(stub: StubProcess, tokens: Tokens) -> None:
    guard = ClearMLAuthenticator(tokens.ask)
    async with running([served(stub)], authenticator=guard, headers={}) as run:

        async def ask(token: str | None, path: str = "/v1/models") -> Any:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return await run.session.get(run.base + path, headers=headers)

        anna = tokens.of("anna_t")
        assert (await ask(anna)).status == 200
        assert (await ask(anna, "/metrics")).status == 200
        await check_refused(await ask(anna, "/admin/models"), expect=403, code="admin_required")
        await check_refused(
            await ask(tokens.of("bert_t")), expect=403, code="task_not_readable", words=["project"]
        )
        await check_refused(
            await ask(make_token()), expect=401, code="invalid_token", words=["token"]
        )
        await check_refused(
            await ask(None), expect=401, code="missing_token", words=["clearml-deploy token"]
        )


@pytest.fixture
def short_lived(tmp_path: Path) -> Iterator[RunningServer]:
    server = start_background(tmp_path / "server", api_port=0, files_port=0, agent_queue=None)
    yield server
    stop(tmp_path / "server")


async def test_a_server_that_goes_away_is_503_once_its_answers_are_too_old(
    stub: StubProcess, short_lived: RunningServer
) -> None:
    tokens = Tokens(short_lived)
    times = [0.0]
    guard = ClearMLAuthenticator(tokens.ask, clock=lambda: times[0])
    async with running([served(stub)], authenticator=guard, headers={}) as run:
        headers = {"Authorization": f"Bearer {tokens.of('anna_t')}"}
        for now, status in ((0.0, 200), (YES_S - 1, 200), (YES_S, 503)):
            times[0] = now
            if now:
                stop(short_lived.data_dir)
            async with run.session.get(f"{run.base}/v1/models", headers=headers) as answer:
                assert answer.status == status
                if status == 503:
                    assert int(answer.headers["Retry-After"]) >= 1
