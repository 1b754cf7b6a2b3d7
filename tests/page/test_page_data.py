"""The page's documents and data over HTTP, without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from common.gateway.auth import ApiKeyAuthenticator, Authenticator, OpenAuthenticator
from common.gateway.clearml_auth import ClearMLAuthenticator, ServerAwayError, Verdict
from common.gateway.key_file import KEY_FILE_VARIABLE, add_key
from common.gateway.keys import Role, make_entry
from common.gateway.models import GatewaySettings
from common.gateway.page.document import PageDocuments
from common.gateway.page.origin import origin_of
from common.gateway.page.routes import PageRequest, PageRoutes
from common.gateway.page.sign_in import SignIn
from common.gateway.page.state import points_after
from common.memory.contract import Tier
from common.telemetry.recorder import Recorder
from tests.page.moving_gateway import BIG, GIB, RESTING, SMALL, moving
from tests.page.page_harness import CHAT, KEY, OTHER, PageInstance, serving

STATE = "/?data=state"


@asynccontextmanager
async def client(key: str | None = KEY) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(
        headers=headers, cookie_jar=aiohttp.CookieJar(unsafe=True)
    ) as session:
        yield session


async def state(session: aiohttp.ClientSession, url: str, query: str = "") -> dict[str, Any]:
    async with session.get(f"{url}{STATE}{query}") as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["Cache-Control"] == "no-store"
        return dict(await answer.json())


async def test_the_data_need_the_same_key_as_the_page(run: PageInstance) -> None:
    for key, code in ((None, "missing_api_key"), ("wrong", "invalid_api_key")):
        async with client(key) as session, session.get(run.url + STATE) as answer:
            assert answer.status == 401
            assert (await answer.json())["error"]["code"] == code


async def test_looking_at_the_page_is_no_use_of_the_instance(run: PageInstance) -> None:
    async with client() as session:
        for path in ("/", STATE, STATE, STATE):
            async with session.get(run.url + path) as answer:
                assert answer.status == 200
    snapshot = run.instance.recorder.snapshot()
    assert run.instance.recorder.last_activity is None
    assert sum(model.requests for model in snapshot.models.values()) == 0


async def test_console_lines_are_sent_once(run: PageInstance) -> None:
    async with client() as session:
        first = (await state(session, run.url))["console"]
        assert any("ready" in line for line in first["lines"])
        run.console.line("a new line")
        second = (await state(session, run.url, f"&after={first['next']}"))["console"]
    assert second["lines"] == ["a new line"]


@pytest.mark.parametrize("query", ["&after=x", "&since=", "&after=nan", "&since=1e999"])
async def test_what_is_no_number_is_refused(run: PageInstance, query: str) -> None:
    async with client() as session, session.get(run.url + STATE + query) as answer:
        if query == "&since=":  # given without a value is not given
            assert answer.status == 200
        else:
            assert answer.status == 400
            assert (await answer.json())["error"]["code"] == "invalid_parameter"


class CountingView:
    """An instance's view that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def metrics(self) -> tuple[bytes, str]:
        return b"", "text/plain"

    def state(self) -> dict[str, Any]:
        self.asked += 1
        return {"instance": {"status": f"asked {self.asked}"}}

    def console(self, after: int) -> dict[str, Any]:
        return {"lines": [], "next": after}


