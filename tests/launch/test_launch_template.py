"""Templates on a real server: one per app and project, however often they are registered."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from common.cli.inputs import APP_NAMES, load_app
from common.errors import ControlPlaneError
from common.launch.launcher import Launch, launch
from common.launch.source import Source, git_url
from common.launch.template import Registered, register, template_name
from common.options.loading import render_value
from tests.launch.conftest import ApiOf

APP = load_app("llamacpp")
OLD = git_url("https://h/r.git", "main", "a" * 40, "llamacpp")
NEW = git_url("https://h/r.git", "main", "b" * 40, "llamacpp")


@pytest.fixture
def project(request: pytest.FixtureRequest) -> str:
    """A project of the test's own."""
    return f"templates of {request.node.name}"


def registered(api: ApiOf, project: str, source: Source = OLD) -> Registered:
    return register(api, APP, source, project=project)


def test_every_parameter_is_there_with_type_and_meaning_and_its_default(
    api: ApiOf, project: str
) -> None:
    task = api.task(registered(api, project).task_id)
    assert task["status"] == "created"
    sections = task["hyperparams"]
    for option in APP.settings.options(entry=False):
        section, name = option.path.split("/")
        item = sections[section][name]
        assert item["value"] == render_value(option.default), option.path
        assert item["type"] in ("str", "int", "float", "bool"), option.path
        assert option.title in item["description"], option.path
        for choice in option.choices:
            assert choice in item["description"], option.path
    assert sections["Model"]["split_mode"]["type"] == "str"
    assert "Status" not in sections


def test_a_second_time_updates_the_same_task(api: ApiOf, project: str) -> None:
    first = registered(api, project)
    api.call(
        "tasks",
        "edit_hyper_params",
        task=first.task_id,
        hyperparams=[
            {"section": "Model", "name": "gone_since", "value": "1"},
            {"section": "Model", "name": "temperature", "value": "9", "description": "old"},
        ],
    )
    second = registered(api, project, NEW)
    assert (first.outcome, second.outcome) == ("created", "updated")
    assert second.task_id == first.task_id
    assert [task["id"] for task in api.tasks(project)] == [first.task_id]
    task = api.task(first.task_id)
    assert task["script"]["version_num"] == "b" * 40
    assert "gone_since" not in task["hyperparams"]["Model"]
    assert task["hyperparams"]["Model"]["temperature"]["value"] == ""
    assert task["hyperparams"]["Model"]["temperature"]["description"] != "old"
    # A change of mind about the container counts as well.
    register(api, APP, NEW, project=project, container="img:2", container_arguments="--ipc=host")
    assert api.task(first.task_id)["container"] == {"image": "img:2", "arguments": "--ipc=host"}
    registered(api, project, NEW)
    assert not api.task(first.task_id)["container"]


def test_neither_instances_nor_clones_are_taken_for_the_template(
    api: ApiOf, project: str, queue: str
) -> None:
    request = Launch(APP, {"Model/model": "a/b/c.gguf"}, queue, OLD, project=project)
    instance = launch(request, api)
    template = registered(api, project).task_id
    clone = api.call("tasks", "clone", task=template, new_task_name=template_name(APP))["id"]
    again = registered(api, project, NEW)
    assert again == Registered("llamacpp", template, "updated")
    assert {task["id"] for task in api.tasks(project)} == {instance, template, clone}
    assert api.task(clone)["script"]["version_num"] == "a" * 40


def rename(api: ApiOf, task_id: str) -> None:
    api.call("tasks", "update", task=task_id, name="our llama")


def reset(api: ApiOf, task_id: str) -> None:
    api.call("tasks", "reset", task=task_id)


def tag(api: ApiOf, task_id: str) -> None:
    api.call("tasks", "update", task=task_id, tags=["ours"], comment="our words")


