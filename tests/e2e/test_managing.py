"""Managing instances and moving their configurations, with the command line, on a real server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests

from common.clearml.parameters import parameter_items
from common.cli.inputs import APP_NAMES, load_app
from common.forms.exchange import read_document
from common.launch.definition import by_section
from common.local_server import add_user, restrict
from tests.e2e.conftest import Workplace
from tests.e2e.instances import KEY, ROOT, wait_for
from tests.fixtures_clearml import wait_for as wait_until
from tests.forms.full_configuration import ATTRIBUTES, SECRET, full_parameters

PROJECT = "Managed services"
SLOW_PROMPT = {"messages": [{"role": "user", "content": "Count to one hundred."}], "stream": True}


@pytest.fixture(scope="module", autouse=True)
def nothing_left(workplace: Workplace) -> Iterator[None]:
    yield
    workplace.stop_all()


@pytest.fixture(scope="module")
def instance(workplace: Workplace, model_id: str) -> str:
    """A real instance that serves; its task's ID."""
    task_id = workplace.cli(
        "launch",
        "llamacpp",
        *("--queue", "default", "--project", PROJECT, "--name", "managed one"),
        *("--set", f"Model/model={model_id}", "--set", "Model/context_size=2048"),
        *("--set", "General/host=127.0.0.1", "--set", "General/engine=xllamacpp"),
        *("--set", f"General/api_key={KEY}", "--set", "General/drain_seconds=20"),
    ).split()[0]
    workplace.wait_stage(task_id, "ready")
    return task_id


@pytest.fixture(scope="module")
def full_fields(workplace: Workplace) -> dict[str, Any]:
    """Name, project and queue of an instance with every field set."""
    with workplace.server.client() as client:
        client.call("projects.create", name=ATTRIBUTES.project, description="")
        queue = client.call("queues.create", name=ATTRIBUTES.queue)["id"]
    return {"name": ATTRIBUTES.name, "project": ATTRIBUTES.project, "execution": {"queue": queue}}


def new_task(
    workplace: Workplace, app: str, parameters: dict[str, Any], project: str, **fields: Any
) -> str:
    """A draft with these parameters, as a server's own form would make it."""
    items = parameter_items(load_app(app).settings, parameters)
    status = {"section": "Status", "name": "api_key", "value": SECRET}
    with workplace.server.client() as client:
        found = client.call("projects.get_all", name=f"^{project}$")["projects"]
        task = client.call(
            "tasks.create",
            type="inference",
            project=found[0]["id"],
            script={"entry_point": f"-m apps.{app}"},
            hyperparams=by_section([*items, status]),
            **fields,
        )
    return str(task["id"])


def follow_logs(workplace: Workplace, task_id: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "common.cli.main", "logs", "-f", task_id],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=workplace.environ,
    )


@pytest.mark.parametrize("app", APP_NAMES)
def test_every_field_survives_export_import_export_byte_for_byte(
    workplace: Workplace, app: str, full_fields: dict[str, Any], tmp_path: Path
) -> None:
    settings = load_app(app).settings
    first = tmp_path / "first.json"
    task_id = new_task(workplace, app, dict(full_parameters(settings)), **full_fields)
    workplace.cli("export", task_id, "-o", str(first))
    text = first.read_text(encoding="utf-8")
    assert SECRET not in text
    schema = ROOT / "docs" / f"export.schema.{app}.json"
    jsonschema.validate(json.loads(text), json.loads(schema.read_text(encoding="utf-8")))

    read = read_document(app, settings, json.loads(text))
    assert read.attributes == ATTRIBUTES
    copy = new_task(workplace, app, read.parameters, **full_fields)
    assert workplace.cli("export", copy) == text


