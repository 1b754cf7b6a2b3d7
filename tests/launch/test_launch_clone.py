"""Clones on a real server: what they take along, what they leave behind, and what is refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.cli.inputs import load_app
from common.errors import ConfigurationError, ControlPlaneError, UserError
from common.launch.clone import Clone, clone, read_original
from common.launch.definition import VERSION_PROPERTY, program_version
from common.launch.launcher import Launch, launch
from common.launch.source import git_url
from common.launch.template import register
from tests.launch.conftest import ApiOf, models

APP = load_app("llamacpp")
SOURCE = git_url("https://h/r.git", "main", "c" * 40, "llamacpp")
PROJECT = "cloned"


@pytest.fixture
def instance(api: ApiOf, queue: str) -> str:
    """An instance with a model, a key of its own, and everything that a run leaves behind."""
    parameters = {"Model/model": "a/b/c.gguf", "Model/temperature": "0.5", "General/api_key": "own"}
    request = Launch(APP, parameters, queue, SOURCE, PROJECT, "mine", "img:1", "--ipc=host")
    task_id = launch(request, api)
    left = {
        "Status": {"api_key": "key-of-the-run", "status": "active", "session": task_id},
        "properties": {"endpoint": "http://old", "status": "active"},
        "Args": {"config": "x"},
    }
    items = [
        {"section": section, "name": name, "value": value}
        for section, values in left.items()
        for name, value in values.items()
    ]
    api.call("tasks", "edit_hyper_params", task=task_id, hyperparams=items, force=True)
    return task_id


@pytest.fixture(scope="module")
def template(api: ApiOf) -> str:
    return register(api, APP, SOURCE, project=PROJECT).task_id


def cloned(
    api: ApiOf, task_id: str, queue: str, changes: dict[str, Any], **more: str
) -> tuple[dict[str, Any], list[str]]:
    """The clone's task, and what was told."""
    told: list[str] = []
    original = read_original(api, task_id)
    new = clone(Clone(APP, original, queue, changes, **more), api, told.append)
    return api.task(new), told


def values(task: dict[str, Any], section: str) -> dict[str, str]:
    return {name: item["value"] for name, item in task["hyperparams"].get(section, {}).items()}


def test_a_clone_of_an_instance_has_its_configuration_and_nothing_of_its_run(
    api: ApiOf, instance: str, queue: str
) -> None:
    task, told = cloned(api, instance, queue, {"Model/temperature": "0.25"})
    before = api.task(instance)
    assert told == []
    assert (task["status"], task["name"], task["project"]) == ("queued", "mine", before["project"])
    for same in ("type", "tags", "script", "container", "comment"):
        assert task[same] == before[same], same
    assert "Status" not in task["hyperparams"]
    assert values(task, "properties") == {VERSION_PROPERTY: program_version()}
    assert "key-of-the-run" not in json.dumps(task)
    # What the user chose stays, even what is none of ours.
    assert values(task, "General")["api_key"] == "own"
    assert values(task, "Args") == {"config": "x"}
    assert values(task, "Model") == {**values(before, "Model"), "temperature": "0.25"}
    kept = dict(before["hyperparams"]["Model"]["temperature"])
    assert task["hyperparams"]["Model"]["temperature"] == {**kept, "value": "0.25"}


def test_a_clone_of_a_template_is_an_instance(api: ApiOf, template: str, queue: str) -> None:
    task, _ = cloned(api, template, queue, {"Models/models": [{"model": "a/b/c.gguf"}]})
    assert task["name"] == "llama.cpp Model Deployment instance"
    assert values(task, "Models")["models"] == models("a/b/c.gguf")
    assert api.task(template)["status"] == "created"


def test_name_and_project_are_the_users(api: ApiOf, instance: str, queue: str) -> None:
    task, _ = cloned(api, instance, queue, {}, name="another", project="cloned/elsewhere")
    assert task["name"] == "another"
    (moved,) = api.tasks("cloned/elsewhere")
    assert moved["id"] == task["id"]


def test_an_empty_value_unsets(api: ApiOf, instance: str, queue: str) -> None:
    task, _ = cloned(api, instance, queue, {"General/api_key": "", "Model/temperature": None})
    assert values(task, "General")["api_key"] == ""
    assert values(task, "Model")["temperature"] == ""


def test_a_list_of_models_replaces_the_one_model_and_says_so(
    api: ApiOf, instance: str, queue: str
) -> None:
    changes = {"Models/models": models("a/b/c.gguf", "d/e/f.gguf")}
    task, told = cloned(api, instance, queue, changes)
    assert len(json.loads(values(task, "Models")["models"])) == 2
    assert len(told) == 1
    assert "Model/model" in told[0]
    # The other way round it would change nothing, silently.
    with pytest.raises(ConfigurationError, match=r"Model/temperature.*--set Models/models="):
        cloned(api, task["id"], queue, {"Model/temperature": "1"})
    task, _ = cloned(api, task["id"], queue, {"Models/models": "", "Model/temperature": "1"})
    assert values(task, "Model")["temperature"] == "1"


def edit(api: ApiOf, task_id: str, **values: str) -> None:
    items = [
        {"section": section, "name": name, "value": value}
        for section, _, name, value in (
            (*path.replace("__", "/").partition("/"), value) for path, value in values.items()
        )
    ]
    api.call("tasks", "edit_hyper_params", task=task_id, hyperparams=items, force=True)