def page_routes(
    authenticator: Authenticator,
    view: CountingView | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> PageRoutes:
    """The routes of a gateway without models."""
    return PageRoutes(
        GatewaySettings(None, (0,), 1, 1.0, None, None, "test"),
        (),
        authenticator,
        Recorder(),
        view,
        SignIn(None, lambda: None),
        in_flight=lambda _: 0,
        is_draining=lambda: False,
        has_operations=False,
        clock=clock,
    )


async def test_a_state_is_put_together_once_a_second_at_most() -> None:
    now = [100.0]
    routes = page_routes(OpenAuthenticator(), CountingView(), lambda: now[0])

    async def status() -> str:
        answer = await routes.answer(PageRequest("GET", "data=state", {}, {}), None)
        return str(json.loads(answer.body)["instance"]["status"])

    assert {await status() for _ in range(20)} == {"asked 1"}
    now[0] += 0.99
    assert await status() == "asked 1"
    now[0] += 0.02
    assert {await status() for _ in range(20)} == {"asked 2"}


async def test_with_clearml_tokens_the_form_asks_for_one_and_says_what_is_wrong() -> None:
    verdicts = {"no.e30.x": Verdict.UNKNOWN, "other.e30.x": Verdict.MAY_NOT_READ}

    def ask(token: str) -> Verdict:
        if token not in verdicts:
            raise ServerAwayError("it is away")
        return verdicts[token]

    routes = page_routes(ClearMLAuthenticator(ask))
    form = await routes.answer(PageRequest("GET", "", {}, {}), None)
    assert form.status == 200
    assert "ClearML token" in form.body.decode()
    assert "clearml-deploy token" in form.body.decode()
    for token, status in (("no.e30.x", 401), ("other.e30.x", 403), ("away.e30.x", 503)):
        request = PageRequest("POST", "", {}, {}, f"key={token}".encode())
        answer = await routes.answer(request, None)
        assert answer.status == status
        assert 'role="alert"' in answer.body.decode()
        assert "Set-Cookie" not in answer.headers


async def test_a_key_for_use_sees_its_models_and_no_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.json"
    entry, user = make_entry("alice", Role.USE, models=[OTHER])
    add_key(file, entry)
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(file))
    flags: dict[str, tuple[str, ...]] = {CHAT: (), OTHER: ()}
    async with serving(tmp_path, flags) as run, client(user) as session:
        seen = await state(session, run.url)
        assert [model["name"] for model in seen["models"]] == [OTHER]
        assert set(seen["charts"]["models"]) <= {OTHER}
        assert seen["console"] is None
        assert seen["access"] == {
            "name": "alice",
            "credential": "key",
            "can_log_out": False,
            "can_operate": False,
        }
        async with session.get(run.url) as answer:
            assert CHAT not in await answer.text()


async def test_a_key_for_some_models_learns_nothing_of_the_others_from_the_moves() -> None:
    entry, user = make_entry("alice", Role.USE, models=[RESTING])
    async with (
        moving(authenticator=ApiKeyAuthenticator(KEY, None, (entry,))) as (url, view),
        client(user) as session,
        client() as operator,
    ):
        view.upstreams[RESTING].place("disk", "gpu", reason=f'in the place of "{BIG}"')
        view.moved(BIG, Tier.GPU, Tier.CPU, 2.0, f'for "{RESTING}"')
        view.moved(RESTING, Tier.GPU, Tier.DISK, 1.0, f'for "{BIG}"')
        everything = await state(operator, url)
        assert everything["models"][2]["memory"]["reason"] == f'in the place of "{BIG}"'
        assert [move["model"] for move in everything["memory"]["moves"]] == [BIG, RESTING]
        seen = await state(session, url)
        assert [move["model"] for move in seen["memory"]["moves"]] == [RESTING]
        assert BIG not in json.dumps(seen)
        assert SMALL not in json.dumps(seen)
        # What is held in all is told: without it nobody could say why a model waits.
        assert seen["memory"]["pools"] == everything["memory"]["pools"]
        assert seen["models"][0]["memory"]["pools"] == {"gpu0": GIB}


async def test_an_instance_that_moves_no_models_has_no_memory_to_show(run: PageInstance) -> None:
    async with client() as session:
        seen = await state(session, run.url)
    assert seen["memory"] is None
    assert [model["memory"] for model in seen["models"]] == [None, None]


async def test_without_authentication_the_page_opens_at_once(tmp_path: Path) -> None:
    parameters = {"General/auth": "none", "General/api_key": ""}
    async with serving(tmp_path, {CHAT: ()}, parameters=parameters) as run, client(None) as session:
        seen = await state(session, run.url)
        assert seen["access"]["credential"] == "none"
        assert not seen["access"]["can_operate"]
        assert seen["console"]["lines"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
    ],
)
async def test_a_session_changes_nothing_from_elsewhere(
    run: PageInstance, headers: dict[str, str], status: int
) -> None:
    async with client(None) as session:
        async with session.post(run.url, data={"key": KEY}) as answer:
            assert answer.status == 200  # after the way back to the page
        body = {"model": OTHER, "messages": []}
        path = f"{run.url}/v1/chat/completions"
        async with session.post(path, json=body, headers=headers) as answer:
            assert answer.status == status
            if status == 403:
                assert (await answer.json())["error"]["code"] == "foreign_origin"
        async with session.get(f"{run.url}/v1/models", headers=headers) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("field", ["key", "logout"])
