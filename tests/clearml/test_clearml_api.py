"""Calls to the API server: a real one, a dead port, one with an untrusted certificate."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common.clearml.api import is_configured
from common.local_server import RunningServer
from tests.fixtures_clearml import clearml_environment

ROOT = Path(__file__).parents[2]
# The SDK reads its configuration once per process.
ASK = """
import sys, time
import common.clearml.api as api_module
from common.clearml.api import ClearMLApi
from common.errors import ControlPlaneError, ServerAwayError
api_module._LOGIN_TIMEOUT_S = float(sys.argv[1])
api = ClearMLApi()
started = time.monotonic()
try:
    print("answer", sorted(api.call(*sys.argv[2].split("."), task="0" * 32 if len(sys.argv) > 3 else None)))
except ServerAwayError as error:
    print("away", error)
except ControlPlaneError as error:
    print("refused", error)
print("seconds", time.monotonic() - started)
sys.stdout.flush()
import os
os._exit(0)
"""


def ask(env: dict[str, str], *arguments: str, login_s: float = 20) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(login_s), *arguments],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def elsewhere(server: RunningServer, cache: Path, url: str, **more: str) -> dict[str, str]:
    return {**clearml_environment(server, cache), "CLEARML_API_HOST": url, **more}


def test_an_answer_and_a_refusal_in_the_servers_words(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    env = clearml_environment(clearml_server, tmp_path)
    assert "answer ['queues'" in ask(env, "queues.get_all")
    refused = ask(env, "tasks.get_by_id", "unknown")
    assert refused.startswith("refused The ClearML server refused tasks.get_by_id")
    assert "(400/" in refused


def test_wrong_credentials_are_a_refusal_without_the_secret(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    env = clearml_environment(clearml_server, tmp_path)
    env.update(CLEARML_API_ACCESS_KEY="nobody", CLEARML_API_SECRET_KEY="wrong-secret-123")
    answer = ask(env, "queues.get_all")
    assert answer.startswith("refused The login at the ClearML server")
    assert "Check the credentials in clearml.conf" in answer
    assert "wrong-secret-123" not in answer


def test_a_dead_port_is_a_server_that_is_away(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # not listening, and nobody else's meanwhile
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        answer = ask(elsewhere(clearml_server, tmp_path, url), "queues.get_all", login_s=8)
    assert answer.startswith("away ")
    assert url in answer
    assert float(answer.split()[-1]) < 12


def test_an_untrusted_certificate_does_not_hang(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    pem = tmp_path / "self-signed.pem"
    subprocess.run(
        [*"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost".split()]
        + ["-keyout", str(pem), "-out", str(tmp_path / "cert.pem")],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_refuse_all, args=(listener, context), daemon=True).start()
        url = f"https://localhost:{listener.getsockname()[1]}"
        answer = ask(elsewhere(clearml_server, tmp_path, url), "queues.get_all", login_s=3)
    assert answer.startswith("away ")
    assert "REQUESTS_CA_BUNDLE" in answer
    assert float(answer.split()[-1]) < 8


def _refuse_all(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        try:
            context.wrap_socket(connection, server_side=True).close()
        except OSError:
            connection.close()


def test_a_token_that_cannot_be_renewed_is_a_server_that_is_away(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    code = """
import os, sys
from common.clearml.api import ClearMLApi
from common.errors import ServerAwayError
api = ClearMLApi()
api.call("queues", "get_all")
session = api._session
session._Session__host = sys.argv[1]
session._TokenManager__token_expiration_sec = 1  # in 1970: it has to be renewed
try:
    api.call("queues", "get_all")
    print("answered")
except ServerAwayError as error:
    print("away", error)
sys.stdout.flush()
os._exit(0)
"""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        done = subprocess.run(
            [sys.executable, "-c", code, f"http://127.0.0.1:{held.getsockname()[1]}"],
            env=clearml_environment(clearml_server, tmp_path),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.stdout.startswith("away "), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"CLEARML_API_ACCESS_KEY": "k"}, True),
        ({"CLEARML_AUTH_TOKEN": "t"}, True),
        ({"CLEARML_CONFIG_FILE": "{home}/other.conf"}, True),
        ({"CLEARML_CONFIG_FILE": "{home}/missing.conf"}, False),
    ],
)
def test_whether_a_server_is_configured(
    variables: dict[str, str], expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "other.conf").touch()
    given = {name: value.format(home=tmp_path) for name, value in variables.items()}
    assert is_configured(given) is expected
    (tmp_path / "clearml.conf").touch()
    assert is_configured({}) is True
    assert os.environ["HOME"] == str(tmp_path)