def test_all_that_is_wrong_is_named_and_nothing_is_created(
    api: ApiOf, instance: str, queue: str
) -> None:
    edit(api, instance, Model__temprature="1")
    before = len(api.tasks(PROJECT))
    with pytest.raises(ConfigurationError) as raised:
        cloned(api, instance, queue, {"Model/top_k": "many", "General/prot": "8800"})
    text = str(raised.value)
    assert 'Model/temprature: there is no such parameter; did you mean "Model/temperature"?' in text
    assert "(Model/top_k) = 'many': must be a whole number" in text
    assert "General/prot" in text
    assert "was made by" not in text
    with pytest.raises(ControlPlaneError, match=r'no queue "none-such".*nobody-serves'):
        cloned(api, instance, "none-such", {"Model/temprature": ""})
    assert len(api.tasks(PROJECT)) == before


def test_a_task_of_another_version_is_told_so(api: ApiOf, template: str, queue: str) -> None:
    old = api.call("tasks", "clone", task=template, new_task_name="from long ago")["id"]
    stored = api.task(old)["hyperparams"]
    stored["properties"][VERSION_PROPERTY]["value"] = "0.0.1"
    del stored["Model"]["typical_p"]
    stored["Model"]["gone_since"] = {"section": "Model", "name": "gone_since", "value": "1"}
    api.call("tasks", "edit", task=old, hyperparams=stored)
    changes = {"Model/model": "a/b/c.gguf", "Model/typical_p": "0.5"}
    with pytest.raises(ConfigurationError) as raised:
        cloned(api, old, queue, changes)
    text = str(raised.value)
    assert "Model/gone_since: there is no such parameter" in text
    assert f"made by clearml-deploy 0.0.1, and this is {program_version()}" in text
    assert f"Model/typical_p: the task {old} does not have it" in text
    assert "clearml-deploy register" in text
    # What both know still works, and the clone goes on saying which program it runs.
    task, _ = cloned(api, old, queue, {"Model/model": "a/b/c.gguf", "Model/gone_since": ""})
    assert values(task, "properties")[VERSION_PROPERTY] == "0.0.1"


def test_a_task_of_somebody_elses_is_refused(api: ApiOf) -> None:
    given = {"name": "a training", "type": "training", "script": {"entry_point": "train.py"}}
    task_id = api.call("tasks", "create", **given)
    with pytest.raises(UserError, match=r"a training.*'train.py'.*clearml-deploy register"):
        read_original(api, task_id["id"])


@pytest.fixture
def by_hand(api: ApiOf, instance: str) -> str:
    """An instance that somebody ran in a terminal: the SDK wrote the command into its task."""
    task = api.task(instance)
    given = {"repository": "", "entry_point": ".venv/bin/clearml-deploy", "diff": "of that day"}
    fields = {name: task[name] for name in ("project", "type", "tags")}
    hyperparams = {
        section: items for section, items in task["hyperparams"].items() if section != "properties"
    }
    new = api.call(
        "tasks", "create", name="ran here", script=given, hyperparams=hyperparams, **fields
    )
    return str(new["id"])


def test_a_clone_of_an_instance_that_was_run_by_hand_gets_a_program(
    cli: Callable[..., subprocess.CompletedProcess[str]], api: ApiOf, by_hand: str, queue: str
) -> None:
    done = cli("clone", by_hand, "--queue", queue, "--set", "Model/temperature=0.25")
    assert done.returncode == 0, done.stderr
    assert "run by hand; its clone gets the program from file://" in done.stderr
    task, before = api.task(done.stdout.strip()), api.task(by_hand)
    assert task["name"] == "ran here"
    script = task["script"]
    assert script["entry_point"] == "-m apps.llamacpp"
    assert script["repository"].startswith("file://")
    assert script["diff"] != before["script"]["diff"]
    assert any(line.startswith("clearml>=") for line in script["requirements"]["pip"].splitlines())
    assert values(task, "properties") == {VERSION_PROPERTY: program_version()}
    assert values(task, "Model") == {**values(before, "Model"), "temperature": "0.25"}
    assert "Status" not in task["hyperparams"]


def test_all_that_is_wrong_with_a_clone_is_told_at_once(
    cli: Callable[..., subprocess.CompletedProcess[str]], instance: str, tmp_path: Path
) -> None:
    """The original's own values count: its model is not missing."""
    file = tmp_path / "changes.json"
    # With the mark that some editors put at the beginning.
    text = '{"Model": {"temprature": 1}, "General/port": "x"}'
    file.write_text(text, encoding="utf-8-sig")
    done = cli("clone", instance, "--queue", "q", "--config", str(file), "--set", "Model/top_k=x")
    assert done.returncode == 2
    assert "has 3 problems" in done.stderr
    for words in ("Model/temprature", "General/port", "Model/top_k"):
        assert words in done.stderr
    done = cli("clone", instance, "--set", "Model/top_k=x")
    assert "has 2 problems" in done.stderr
    for words in ('"Queue" (queue)', "Model/top_k"):
        assert words in done.stderr


def test_the_command_clones_and_says_what_the_clone_waits_for(
    cli: Callable[..., subprocess.CompletedProcess[str]], api: ApiOf, instance: str, queue: str
) -> None:
    done = cli(
        "clone", instance, "--queue", queue, "--set", "Model/temperature=0.2", "--name", "cool"
    )
    assert done.returncode == 0, done.stderr
    task = api.task(done.stdout.strip())
    assert (task["name"], values(task, "Model")["temperature"]) == ("cool", "0.2")
    assert f'No agent serves the queue "{queue}" now' in done.stderr
    refused = cli("clone", "0" * 32, "--queue", queue)
    assert refused.returncode == 1
    assert "0" * 32 in refused.stderr
    assert cli("clone", instance, "--set", "Model/top_k=x", "--queue", queue).returncode == 2
