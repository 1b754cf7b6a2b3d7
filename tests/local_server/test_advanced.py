"""The advanced feature set: external endpoints through the unmodified SDK."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt

from common.local_server import RunningServer
from common.local_server.endpoints import with_external_endpoints
from tests.fixtures_clearml import run_sdk_script
from tests.local_server.conftest import SCRIPTS


def test_sdk_gets_external_endpoints(
    start_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    server = start_server(advanced=True, routes=("llm", "other"))
    with server.client() as client:
        token = client.call("auth.login")["token"]
        routes = client.call("routers.get_routes", name="^llm$")["routes"]
        assert client.call("users.get_vaults") == {"vaults": []}
    payload = jwt.decode(token, options={"verify_signature": False})
    assert (payload["feature_set"], payload["server_version"]) == ("advanced", "3.27.0")
    assert [route["name"] for route in routes] == ["llm"]

    seen = run_sdk_script(server, SCRIPTS / "endpoint.py", cache=tmp_path / "cache")
    assert "no-such-route" in seen["unknown_route"]
    task = seen["task"]
    assert seen["granted"]["endpoint"] == f"{server.router_url}/llm"
    assert seen["granted"]["browser_endpoint"] == seen["granted"]["endpoint"]
    assert seen["named"]["name"] == "second"
    assert seen["named"]["endpoint"] == f"{server.router_url}/service/{task}__second"
    assert seen["after_edit"]["endpoint"] == seen["granted"]["endpoint"]
    assert "external_service" in seen["tags"]


def grant(runtime: dict[str, Any]) -> dict[str, Any]:
    return with_external_endpoints(runtime, "t1", "http://router", ("llm",))


def test_endpoint_is_granted_only_with_service_address_and_port() -> None:
    asked = {"_SERVICE": "EXTERNAL", "_ADDRESS": "10.0.0.1", "_PORT": 8800}
    granted = grant(asked)
    assert granted["endpoint"] == granted["browser_endpoint"] == "http://router/service/t1"
    for key in asked:
        part = {name: value for name, value in asked.items() if name != key}
        assert grant(part) == part
    tcp = {**asked, "_SERVICE": "EXTERNAL_TCP"}
    assert grant(tcp) == tcp
    named = {f"{name}__two": value for name, value in asked.items()}
    assert grant(named)["endpoint__two"] == "http://router/service/t1__two"


def test_only_a_static_route_that_exists_is_granted() -> None:
    asked = {"_SERVICE": "EXTERNAL", "_ADDRESS": "10.0.0.1", "_PORT": 8800}
    static = {**asked, "_ROUTER_ENDPOINT_MODE": "path", "_ROUTER_ENDPOINT_MODE_PARAM": "llm"}
    assert grant(static)["endpoint"] == "http://router/llm"
    unknown = {**static, "_ROUTER_ENDPOINT_MODE_PARAM": "other"}
    assert grant(unknown) == unknown


def test_without_a_router_nobody_grants_what_is_asked_for(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server(advanced=True, router="off")
    assert server.router_url == ""
    with server.client() as client:
        task = client.call("tasks.create", name="asks", type="inference")["id"]
        asked = {"_SERVICE": "EXTERNAL", "_ADDRESS": "127.0.0.1", "_PORT": 8800}
        client.call("tasks.edit", task=task, runtime=asked)
        assert client.call("tasks.get_by_id", task=task)["task"]["runtime"] == asked
