"""The advanced feature set: external endpoints through the unmodified SDK."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
    assert seen["granted"]["endpoint"].endswith(":8800")
    assert seen["granted"]["browser_endpoint"] == seen["granted"]["endpoint"]
    assert (seen["named"]["name"], seen["named"]["endpoint"][-5:]) == ("second", ":8801")
    assert seen["after_edit"]["endpoint"] == seen["granted"]["endpoint"]
    assert "external_service" in seen["tags"]


def test_endpoint_is_granted_only_with_service_address_and_port() -> None:
    asked = {"_SERVICE": "EXTERNAL", "_ADDRESS": "10.0.0.1", "_PORT": 8800}
    granted = with_external_endpoints(asked)
    assert granted["endpoint"] == granted["browser_endpoint"] == "http://10.0.0.1:8800"
    for key in asked:
        part = {name: value for name, value in asked.items() if name != key}
        assert with_external_endpoints(part) == part
    tcp = {**asked, "_SERVICE": "EXTERNAL_TCP"}
    assert with_external_endpoints(tcp) == tcp
    named = {f"{name}__two": value for name, value in asked.items()}
    assert with_external_endpoints(named)["endpoint__two"] == "http://10.0.0.1:8800"