def test_an_export_launches_the_same_instance(
    workplace: Workplace, instance: str, tmp_path: Path
) -> None:
    file = tmp_path / "exported.json"
    said = workplace.cli("export", instance, "-o", str(file), check=False)
    assert '"API Key" (General/api_key)' in said
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["values"]["queue"] == "default"
    assert document["values"]["instance_name"] == "managed one"
    assert "general_api_key" in document["left_out"]
    assert KEY not in file.read_text(encoding="utf-8")
    valid = workplace.cli("validate", "llamacpp", "--config", str(file))
    assert "1 model" in valid

    # Name, project and queue are in the file.
    again = workplace.cli("launch", "llamacpp", "--config", str(file)).split()[0]
    assert workplace.cli("export", again) == file.read_text(encoding="utf-8")
    # The agent is busy with the first one.
    shown = workplace.cli("status", again)
    assert re.search(r"^queued ", shown)
    assert f'waits in the queue "default": {workplace.server.worker} runs {instance}' in shown
    stopped = json.loads(workplace.cli("stop", again, "--json"))
    assert (stopped["id"], stopped["ended"]) == (again, True)

    # One parameter over the file's only model.
    warmer = [
        *("launch", "llamacpp", "--config", str(file)),
        *("--set", "Model/temperature=0.25", "--queue", "default"),
    ]
    changed = workplace.cli(*warmer).split()[0]
    (model,) = json.loads(workplace.cli("export", changed))["values"]["models"]
    assert (model["temperature"], model["context_size"]) == (0.25, 2048)
    workplace.cli("stop", changed)

    refused = workplace.cli("validate", "vllm", "--config", str(file), check=False)
    assert "a configuration of llamacpp, not of vllm" in refused


def test_a_file_by_titles_is_understood_and_the_rest_named(
    workplace: Workplace, tmp_path: Path
) -> None:
    file = tmp_path / "mine.json"
    good = {"Model": "org/repo/file.gguf", "Context Size": 1024, "General": {"Port": 8800}}
    file.write_text(json.dumps(good), encoding="utf-8")
    assert "valid: 1 model" in workplace.cli("validate", "llamacpp", "--config", str(file))
    file.write_text(json.dumps({**good, "Contxt Sise": 1}), encoding="utf-8")
    refused = workplace.cli("validate", "llamacpp", "--config", str(file), check=False)
    assert 'did you mean "Context Size" (Model/context_size)?' in refused
    file.write_text(json.dumps({"models": [{"model": "a/b"}, {"model": "a/c"}]}), encoding="utf-8")
    refused = workplace.cli(
        *("validate", "vllm", "--config", str(file), "--set", "Model/max_context_length=1"),
        check=False,
    )
    assert "which of the file's 2 models is meant" in refused


def test_list_and_status_show_what_an_instance_does(workplace: Workplace, instance: str) -> None:
    listed = json.loads(workplace.cli("list", "--json"))
    (found,) = [row for row in listed if row["id"] == instance]
    assert found == json.loads(workplace.cli("status", instance, "--json"))
    assert found["app"] == "llamacpp"
    assert found["name"] == "managed one"
    assert found["project"] == PROJECT
    assert found["status"] in ("active", "idle")
    assert found["queue"] == "default"
    assert found["worker"].startswith(str(workplace.server.worker))
    assert found["idle_hours"] == "0.0"
    (model,) = found["models"]
    assert model["url"].startswith(found["endpoint"])
    assert KEY not in json.dumps(listed)

    header, *rows = workplace.cli("list", "--project", PROJECT).splitlines()
    titles = "Task App Name Status Idle Models Endpoint Queue Worker"
    assert header.split() == titles.split()
    (row,) = [row for row in rows if instance in row]
    for shown in ("llamacpp", "managed one", "0.0 h of ∞", f"{model['name']} (ready)", "default"):
        assert shown in row
    assert "No instance waits or runs" in workplace.cli("list", "--app", "vllm")
    said = workplace.cli("status", instance)
    assert f"{model['name']}  ready  {model['url']}" in said
    assert KEY not in said


def test_open_prints_the_pages(workplace: Workplace, instance: str) -> None:
    pages = json.loads(workplace.cli("open", instance, "--json"))
    assert workplace.cli("open", instance).strip() == pages["task"]
    assert instance in pages["task"]
    assert workplace.cli("open", instance, "--endpoint").strip() == pages["endpoint"]
    assert requests.get(f"{pages['endpoint']}/health", timeout=5).status_code == 200


def test_logs_of_a_running_instance(workplace: Workplace, instance: str) -> None:
    # Agent and SDK send the console in batches.
    whole = wait_for(
        lambda: text if "Serving on" in (text := workplace.cli("logs", instance)) else "",
        30,
        "the console on the server",
    )
    assert KEY not in whole
    assert len(workplace.cli("logs", instance, "--tail", "2").splitlines()) == 2
    records = [json.loads(line) for line in workplace.cli("logs", instance, "--json").splitlines()]
    assert any("Serving on" in record["text"] for record in records)
    assert all(record["time"].endswith("+00:00") for record in records)


