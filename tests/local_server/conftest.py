"""Servers of one test, and the two long runs that several tests look at."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.local_server import RunningServer, start_background, stop
from tests.fixtures_clearml import run_sdk_script, wait_for

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Start servers below the test's directory; all are stopped at its end."""
    started: list[Path] = []

    def start(name: str = "server", **options: Any) -> RunningServer:
        data_dir = tmp_path / name
        started.append(data_dir)
        settings = {
            "api_port": 0,
            "files_port": 0,
            "router_port": 0,
            "agent_queue": None,
            **options,
        }
        return start_background(data_dir, **settings)

    yield start
    for data_dir in started:
        stop(data_dir)


@pytest.fixture(scope="session")
def full_life(clearml_server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the unmodified SDK saw in a whole life of a task."""
    folder = tmp_path_factory.mktemp("life")
    return run_sdk_script(
        clearml_server, SCRIPTS / "full_life.py", str(folder), cache=folder / "cache"
    )


@pytest.fixture(scope="session")
def job_repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A local git repository with the job; its URL and its branch."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "job").mkdir()
    for source in (SCRIPTS / "job").glob("*.py"):
        (folder / "job" / source.name).write_text(source.read_text())
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "."],
        [*identity, "commit", "-q", "-m", "job"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True, timeout=30)
    return folder.as_uri(), "main"


@pytest.fixture(scope="session")
def agent_jobs(
    clearml_server_with_agent: RunningServer,
    job_repository: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """The two jobs after the agent ran the one and the server aborted the other."""
    server = clearml_server_with_agent
    folder = tmp_path_factory.mktemp("jobs")
    ids = run_sdk_script(server, SCRIPTS / "agent_jobs.py", *job_repository, cache=folder)
    with server.client() as client:

        def task(name: str) -> dict[str, Any]:
            found: dict[str, Any] = client.call("tasks.get_by_id", task=ids[name])["task"]
            return found

        ended = ("completed", "failed", "stopped")
        wait_for(lambda: task("short")["status"], ended, 60)
        wait_for(lambda: shown_status(task("long")), ("active",), 30)
        workers = client.call("workers.get_all")["workers"]
        client.call("tasks.stop", task=ids["long"])
        stopping = task("long")
        wait_for(lambda: task("long")["status"], ended, 60)
        return {
            "short": task("short"),
            "long": task("long"),
            "stopping": stopping,
            "workers": workers,
            "console": client.call("events.get_task_log", task=ids["short"])["events"],
        }


def shown_status(task: dict[str, Any]) -> str | None:
    """The value of ``Status/status`` of a task."""
    parameter = task["hyperparams"].get("Status", {}).get("status")
    return parameter["value"] if parameter else None
