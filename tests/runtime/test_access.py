"""Who may use an instance, from its settings; and whole instances with tokens, keys of the task, HTTPS."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import trustme

from apps.llamacpp.options import LlamaCppSettings
from common.errors import ConfigurationError
from common.gateway.keys import Role, entry_to_json, make_entry
from common.local_server import RunningServer
from common.options.loading import load_settings
from common.options.shared import GeneralOptions
from common.runtime.access import KEYS_CONFIGURATION, Access, is_loopback, make_access, make_tls
from tests.fixtures_clearml import clearml_environment
from tests.runtime.test_runtime_run import instance


def general(**values: str) -> GeneralOptions:
    parameters = {"Model/model": "a/b/c.gguf"}
    parameters |= {f"General/{name}": value for name, value in values.items()}
    return load_settings(LlamaCppSettings, parameters).settings.general


def access(folder: Path, values: dict[str, str], **more: Any) -> tuple[Access, list[str]]:
    lines: list[str] = []
    environ = {"CLEARML_DEPLOY_KEY_FILE": str(folder / "keys.json")}
    return make_access(general(**values), environ, lines.append, **more), lines


def test_a_key_is_made_where_none_is_given(tmp_path: Path) -> None:
    first, lines = access(tmp_path, {})
    second, _ = access(tmp_path, {})
    assert (first.mode, first.is_generated) == ("api_key", True)
    assert first.key
    assert first.key != second.key
    identity = first.authenticator.known(first.key)
    assert identity is not None
    assert identity.role is Role.ADMIN
    assert lines == []


def test_a_short_key_is_warned_about_without_showing_it(tmp_path: Path) -> None:
    found, lines = access(tmp_path, {"api_key": "hunter2"})
    assert (found.key, found.is_generated) == ("hunter2", False)
    [line] = lines
    assert "7 characters" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("auth", "has_route", "mode"),
    [
        ("", False, "api_key"),
        ("", True, "gateway"),
        ("api_key", True, "api_key"),
        ("gateway", False, "gateway"),
        ("none", True, "none"),
    ],
)
def test_an_empty_auth_follows_the_route(
    tmp_path: Path, auth: str, has_route: bool, mode: str
) -> None:
    values = {"auth": auth} if auth else {}
    found, lines = access(tmp_path, values, has_route=has_route)
    assert found.mode == mode
    assert (found.key is not None) == (mode == "api_key")
    if mode == "gateway":
        assert "nothing else reaches the port" in lines[0]
        identity = found.authenticator.known(None)
        assert identity is not None
        assert (identity.name, identity.role) == ("gateway", Role.USE)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "192.0.2.1", "worker"])
def test_an_open_instance_on_the_network_says_so_in_a_frame_and_on_its_page(
    tmp_path: Path, host: str
) -> None:
    found, [text] = access(tmp_path, {"auth": "none", **({"host": host} if host else {})})
    frame = [line for line in text.splitlines() if line]
    assert len(frame) > 5
    assert {len(line) for line in frame} == {len(frame[0])}
    assert set(frame[0]) == set(frame[-1]) == {"#"}
    assert "ANYBODY CAN USE THIS INSTANCE" in text
    assert (host or "all interfaces") in text
    assert found.warning.startswith("ANYBODY")
    assert "\n" not in found.warning


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.5"])
def test_an_open_instance_of_this_machine_alone_is_said_quietly(tmp_path: Path, host: str) -> None:
    found, lines = access(tmp_path, {"auth": "none", "host": host})
    assert found.warning == ""
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert is_loopback(host)


@pytest.mark.parametrize("task_id", [None, "offline-0123"])
def test_tokens_need_a_server_to_ask(tmp_path: Path, task_id: str | None) -> None:
    with pytest.raises(ConfigurationError, match="General/auth"):
        access(tmp_path, {"auth": "clearml"}, task_id=task_id)


def test_keys_of_the_task_work_beside_the_instances_own(tmp_path: Path) -> None:
    made = [make_entry(name) for name in ("a", "b")]
    text = "\n".join(json.dumps(entry_to_json(entry)) for entry, _ in made)
    found, _ = access(tmp_path, {}, task_keys=text)
    for entry, key in made:
        identity = found.authenticator.known(key)
        assert identity is not None
        assert identity.name == entry.name


def test_broken_keys_of_the_task_are_refused_by_the_objects_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'api_keys'.*entry 1.*--print-entry"):
        access(tmp_path, {}, task_keys="cdk-secret")


def test_without_files_there_is_no_tls() -> None:
    assert make_tls(general(), print) is None


# Whole instances.


def get(url: str, secret: str | None, context: ssl.SSLContext | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(url)
    if secret:
        request.add_header("Authorization", f"Bearer {secret}")
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["error"]


def token_of(
    server: RunningServer, folder: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "common.cli.main", "token", *options],
        env={**clearml_environment(server, folder / "cache"), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_an_instance_is_used_with_the_token_that_the_command_prints(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    with instance(clearml_server, tmp_path, "plain", **{"General/auth": "clearml"}) as it:
        it.wait_for(lambda: it.status().get("status") in ("active", "idle"))
        shown = it.status()
        url = f"{shown['endpoint']}/v1/models"
        assert "api_key" not in shown
        printed = token_of(clearml_server, tmp_path)
        token = printed.stdout.strip()
        assert printed.stdout == f"{token}\n"
        assert "Expires: " in printed.stderr
        assert token not in printed.stderr
        status, models = get(url, token)
        assert (status, models["data"][0]["id"]) == (200, "m")
        status, error = get(url, token[:-3])
        assert (status, error["code"]) == (401, "invalid_token")
        status, error = get(url, None)
        assert (status, error["code"]) == (401, "missing_token")
        assert "clearml-deploy token" in error["message"]
        as_json = json.loads(token_of(clearml_server, tmp_path, "--json").stdout)
        assert get(url, as_json["token"])[0] == 200
        assert as_json["expires"] > 1_700_000_000
        assert as_json["user"]
        assert it.stop() == 0
        assert token not in it.console


def test_an_instance_takes_the_keys_of_its_tasks_configuration(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    entry, key = make_entry("team", models=["other"])
    with clearml_server.client() as client:
        project = client.call("projects.create", name="with keys")["id"]
        task = client.call(
            "tasks.create",
            name="instance with keys",
            type="inference",
            project=project,
            configuration={
                KEYS_CONFIGURATION: {
                    "name": KEYS_CONFIGURATION,
                    "value": json.dumps(entry_to_json(entry)),
                    "type": "json",
                }
            },
            hyperparams={
                "Model": {
                    "model": {
                        "section": "Model",
                        "name": "model",
                        "value": str(tmp_path / "m.gguf"),
                    }
                },
                "General": {"host": {"section": "General", "name": "host", "value": "127.0.0.1"}},
            },
        )["id"]
        client.call("tasks.started", task=task, force=True)
    by_agent = {"CLEARML_TASK_ID": task}
    with instance(clearml_server, tmp_path, "plain", environ=by_agent) as it:
        it.wait_for(lambda: it.status(task).get("status") in ("active", "idle"))
        shown = it.status(task)
        # The key is known, and its model is not served here.
        status, models = get(f"{shown['endpoint']}/v1/models", key)
        assert (status, models["data"]) == (200, [])
        status, models = get(f"{shown['endpoint']}/v1/models", shown["api_key"])
        assert [item["id"] for item in models["data"]] == ["m"]


def test_an_instance_with_a_certificate_is_reached_by_https(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    ca = trustme.CA()
    leaf = ca.issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    parameters = {
        "General/tls_certificate_file": str(tmp_path / "cert.pem"),
        "General/tls_key_file": str(tmp_path / "key.pem"),
        "General/api_key": "a-key-of-the-test-0123456789",
    }
    client = ssl.create_default_context()
    ca.configure_trust(client)
    with instance(clearml_server, tmp_path, "plain", **parameters) as it:
        it.wait_for(lambda: it.status().get("status") in ("active", "idle"))
        endpoint = it.status()["endpoint"]
        assert endpoint.startswith("https://127.0.0.1:")
        assert endpoint in it.status()["curl_example"]
        status, models = get(f"{endpoint}/v1/models", parameters["General/api_key"], client)
        assert (status, models["data"][0]["id"]) == (200, "m")


def test_an_instance_whose_certificate_cannot_be_used_fails_with_the_reason(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    parameters = {
        "General/tls_certificate_file": str(tmp_path / "gone.pem"),
        "General/tls_key_file": str(tmp_path / "gone.key"),
    }
    with instance(clearml_server, tmp_path, "plain", **parameters) as it:
        assert it.wait() == 2
        for words in ("FAILED", "gone.pem", "General/tls_certificate_file", "gone.key"):
            assert words in it.console
