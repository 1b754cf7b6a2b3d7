"""Launching on a real server: the task that an agent gets, and what is refused before there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.local_server import RunningServer
from tests.fixtures_clearml import clearml_environment

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
