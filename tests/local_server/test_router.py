"""The router of the advanced feature set: what it passes on, how, and for whom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from common.local_server import RunningServer, add_user, restrict
from common.local_server.client import ServerClient


class Application:
    """A task's application: answers with its name and what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.go_on = threading.Event()
        self.gone = threading.Event()
        application = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/stream":
                    self.stream()
                else:
                    self.answer()

            def do_POST(self) -> None:
                self.answer()

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {k.lower(): v for k, v in self.headers.items()}
                application.seen.append((self.command, self.path, body, headers))
                self.send_response(203)
                self.send_header("Content-Length", str(len(application.name)))
                self.send_header("X-Own", "yes")
                self.end_headers()
                self.wfile.write(application.name.encode())

            def stream(self) -> None:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"3\r\none\r\n")
                self.wfile.flush()
                application.go_on.wait(10)
                try:
                    for _ in range(10_000):
                        self.wfile.write(b"3\r\ntwo\r\n")
                    self.wfile.write(b"0\r\n\r\n")
                except OSError:
                    application.gone.set()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def application() -> Iterator[Callable[[str], Application]]:
    """Start applications; they end with the test."""
    started: list[Application] = []

    def start(name: str) -> Application:
        started.append(Application(name))
        return started[-1]

    yield start
    for one in started:
        one.close()


def ask(server: RunningServer, port: int, route: str = "", project: str = "") -> str:
    """A running task that asked for its endpoint; its ID."""
    runtime: dict[str, Any] = {"_SERVICE": "EXTERNAL", "_ADDRESS": "127.0.0.1", "_PORT": port}
    if route:
        runtime |= {"_ROUTER_ENDPOINT_MODE": "path", "_ROUTER_ENDPOINT_MODE_PARAM": route}
    with server.client() as client:
        more: dict[str, Any] = {}
        if project:
            more["project"] = client.call("projects.create", name=project)["id"]
        task = str(client.call("tasks.create", name="asks", type="inference", **more)["id"])
        client.call("tasks.started", task=task)
        client.call("tasks.edit", task=task, runtime=runtime, force=True)
    return task


def endpoint_of(server: RunningServer, task: str) -> str:
    with server.client() as client:
        return str(client.call("tasks.get_by_id", task=task)["task"]["runtime"]["endpoint"])


def token(server: RunningServer) -> dict[str, str]:
    with server.client() as client:
        return {"Authorization": f"Bearer {client.call('auth.login')['token']}"}


def test_router_strips_the_route_from_the_path(
    start_server: Callable[..., RunningServer], application: Callable[[str], Application]
) -> None:
    server, app = start_server(advanced=True, routes=("llm",)), application("app")
    own, static = ask(server, app.port), ask(server, app.port, "llm")
    assert endpoint_of(server, own) == f"{server.router_url}/service/{own}"
    assert endpoint_of(server, static) == f"{server.router_url}/llm"
    for base in (endpoint_of(server, own), endpoint_of(server, static)):
        answer = requests.post(
            f"{base}/v1/a%2Fb?x=1%202", data=b"\0body", headers=token(server), timeout=10
        )
        assert (answer.status_code, answer.text) == (203, "app")
        assert answer.headers["X-Own"] == "yes"
        assert requests.get(base, headers=token(server), timeout=10).status_code == 203
    assert [(method, path, body) for method, path, body, _ in app.seen] == [
        ("POST", "/v1/a%2Fb?x=1%202", b"\0body"),
        ("GET", "/", b""),
    ] * 2
    headers = app.seen[0][3]
    assert headers["x-forwarded-host"] == server.router_url.removeprefix("http://")
    assert headers["authorization"].startswith("Bearer ")


def test_router_can_keep_the_route_in_the_path(
    start_server: Callable[..., RunningServer], application: Callable[[str], Application]
) -> None:
    server = start_server(advanced=True, routes=("llm",), router="keep")
    app = application("app")
    own, _ = ask(server, app.port), ask(server, app.port, "llm")
    for path in (f"/service/{own}/v1/models", "/llm/v1/models"):
        requests.get(f"{server.router_url}{path}", headers=token(server), timeout=10)
        assert app.seen[-1][1] == path


def test_tasks_with_one_static_route_take_turns(
    start_server: Callable[..., RunningServer], application: Callable[[str], Application]
) -> None:
    server = start_server(advanced=True, routes=("llm",))
    tasks = [ask(server, application(name).port, "llm") for name in ("one", "two")]
    url, headers = f"{server.router_url}/llm/x", token(server)
    assert {requests.get(url, headers=headers, timeout=10).text for _ in range(4)} == {"one", "two"}
    with server.client() as client:
        client.call("tasks.stopped", task=tasks[0], force=True)
    assert {requests.get(url, headers=headers, timeout=10).text for _ in range(4)} == {"two"}


def test_only_who_may_read_the_task_may_use_its_route(
    start_server: Callable[..., RunningServer], application: Callable[[str], Application]
) -> None:
    server, app = start_server(advanced=True), application("app")
    url = endpoint_of(server, ask(server, app.port, project="closed"))
    assert requests.get(url, timeout=10).status_code == 401
    assert requests.get(url, headers={"Authorization": "Bearer x"}, timeout=10).status_code == 401
    keys = add_user(server.data_dir, "anna")
    with ServerClient(server.api_url, keys["access_key"], keys["secret_key"]) as client:
        anna = {"Authorization": f"Bearer {client.call('auth.login')['token']}"}
    assert requests.get(url, headers=anna, timeout=10).status_code == 203
    restrict(server.data_dir, "closed", [])
    assert requests.get(url, headers=anna, timeout=10).status_code == 404
    assert requests.get(url, headers=token(server), timeout=10).status_code == 203


def test_route_that_leads_nowhere_is_told(start_server: Callable[..., RunningServer]) -> None:
    server = start_server(advanced=True, routes=("llm",))
    headers = token(server)
    for path in ("/llm/x", "/other/x", "/service/no-task/x", "/"):
        answer = requests.get(f"{server.router_url}{path}", headers=headers, timeout=10)
        assert answer.status_code == 404
    url = endpoint_of(server, ask(server, 1))  # nobody listens there
    answer = requests.get(url, headers=headers, timeout=10)
    assert answer.status_code == 502
    assert "127.0.0.1:1" in answer.json()["error"]


def test_streams_pass_as_they_come_and_end_with_the_client(
    start_server: Callable[..., RunningServer], application: Callable[[str], Application]
) -> None:
    server, app = start_server(advanced=True), application("app")
    url = endpoint_of(server, ask(server, app.port))
    with requests.get(f"{url}/stream", headers=token(server), stream=True, timeout=10) as answer:
        assert next(answer.iter_content(None)) == b"one"  # the rest has not been written yet
    app.go_on.set()
    assert app.gone.wait(10)