@pytest.mark.parametrize("happens", [rename, reset, tag])
def test_a_template_is_found_again_after(
    happens: Callable[[ApiOf, str], None], api: ApiOf, project: str
) -> None:
    first = registered(api, project)
    happens(api, first.task_id)
    assert registered(api, project).task_id == first.task_id
    (task,) = api.tasks(project)
    assert set(task["tags"]) - {"ours"} == {"clearml-deploy", "llamacpp"}
    assert ("ours" in task["tags"]) == (task["comment"] == "our words") == (happens is tag)


def test_an_archived_template_is_left_alone(api: ApiOf, project: str) -> None:
    first = registered(api, project)
    api.call("tasks", "archive", tasks=[first.task_id])
    second = registered(api, project)
    assert second.outcome == "created"
    assert second.task_id != first.task_id


def test_projects_have_templates_of_their_own(api: ApiOf, project: str) -> None:
    first = registered(api, project)
    below = registered(api, f"{project}/below")
    assert first.task_id != below.task_id
    assert (first.outcome, below.outcome) == ("created", "created")


def test_a_template_that_somebody_ran_is_a_draft_again(
    api: ApiOf, project: str, queue: str
) -> None:
    first = registered(api, project)
    api.call("tasks", "enqueue", task=first.task_id, queue_name=queue)
    with pytest.raises(
        ControlPlaneError, match=rf"{first.task_id}.*is queued.*clearml-deploy stop"
    ):
        registered(api, project)
    api.call("tasks", "started", task=first.task_id, force=True)
    with pytest.raises(ControlPlaneError, match="is in_progress"):
        registered(api, project)
    api.call("tasks", "stopped", task=first.task_id, force=True)
    assert registered(api, project) == Registered("llamacpp", first.task_id, "reset")
    assert api.task(first.task_id)["status"] == "created"
    api.call("tasks", "completed", task=first.task_id, force=True, publish=True)
    api.call("tasks", "publish", task=first.task_id, force=True)
    with pytest.raises(ControlPlaneError, match=r"is published.*Archive it"):
        registered(api, project)


def test_the_command_registers_all_apps_and_says_what_became_of_each(
    cli: Callable[..., subprocess.CompletedProcess[str]], api: ApiOf, project: str
) -> None:
    arguments = ("register", "--project", project, "--repository", "https://h/r.git")
    done = cli(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert [(row["app"], row["outcome"]) for row in rows] == [(a, "created") for a in APP_NAMES]
    for row in rows:
        assert api.task(row["task_id"])["script"]["entry_point"] == f"-m apps.{row['app']}"
    again = cli(*arguments, "llamacpp")
    assert again.stdout.split() == ["llamacpp", rows[0]["task_id"], "updated"]


def test_one_image_is_not_for_all_apps(
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = cli("register", "--docker", "img:1")
    assert done.returncode == 2
    assert "--docker names the image of one app" in done.stderr


def test_the_commands_know_a_draft_and_export_a_template_without_its_name(
    cli: Callable[..., subprocess.CompletedProcess[str]], api: ApiOf, project: str
) -> None:
    template = registered(api, project).task_id
    assert cli("stop", template).stdout == f"{template} is a draft\n"
    assert "is a draft and has no console" in cli("logs", template).stderr
    assert f"{template} is a draft: its key" in cli("key", template).stderr
    values = json.loads(cli("export", template).stdout)["values"]
    # An instance that had it would be taken for the template.
    assert "instance_name" not in values
    assert values["service_project"] == project


def test_no_key_of_a_task_of_somebody_elses_is_shown(
    cli: Callable[..., subprocess.CompletedProcess[str]], api: ApiOf
) -> None:
    given = {"section": "General", "name": "api_key", "value": "sesame"}
    task_id = api.call(
        "tasks",
        "create",
        name="a training",
        type="training",
        script={"entry_point": "train.py"},
        hyperparams={"General": {"api_key": given}},
    )["id"]
    done = cli("key", task_id)
    assert done.returncode == 1
    assert "is no instance of clearml-deploy: it runs train.py" in done.stderr
    assert "sesame" not in done.stdout + done.stderr