def test_a_stop_drains_and_the_followed_console_ends_with_it(
    workplace: Workplace, instance: str
) -> None:
    (model,) = workplace.status(instance)["models"]
    answer = requests.post(
        f"{model['url']}/chat/completions",
        json={"model": model["name"], "max_tokens": 400, **SLOW_PROMPT},
        headers={"Authorization": f"Bearer {KEY}"},
        stream=True,
        timeout=60,
    )
    lines = answer.iter_lines()
    assert next(lines).startswith(b"data:")
    received: list[bytes] = []
    reading = threading.Thread(target=lambda: received.extend(lines))
    reading.start()
    with follow_logs(workplace, instance) as following:
        said = workplace.cli("stop", instance, check=False)
        reading.join(60)
        output, _ = following.communicate(timeout=60)
    assert following.returncode == 0
    assert received[-2:] == [b"data: [DONE]", b""]
    assert f"{instance} stopped" in said
    assert "Requests in flight have up to 20 s to finish" in said
    assert "Serving on" in output
    assert "finishing the requests in flight" in output
    assert "The task has ended (stopped)" in output
    assert output.count("finishing the requests in flight") == 1
    assert workplace.status(instance)["status"] == "stopped"
    listed = json.loads(workplace.cli("list", "--project", PROJECT, "--json"))
    assert instance not in [row["id"] for row in listed]
    every = json.loads(workplace.cli("list", "--project", PROJECT, "--all", "--json"))
    assert instance in [row["id"] for row in every]
    refused = workplace.cli("open", instance, "--endpoint", check=False)
    assert "has no page now: it is stopped" in refused


def test_a_queue_without_an_agent_is_told(workplace: Workplace) -> None:
    with workplace.server.client() as client:
        client.call("queues.create", name="nobody serves it")
    task_id = workplace.cli(
        *("launch", "llamacpp", "--queue", "nobody serves it"),
        *("--set", "Model/model=org/repo/file.gguf", "--project", PROJECT),
    ).split()[0]
    wait_until(lambda: "has waited" in workplace.cli("status", task_id), [True], 20)
    for command in (["status", task_id], ["list"]):
        said = workplace.cli(*command)
        assert 'No agent serves the queue "nobody serves it" now' in said
        assert re.search(r"It has waited \d+ s\.", said)
    waiting = workplace.cli("logs", task_id, "--tail", "1", check=False)
    assert "No agent serves the queue" in waiting
    workplace.cli("stop", task_id)


def test_what_may_not_be_read_is_said(workplace: Workplace) -> None:
    project = f"Secret project {time.time_ns()}"
    with workplace.server.client() as client:
        client.call("projects.create", name=project, description="")
    task_id = new_task(workplace, "llamacpp", {}, name="hidden one", project=project)
    created = add_user(workplace.server.data_dir, f"guest-{time.time_ns()}")
    restrict(workplace.server.data_dir, project, [])
    environ = {
        **workplace.environ,
        "CLEARML_API_ACCESS_KEY": created["access_key"],
        "CLEARML_API_SECRET_KEY": created["secret_key"],
    }

    def as_guest(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "common.cli.main", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environ,
            timeout=120,
        )
        return done.returncode, done.stdout + done.stderr

    for command in ("status", "logs", "stop", "open", "export", "key", "clone"):
        code, said = as_guest(command, task_id)
        assert code == 1, said
        assert f"There is no task {task_id}" in said, command
        assert "you may not read it" in said
    code, said = as_guest("list", "--project", project)
    assert code == 1
    assert f'no project "{project}"' in said
    assert task_id not in as_guest("list", "--all")[1]


def test_a_server_that_is_away_is_named(workplace: Workplace) -> None:
    environ = {**workplace.environ, "CLEARML_API_HOST": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "common.cli.main", "list"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environ,
        timeout=120,
    )
    assert done.returncode == 1
    assert "http://127.0.0.1:9 cannot be reached" in done.stderr


def test_no_argument_of_a_run_by_hand_reaches_its_task(workplace: Workplace) -> None:
    bad = ("run", "llamacpp", "--set", f"General/api_key={SECRET}", "--name", "by hand")
    assert "is required" in workplace.cli(*bad, check=False)
    listed = json.loads(workplace.cli("list", "--all", "--app", "llamacpp", "--json"))
    (found,) = [row for row in listed if row["name"] == "by hand"]
    assert found["status"] == "failed"
    assert SECRET not in json.dumps(workplace.task(found["id"]))
