"""Users and who may read what."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from common.errors import UserError
from common.local_server import RunningServer, add_user, restrict
from common.local_server.client import ServerClient


def subcode(server: RunningServer, user: dict[str, Any], endpoint: str, **data: Any) -> int:
    response = requests.post(
        f"{server.api_url}/{endpoint}",
        json=data,
        auth=(user["access_key"], user["secret_key"]),
        timeout=10,
    )
    return int(response.json()["meta"]["result_subcode"])


@pytest.fixture(scope="module")
def project(clearml_server: RunningServer) -> dict[str, Any]:
    """A project with a task and a model that one of two further users may read."""
    server = clearml_server
    users = {name: add_user(server.data_dir, name) for name in ("anna", "bert")}
    with server.client() as owner:
        parent = owner.call("projects.create", name="closed")["id"]
        below = owner.call("projects.create", name="closed/below")["id"]
        task = owner.call("tasks.create", name="secret task", type="testing", project=below)["id"]
        model = owner.call("models.create", name="secret model", uri="x", project=below)["id"]
        owner.call("events.add", task=task, type="log", msg="secret", timestamp=1)
    restrict(server.data_dir, "closed", ["anna"])
    return {"id": parent, "below": below, "task": task, "model": model, **users}


@pytest.mark.parametrize(
    ("endpoint", "field", "kind", "refusal"),
    [
        ("tasks.get_by_id", "task", "task", 101),
        ("tasks.clone", "task", "task", 101),
        ("events.get_task_log", "task", "task", 101),
        ("models.get_by_id", "model", "model", 201),
        ("projects.get_by_id", "project", "below", 401),
    ],
)
def test_user_outside_the_list_gets_invalid_id(
    clearml_server: RunningServer,
    project: dict[str, Any],
    endpoint: str,
    field: str,
    kind: str,
    refusal: int,
) -> None:
    data = {field: project[kind]}
    assert subcode(clearml_server, project["bert"], endpoint, **data) == refusal
    assert subcode(clearml_server, project["anna"], endpoint, **data) == 0


def test_lists_hide_what_may_not_be_read(
    clearml_server: RunningServer, project: dict[str, Any]
) -> None:
    seen = {}
    for name in ("anna", "bert"):
        user = project[name]
        with ServerClient(clearml_server.api_url, user["access_key"], user["secret_key"]) as client:
            seen[name] = (
                [t["id"] for t in client.call("tasks.get_all", name="^secret task$")["tasks"]],
                [t["id"] for t in client.call("tasks.get_all", id=[project["task"]])["tasks"]],
                len(client.call("models.get_all", name="^secret")["models"]),
                len(client.call("projects.get_all", name="^closed")["projects"]),
            )
    assert project["task"] in seen["anna"][0]
    assert seen["anna"][1:] == ([project["task"]], 1, 2)
    assert seen["bert"] == ([], [], 0, 0)


def test_files_of_a_hidden_task_are_hidden(
    clearml_server: RunningServer, project: dict[str, Any]
) -> None:
    path = f"closed/below/secret%20task.{project['task']}/artifacts/a.txt"
    url = f"{clearml_server.files_url}/{path}"
    owner = (clearml_server.access_key, clearml_server.secret_key)
    name = requests.utils.unquote(path)
    upload = requests.post(
        clearml_server.files_url, files={name: ("a.txt", b"secret")}, auth=owner, timeout=10
    )
    assert upload.status_code == 200
    status = {
        name: requests.get(
            url, auth=(project[name]["access_key"], project[name]["secret_key"]), timeout=10
        ).status_code
        for name in ("anna", "bert")
    }
    assert status == {"anna": 200, "bert": 404}


def test_user_has_a_name_and_no_admin_role(
    clearml_server: RunningServer, project: dict[str, Any]
) -> None:
    user = project["bert"]
    with ServerClient(clearml_server.api_url, user["access_key"], user["secret_key"]) as client:
        me = client.call("users.get_current_user")["user"]
        everyone = client.call("users.get_all")["users"]
    assert (me["name"], me["role"], me["id"]) == ("bert", "user", user["id"])
    assert {"local", "anna", "bert"} <= {one["name"] for one in everyone}


def test_lifting_the_limit_shows_the_project_again(clearml_server: RunningServer) -> None:
    user = add_user(clearml_server.data_dir, "carl")
    with clearml_server.client() as owner:
        project = owner.call("projects.create", name="for a while")["id"]
    restrict(clearml_server.data_dir, "for a while", [])
    assert subcode(clearml_server, user, "projects.get_by_id", project=project) == 401
    restrict(clearml_server.data_dir, "for a while", None)
    assert subcode(clearml_server, user, "projects.get_by_id", project=project) == 0


def test_unknown_names_are_reported_together(clearml_server: RunningServer) -> None:
    with pytest.raises(UserError) as caught:
        restrict(clearml_server.data_dir, "no such project", ["nobody", "local"])
    assert "no project 'no such project'" in str(caught.value)
    assert "no user 'nobody'" in str(caught.value)
    add_user(clearml_server.data_dir, "dora")
    with pytest.raises(UserError, match="exists already"):
        add_user(clearml_server.data_dir, "dora")
