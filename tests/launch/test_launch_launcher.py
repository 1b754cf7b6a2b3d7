"""Launching on a real server: the task that an agent gets, and what is refused before there is one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.local_server import RunningServer, add_user, restrict
from tests.fixtures_clearml import clearml_environment
from tests.launch.conftest import ApiOf

ROOT = Path(__file__).parents[2]
# In a process of its own: the SDK reads its configuration once.
LAUNCH = """
import importlib, json, os, sys
from common.clearml.api import ClearMLApi
from common.errors import DeployError
from common.launch.launcher import Launch, launch
from common.launch.source import git_url
given = json.loads(sys.argv[1])
name = given.pop("app", "llamacpp")
app = importlib.import_module(f"apps.{name}.app").app()
api = ClearMLApi()
source = git_url("https://h/r.git", "main", "c" * 40, name)
try:
    task_id = launch(Launch(app=app, source=source, **given), api)
    print("SEEN", json.dumps({"id": task_id}))
except DeployError as error:
    print("SEEN", json.dumps({"error": str(error), "kind": type(error).__name__}))
sys.stdout.flush()
os._exit(0)
"""


def launched(server: RunningServer, cache: Path, **given: Any) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, json.dumps(given)],
        env=clearml_environment(server, cache),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    assert lines, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(lines[0].removeprefix("SEEN "))
    return found


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def tasks(server: RunningServer) -> set[str]:
    with server.client() as client:
        found = client.call("tasks.get_all", only_fields=["id"])["tasks"]
    return {task["id"] for task in found}


def test_the_task_is_queued_with_source_container_and_every_parameter(
    clearml_server: RunningServer, queue: str, tmp_path: Path
) -> None:
    found = launched(
        clearml_server,
        tmp_path,
        queue=queue,
        parameters={"Model/model": "a/b/c.gguf", "Model/temperature": "0.5"},
        name="mine",
        container="img:1",
        container_arguments="--network host",
    )
    with clearml_server.client() as client:
        task = client.call("tasks.get_by_id", task=found["id"])["task"]
    assert (task["status"], task["name"]) == ("queued", "mine")
    assert task["script"]["entry_point"] == "-m apps.llamacpp"
    assert task["script"]["repository"] == "https://h/r.git"
    assert task["script"]["version_num"] == "c" * 40
    required = task["script"]["requirements"]["pip"]
    assert "aiohttp" in required
    assert "xllamacpp" in required
    assert task["container"]["image"] == "img:1"
    assert "--network host" in task["container"]["arguments"]
    assert task["hyperparams"]["Model"]["temperature"]["value"] == "0.5"
    assert task["hyperparams"]["Model"]["top_k"]["value"] == ""
    assert "Status" not in task["hyperparams"]


@pytest.mark.parametrize("app", ["vllm", "legacy_model"])
def test_a_task_of_vllm_installs_the_program_and_no_engine(
    app: str, clearml_server: RunningServer, queue: str, tmp_path: Path
) -> None:
    parameters = {"Model/model": "org/repo", "General/vllm_version": "0.10.0"}
    found = launched(clearml_server, tmp_path, app=app, queue=queue, parameters=parameters)
    with clearml_server.client() as client:
        task = client.call("tasks.get_by_id", task=found["id"])["task"]
    assert task["script"]["entry_point"] == f"-m apps.{app}"
    required = task["script"]["requirements"]["pip"].split()
    assert any(line.startswith("aiohttp") for line in required)
    assert not any(line.startswith(("vllm", "torch", "xllamacpp")) for line in required)
    assert task["hyperparams"]["General"]["vllm_version"]["value"] == "0.10.0"
    assert {"Model", "LoRA", "General", "Idle"} <= set(task["hyperparams"])
    assert "Status" not in task["hyperparams"]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"project": "p"}, "ControlPlaneError", 'The project "p"'),
        ({"name": "n"}, "ControlPlaneError", 'The task "n" could not be created'),
        ({"queue": "none-such"}, "ControlPlaneError", 'no queue "none-such"'),
        ({"parameters": {"Model/temperature": "hot"}}, "ConfigurationError", "temperature"),
        (
            {"parameters": {"Model/model": "a/b/c.gguf", "Model/temprature": "1"}},
            "ConfigurationError",
            "Model/temperature",
        ),
    ],
)
def test_what_is_refused_leaves_no_task(
    change: dict[str, Any],
    kind: str,
    words: str,
    clearml_server: RunningServer,
    queue: str,
    tmp_path: Path,
) -> None:
    before = tasks(clearml_server)
    given = {"queue": queue, "parameters": {"Model/model": "a/b/c.gguf"}, **change}
    found = launched(clearml_server, tmp_path, **given)
    assert found["kind"] == kind
    assert words in found["error"]
    assert tasks(clearml_server) == before


def test_a_project_of_others_is_refused_by_name(
    clearml_server: RunningServer,
    cli: Callable[..., subprocess.CompletedProcess[str]],
    api: ApiOf,
    queue: str,
) -> None:
    api.call("projects", "create", name="for others")
    restrict(clearml_server.data_dir, "for others", [])
    user = add_user(clearml_server.data_dir, "an outsider")
    keys = {
        "CLEARML_API_ACCESS_KEY": user["access_key"],
        "CLEARML_API_SECRET_KEY": user["secret_key"],
    }
    arguments = ("launch", "llamacpp", "--queue", queue, "--repository", "https://h/r.git")
    model = ("--set", "Model/model=a/b/c.gguf")
    done = cli(*arguments, *model, "--project", "for others", env=keys)
    assert done.returncode == 1
    assert 'The project "for others" is not among those that you may read' in done.stderr
    assert "exists" in done.stderr
    own = cli(*arguments, *model, "--project", "the outsiders", env=keys)
    assert own.returncode == 0, own.stderr
    # Nor may others' tasks be cloned.
    restrict(clearml_server.data_dir, "the outsiders", [])
    refused = cli("clone", own.stdout.strip(), "--queue", queue, env=keys)
    assert refused.returncode == 1
    assert own.stdout.strip() in refused.stderr


def test_a_server_that_is_away_is_told_so(
    cli: Callable[..., subprocess.CompletedProcess[str]], free_port: int
) -> None:
    away = {"CLEARML_API_HOST": f"http://127.0.0.1:{free_port}"}
    for command in (
        ("launch", "llamacpp", "--queue", "gpu", "--set", "Model/model=a/b/c.gguf"),
        ("clone", "0" * 32, "--queue", "gpu"),
        ("register", "llamacpp"),
    ):
        done = cli(*command, env=away)
        assert done.returncode == 1
        assert f"127.0.0.1:{free_port} cannot be reached" in done.stderr
        assert "Traceback" not in done.stderr


def test_warnings_are_told_and_do_not_stop(
    cli: Callable[..., subprocess.CompletedProcess[str]], queue: str
) -> None:
    models = 'Models/models=[{"model": "a/b/c.gguf"}]'
    arguments = ("launch", "llamacpp", "--queue", queue, "--source", "installed")
    done = cli(*arguments, "--set", models, "--set", "Model/temperature=1")
    assert done.returncode == 0, done.stderr
    assert "Warning: Models/models is set: these are ignored: Model/temperature" in done.stderr
    assert len(done.stdout.split()) == 1
