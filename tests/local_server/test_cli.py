"""``clearml-deploy local`` as a person or a script calls it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from common.local_server import running, stop
from tests.fixtures_clearml import wait_for

Local = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    """Run a command on a data directory of the test, given by the environment."""
    data_dir = tmp_path / "data"
    env = {**os.environ, "CLEARML_DEPLOY_LOCAL_DIR": str(data_dir)}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "common.cli.local", *args],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )

    yield run
    stop(data_dir)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_up_status_down(local: Local, tmp_path: Path) -> None:
    assert local("status").returncode == 1
    up = local("up", "--json", "--api-port", "0", "--files-port", "0", "--queue", "my queue")
    assert up.returncode == 0, up.stderr
    server = json.loads(up.stdout)
    config = tmp_path / "data" / "clearml.conf"
    assert server["environment"] == {"CLEARML_CONFIG_FILE": str(config)}
    assert server["api_url"] in config.read_text()

    status = json.loads(local("status", "--json").stdout)
    assert status["running"] is True
    assert [worker["id"] for worker in status["workers"]] == [server["worker"]]
    assert status["queues"] == {"default": 0, "my queue": 0}
    shown = local("status")
    assert f"Worker   {server['worker']}: idle" in shown.stdout
    assert f"export CLEARML_CONFIG_FILE={config}" in shown.stdout

    again = local("up", "--queue", "my queue")
    assert again.returncode == 0
    assert "runs already" in again.stderr
    assert str(server["pid"]) in again.stderr

    assert local("down").stdout == "Stopped.\n"
    assert not is_running(server["pid"])
    assert not is_running(server["agent_pid"])
    assert json.loads(local("status", "--json").stdout)["running"] is False
    assert "No local server ran" in local("down").stdout


def test_up_says_which_ports_it_stepped_over(local: Local) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        up = local("up", "--no-agent", "--api-port", str(port), "--files-port", "0")
    assert up.returncode == 0
    assert f"Port {port} is in use" in up.stderr
    assert "Agent    none" in up.stdout


def test_second_up_says_what_it_does_not_change(local: Local) -> None:
    assert local("up", "--no-agent", "--api-port", "0", "--files-port", "0").returncode == 0
    again = local("up", "--no-agent", "--host", "0.0.0.0", "--advanced")
    assert again.returncode == 0
    assert "runs already" in again.stderr
    assert "It keeps its addresses and features" in again.stderr
    assert "Listening" not in again.stderr


def test_up_on_a_foreign_address_fails_with_the_reason(local: Local) -> None:
    up = local("up", "--no-agent", "--host", "192.0.2.1")
    assert up.returncode == 1
    assert "192.0.2.1" in up.stderr
    assert "Traceback" not in up.stderr


def test_foreground_serves_until_ctrl_c(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    command = [sys.executable, "-m", "common.cli.local", "up", "--foreground"]
    command += ["--data-dir", str(data_dir), "--api-port", "0", "--files-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: running(data_dir) is not None, (True,), 10)
        server = running(data_dir)
        assert server is not None
        assert server.pid == process.pid
        second = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert second.returncode == 1
        assert "runs on" in second.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
        assert process.stderr is not None
        assert server.api_url in process.stderr.read()
    assert running(data_dir) is None


def test_users_and_readers(local: Local) -> None:
    created = json.loads(local("user", "add", "eva", "--json").stdout)
    assert set(created) == {"id", "name", "access_key", "secret_key"}
    twice = local("user", "add", "eva")
    assert twice.returncode == 2
    assert "exists already" in twice.stderr
    assert "configuration" not in twice.stderr
    refused = local("restrict", "no such project", "--readers", "eva,finn")
    assert refused.returncode == 2
    assert "no such project" in refused.stderr
    assert "finn" in refused.stderr
    assert local("restrict", "x", "--readers", "eva", "--everybody").returncode == 2
