"""Servers as processes: restarts, kill -9, ports, two side by side, the agent's life."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.errors import ControlPlaneError
from common.local_server import (
    RunningServer,
    running,
    start_background,
    stop,
    wait_for_agent,
)
from common.local_server.agent import running_agent
from common.local_server.data_dir import DataDir
from common.local_server.housekeeping import trim
from common.local_server.processes import is_alive
from tests.fixtures_clearml import clearml_environment, wait_for

Start = Callable[..., RunningServer]


def make_state(server: RunningServer) -> dict[str, str]:
    with server.client() as client:
        project = client.call("projects.create", name="kept project")["id"]
        task = client.call("tasks.create", name="kept task", type="testing", project=project)["id"]
        queue = client.call("queues.create", name="kept queue")["id"]
        client.call("tasks.enqueue", task=task, queue=queue)
        client.call("events.add", task=task, type="log", msg="kept line", timestamp=1)
    return {"task": task, "queue": queue}


def check_state(server: RunningServer, ids: dict[str, str]) -> None:
    with server.client() as client:
        assert client.call("tasks.get_by_id", task=ids["task"])["task"]["status"] == "queued"
        lines = client.call("events.get_task_log", task=ids["task"])["events"]
        assert [line["msg"] for line in lines] == ["kept line"]
        assert (
            client.call("queues.get_next_task", queue=ids["queue"])["entry"]["task"]
            == (ids["task"])
        )


def test_state_survives_a_restart_on_the_same_addresses(start_server: Start) -> None:
    first = start_server()
    ids = make_state(first)
    assert stop(first.data_dir)
    assert running(first.data_dir) is None
    again = start_background(first.data_dir, agent_queue=None)
    assert (again.api_url, again.files_url) == (first.api_url, first.files_url)
    assert (again.access_key, again.secret_key) == (first.access_key, first.secret_key)
    check_state(again, ids)


def test_state_survives_kill_9(start_server: Start) -> None:
    first = start_server()
    ids = make_state(first)
    leftover = first.data_dir / "incoming" / "half"
    leftover.write_bytes(b"half an upload")
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: running(first.data_dir), (None,), 5)
    again = start_background(first.data_dir, agent_queue=None)
    assert again.pid != first.pid
    assert again.api_url == first.api_url
    assert not leftover.exists()
    check_state(again, ids)


def test_kill_9_in_the_middle_of_writing_keeps_every_answered_event(start_server: Start) -> None:
    server = start_server()
    with server.client() as client:
        task = client.call("tasks.create", name="a task", type="testing")["id"]
        answered = 0
        killer = threading.Timer(0.5, os.kill, (server.pid, signal.SIGKILL))
        killer.start()
        with suppress(ControlPlaneError):
            while True:
                client.call("events.add", task=task, type="log", msg=str(answered), timestamp=1)
                answered += 1
        killer.join()
    again = start_background(server.data_dir, agent_queue=None)
    with again.client() as client:
        total = client.call("events.get_task_log", task=task)["total"]
    assert total in (answered, answered + 1)
    assert answered > 20


def test_second_start_finds_the_first(start_server: Start) -> None:
    first = start_server()
    second = start_server()
    assert (first.was_running, second.was_running) == (False, True)
    assert first.pid == second.pid


def test_two_servers_do_not_see_each_other(start_server: Start) -> None:
    one, two = start_server("one"), start_server("two")
    ids = make_state(one)
    assert {one.api_url, one.files_url}.isdisjoint({two.api_url, two.files_url})
    assert one.access_key != two.access_key
    with two.client() as client, pytest.raises(ControlPlaneError, match="Invalid task id"):
        client.call("tasks.get_by_id", task=ids["task"])
    stop(one.data_dir)
    with two.client() as client:
        assert client.call("tasks.get_all")["tasks"] == []


def test_port_in_use_is_stepped_over_and_said(start_server: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = start_server(api_port=port)
    assert port in server.skipped_ports
    assert int(server.api_url.rpartition(":")[2]) > port


def test_host_that_is_not_ours_is_refused_with_the_reason(start_server: Start) -> None:
    with pytest.raises(ControlPlaneError, match=r"can not listen on 192\.0\.2\.1") as caught:
        start_server(host="192.0.2.1")
    assert "--host" in str(caught.value)


def test_server_listens_on_loopback_only(start_server: Start) -> None:
    server = start_server()
    addresses = {
        connection.laddr.ip
        for connection in psutil.Process(server.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_secrets_are_for_their_owner_alone(start_server: Start) -> None:
    server = start_server()
    for name in ("credentials.json", "clearml.conf", "agent.conf"):
        assert stat.S_IMODE((server.data_dir / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
    command_line = " ".join(psutil.Process(server.pid).cmdline())
    log = (server.data_dir / "logs" / "server.log").read_text()
    assert server.secret_key not in command_line + log + repr(server)


def test_broken_credentials_are_explained(tmp_path: Path) -> None:
    data_dir = tmp_path / "server"
    data_dir.mkdir()
    (data_dir / "credentials.json").write_text("{half")
    with pytest.raises(ControlPlaneError, match="can not be read") as caught:
        start_background(data_dir, api_port=0, files_port=0, agent_queue=None)
    assert str(data_dir / "credentials.json") in str(caught.value)
    assert running(data_dir) is None


def test_database_of_a_newer_version_is_left_alone(start_server: Start) -> None:
    import sqlite3

    server = start_server()
    stop(server.data_dir)
    database = sqlite3.connect(server.data_dir / "server.sqlite")
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(ControlPlaneError, match="format 99"):
        start_server()


def test_stop_of_nothing_says_so(tmp_path: Path) -> None:
    assert stop(tmp_path / "nothing") is False
    assert not (tmp_path / "nothing").exists()


def test_agent_outlives_a_killed_server_and_goes_on(start_server: Start) -> None:
    first = start_server(agent_queue="default")
    wait_for_agent(first)
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: running(first.data_dir), (None,), 5)
    again = start_background(first.data_dir, agent_queue="default")
    assert again.agent_pid == first.agent_pid
    with again.client() as client:

        def seen() -> list[str]:
            return [worker["id"] for worker in client.call("workers.get_all")["workers"]]

        wait_for(seen, ([again.worker],), 20)


def test_stop_ends_the_agent_and_its_task(
    start_server: Start, job_repository: tuple[str, str], tmp_path: Path
) -> None:
    server = start_server(agent_queue="default")
    script = (
        "import sys; from clearml import Task\n"
        "task = Task.create(project_name='stop', task_name='runs on')\n"
        "task.set_script(repository=sys.argv[1], branch=sys.argv[2], working_dir='.',"
        " entry_point='-m job')\n"
        "task.set_parameters({'General/wait_s': '300'})\n"
        "Task.enqueue(task, queue_name='default')\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, *job_repository],
        env=clearml_environment(server, tmp_path / "cache"),
        check=True,
        timeout=60,
    )
    assert server.agent_pid is not None
    agent = psutil.Process(server.agent_pid)
    with server.client() as client:

        def is_active() -> Any:
            (task,) = client.call("tasks.get_all")["tasks"]
            return task["hyperparams"].get("Status", {}).get("status", {}).get("value")

        wait_for(is_active, ("active",), 40)
    with pytest.raises(ControlPlaneError, match="runs the task .* of the queue default"):
        start_background(server.data_dir, agent_queue="another")
    below = agent.children(recursive=True)
    assert any("job" in process.cmdline() for process in below)
    assert stop(server.data_dir)
    assert not [process for process in [agent, *below] if is_alive(process)]
    again = start_background(server.data_dir, agent_queue=None)
    with again.client() as client:
        (task,) = client.call("tasks.get_all")["tasks"]
        assert task["status"] == "stopped"
        assert client.call("workers.get_all")["workers"] == []


def test_agent_that_can_not_start_is_explained(start_server: Start) -> None:
    server = start_server(agent_queue=None)
    (server.data_dir / "agent.conf").write_text("{ this is no configuration")
    again = start_background(server.data_dir, agent_queue="default")
    with pytest.raises(ControlPlaneError, match="agent"):
        wait_for_agent(again, timeout_s=20)
    assert running_agent(DataDir(server.data_dir)) is None


def test_long_log_is_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    with log.open("ab") as writer:
        writer.write(b"old" * 1000)
        writer.flush()
        trim(log, 100)
        writer.write(b"new")
        writer.flush()
    assert log.read_bytes() == b"new"
    assert (tmp_path / "agent.log.1").stat().st_size == 3000
    trim(tmp_path / "no such log", 100)