async def test_a_form_of_another_page_is_not_taken(run: PageInstance, field: str) -> None:
    headers = {"Origin": "https://elsewhere.example"}
    async with client(None) as session:
        async with session.post(run.url, data={field: KEY}, headers=headers) as answer:
            assert answer.status == 403
            assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "public_url", "expected"),
    [
        ({"Host": "a:1", "Origin": "http://a:1"}, None, "own"),
        ({"Host": "A:1", "Origin": "http://a:1"}, None, "own"),
        ({"Host": "a:1", "Origin": "http://a:2"}, None, "foreign"),
        ({"Host": "in:1", "X-Forwarded-Host": "out", "Origin": "https://out"}, None, "own"),
        ({"Host": "in:1", "Origin": "https://out"}, "https://out/service/x", "own"),
        ({"Host": "a:1", "Origin": "null"}, None, "foreign"),
        ({"Host": "", "Origin": "null"}, None, "foreign"),
        ({"Host": "a:1"}, None, "unknown"),
        ({"Host": "a", "Origin": "http://a", "Sec-Fetch-Site": "same-site"}, None, "foreign"),
        ({"Host": "a", "Sec-Fetch-Site": "none"}, None, "own"),
    ],
)
def test_where_a_request_comes_from(
    headers: dict[str, str], public_url: str | None, expected: str
) -> None:
    assert origin_of(headers, public_url) == expected


async def test_the_cookie_is_for_https_alone_where_the_browser_came_by_it(
    run: PageInstance,
) -> None:
    for forwarded, is_secure in (("https", True), ("http", False)):
        async with client(None) as session:
            async with session.post(
                run.url,
                data={"key": KEY},
                headers={"X-Forwarded-Proto": forwarded},
                allow_redirects=False,
            ) as answer:
                assert answer.status == 303
                assert ("Secure" in answer.headers["Set-Cookie"]) is is_secure


async def test_a_form_that_comes_in_pieces_is_read(run: PageInstance) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"key=" + KEY[:5].encode()
        yield KEY[5:].encode()

    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with client(None) as session:
        async with session.post(
            run.url, data=pieces(), headers=headers, allow_redirects=False
        ) as answer:
            assert answer.status == 303


def test_the_policy_names_exactly_what_the_document_holds() -> None:
    documents = PageDocuments()
    page = documents.page("t", {"x": 1})
    for kind, tag in (("script-src", "<script>"), ("style-src", "<style>")):
        (text,) = re.findall(f"{tag}(.*?)</{tag[1:]}", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}';" in documents.policy
    assert "unsafe" not in documents.policy
    assert re.findall(r"https?://(?!www\.w3\.org)[\w.]+", page) == []
    assert not re.search(r"\s(style|on\w+)=\"", page)


def test_data_and_titles_cannot_leave_their_place() -> None:
    hostile = "</script><script>alert(1)</script>{{script}}\u2028<!--"
    documents = PageDocuments()
    page = documents.page(hostile, {"name": hostile})
    assert page.count("<script>") == 1
    assert "<script>alert" not in page
    (first,) = re.findall(r'id="first">(.*?)</script>', page, re.DOTALL)
    assert json.loads(first) == {"name": hostile}
    assert "<script>alert" not in documents.login(hostile, "key", message=hostile)


def test_only_points_after_a_time_are_sent() -> None:
    charts = {
        "every_s": 1.0,
        "times": [1.0, 2.0, 3.0],
        "models": {"a": {"requests": [1, 2, 3]}, "b": {"requests": [None, 5, 6]}},
    }
    assert points_after(charts, 1.0, None) == {
        "every_s": 1.0,
        "times": [2.0, 3.0],
        "models": {"a": {"requests": [2, 3]}, "b": {"requests": [5, 6]}},
    }
    assert points_after(charts, 3.0, frozenset("a")) == {
        "every_s": 1.0,
        "times": [],
        "models": {"a": {"requests": []}},
    }
    assert points_after({}, 0.0, None) == {"every_s": None, "times": [], "models": {}}
