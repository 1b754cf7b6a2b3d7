"""Routes of the AI Application Gateway: the real SDK, a real server with a router, real instances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from common.local_server import RunningServer, start_background, stop
from common.options.shared import GeneralOptions
from common.runtime.external_route import why_no_route
from tests.fixtures_clearml import run_sdk_script
from tests.runtime.test_runtime_run import Process
from tests.runtime.test_runtime_run import instance as stub_instance

SCRIPT = Path(__file__).with_name("route_script.py")
KEY = "key-of-the-tests-0123456789"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RunningServer]]:
    """Advanced servers by what their router does, each started once."""
    started: dict[str, RunningServer] = {}

    def start(router: str) -> RunningServer:
        if router not in started:
            options: dict[str, Any] = {"api_port": 0, "files_port": 0, "router_port": 0}
            folder = tmp_path_factory.mktemp(router)
            started[router] = start_background(
                folder, advanced=True, routes=("llm",), router=router, agent_queue=None, **options
            )
        return started[router]

    yield start
    for server in started.values():
        stop(server.data_dir)


class Running(Process):
    """An instance whose console and status are waited for."""

    limit_s = 60.0

    @property
    def task_id(self) -> str:
        return str(self.task()["id"])

    def wait_line(self, text: str) -> str:
        return str(
            self.wait_for(
                lambda: next((line for line in self.console.splitlines() if text in line), "")
            )
        )

    @property
    def own_url(self) -> str:
        return self.wait_line("Serving on ").partition("Serving on ")[2].split()[0]

    def wait_status(self, name: str, value: str) -> None:
        self.wait_for(lambda: self.status().get(name) == value)


@contextmanager
def instance(
    server: RunningServer, folder: Path, parameters: Mapping[str, str] | None = None
) -> Iterator[Running]:
    given = {"Model/model_endpoint_name": "m", **(parameters or {})}
    # Where the SDK tells the router to find this machine.
    environ = {"CLEARML_AGENT_HOST_IP": "127.0.0.1"}
    with stub_instance(server, folder, "plain", environ=environ, kept=Running, **given) as it:
        yield it


def token(server: RunningServer) -> dict[str, str]:
    with server.client() as client:
        return {"Authorization": f"Bearer {client.call('auth.login')['token']}"}


def chat(url: str, headers: Mapping[str, str], path: str = "/v1/chat/completions") -> int:
    return requests.post(url + path, json=CHAT, headers=headers, timeout=20).status_code


@pytest.mark.parametrize("router", ["strip", "keep"])
def test_granted_static_route_is_what_clients_are_told(
    servers: Callable[[str], RunningServer], tmp_path: Path, router: str
) -> None:
    server = servers(router)
    url = f"{server.router_url}/llm"
    with instance(server, tmp_path, {"General/gateway_route": "llm"}) as it:
        it.wait_line(f'granted the route "llm": {url}')
        it.wait_status("endpoint", url)
        it.wait_for(lambda: f"{url}/m/v1" in it.status()["models_table"])
        assert f"{url}/m/v1" in it.status()["curl_example"]
        assert it.wait_line(f"m: endpoint {url}/m/v1")
        it.wait_for(lambda: chat(url, token(server)) == 200)
        assert chat(url, token(server), "/m/v1/chat/completions") == 200
        assert requests.get(url, headers=token(server), timeout=10).status_code == 200
        assert chat(url, {}) == 401  # the router's answer
        # The gateway in front lets clients in: the key that was made before is of no use any more.
        it.wait_status("api_key", "")
        assert "General/auth = gateway" in it.console
        assert chat(it.own_url, {}) == 200


def test_route_of_the_tasks_own_is_asked_for_without_a_wish(
    servers: Callable[[str], RunningServer], tmp_path: Path
) -> None:
    server = servers("keep")
    with instance(server, tmp_path) as it:
        it.wait_line("granted a route: ")
        url = f"{server.router_url}/service/{it.task_id}"
        it.wait_status("endpoint", url)
        it.wait_for(lambda: chat(url, token(server), "/m/v1/chat/completions") == 200)


def test_chosen_way_of_authentication_stays_behind_a_route(
    servers: Callable[[str], RunningServer], tmp_path: Path
) -> None:
    server = servers("strip")
    with instance(server, tmp_path, {"General/auth": "api_key", "General/api_key": KEY}) as it:
        it.wait_line("granted a route: ")
        url = f"{server.router_url}/service/{it.task_id}"
        it.wait_for(lambda: chat(it.own_url, {"X-Api-Key": KEY}) == 200)
        it.wait_status("endpoint", url)
        assert chat(it.own_url, {}) == 401
        assert chat(url, token(server)) == 401  # let in by the router, and not by the instance
        assert chat(url, {**token(server), "X-Api-Key": KEY}) == 200
        assert "General/auth = gateway" not in it.console


def test_route_that_does_not_exist_is_told_and_serving_goes_on(
    servers: Callable[[str], RunningServer], tmp_path: Path
) -> None:
    server = servers("strip")
    parameters = {"General/gateway_route": "no-such-route", "General/api_key": KEY}
    with instance(server, tmp_path, parameters) as it:
        line = it.wait_line("WARNING: The ClearML server refused the route")
        assert "'no-such-route' does not exist" in line
        assert f"The instance is reached at {it.own_url}." in line
        it.wait_for(lambda: chat(it.own_url, {"X-Api-Key": KEY}) == 200)
        assert chat(it.own_url, {}) == 401
        assert it.status()["endpoint"] == it.own_url


def test_basic_server_has_no_route_and_says_so_to_who_wants_one(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    with instance(clearml_server, tmp_path, {"General/gateway_route": "llm"}) as it:
        line = it.wait_line("General/gateway_route")
        assert "'llm' has no effect" in line
        assert "no AI Application Gateway" in line
        assert f"The instance is reached at {it.own_url}." in line
        it.wait_status("endpoint", it.own_url)


def test_router_that_does_not_answer_is_waited_for_with_progress_and_then_told(
    servers: Callable[[str], RunningServer], tmp_path: Path
) -> None:
    seen = run_sdk_script(servers("off"), SCRIPT, "llm", "1.5", cache=tmp_path)
    asking, *waiting, end = seen["lines"]
    assert asking == 'Asking the AI Application Gateway for the route "llm".'
    assert waiting
    assert all(
        'Waiting for the AI Application Gateway to grant the route "llm"' in w for w in waiting
    )
    assert 'did not grant the route "llm" within 1.5 s' in end
    assert "The instance is reached at http://own:8800." in end
    assert (seen["published"], seen["given_up"], seen["is_over"]) == ([], 1, False)
    assert "external_service" in seen["tags"]


def test_route_that_is_granted_late_is_taken(
    servers: Callable[[str], RunningServer], tmp_path: Path
) -> None:
    seen = run_sdk_script(servers("off"), SCRIPT, "", "0.2", "late", cache=tmp_path)
    assert seen["published"] == ["https://late.example.com/llm"]
    assert (seen["given_up"], seen["is_over"]) == (1, True)
    assert seen["lines"][-1].endswith("granted a route: https://late.example.com/llm")


@pytest.mark.parametrize(
    ("given", "host_ip", "reason"),
    [
        ({}, None, ""),
        ({"host": "127.0.0.1"}, None, "General/host"),
        ({"host": "127.0.0.1"}, "127.0.0.1", ""),
        ({"host": "10.0.0.1"}, None, ""),
        ({"public_url": "https://a"}, None, "General/public_url"),
        ({"public_url": "https://a", "gateway_route": "llm"}, None, ""),
    ],
)
def test_no_route_is_asked_for_where_it_could_not_be_used(
    given: dict[str, str], host_ip: str | None, reason: str
) -> None:
    general = GeneralOptions.model_validate(given)
    environ = {"CLEARML_AGENT_HOST_IP": host_ip} if host_ip else {}
    why = why_no_route(general, environ, is_offline=False)
    assert reason in why
    assert bool(why) == bool(reason)
    assert why_no_route(general, environ, is_offline=True)
