"""What a form sends, launched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.cli.inputs import load_app
from common.errors import ConfigurationError
from common.launch.launcher import launch_entry
from common.launch.source import git_url
from tests.launch.conftest import ApiOf

APP = load_app("llamacpp")
SOURCE = git_url("https://h/r.git", "main", "c" * 40, "llamacpp")


def test_an_entry_makes_the_task_that_it_describes(api: ApiOf, queue: str) -> None:
    entry = {
        "instance_name": "from a form",
        "service_project": "forms",
        "queue": queue,
        "models": [{"model": "a/b/c.gguf", "temperature": 0.5, "top_k": ""}],
        "general_port": "8800",
        "idle_idle_time_limit_hours": "",
    }
    told: list[str] = []
    task_id = launch_entry(APP, entry, SOURCE, api, container="img:1", warn=told.append)
    (task,) = api.tasks("forms")
    assert (task["id"], task["name"], task["status"]) == (task_id, "from a form", "queued")
    listed = json.loads(task["hyperparams"]["Models"]["models"]["value"])
    assert listed == [{"model": "a/b/c.gguf", "temperature": 0.5}]
    assert task["hyperparams"]["General"]["port"]["value"] == "8800"
    assert task["container"]["image"] == "img:1"
    assert told == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"queue": " "}, '"Queue" (queue): is required'),
        ({"general_prot": "1"}, "general_port"),
        ({"models": []}, "Model/model"),
        ({"models": [{"model": "a/b/c.gguf", "top_k": "x"}]}, "must be a whole number"),
    ],
)
def test_what_is_wrong_with_an_entry_is_said_before_there_is_a_task(
    change: dict[str, Any], words: str, api: ApiOf, queue: str
) -> None:
    before = len(api.tasks("forms"))
    entry = {"queue": queue, "service_project": "forms", "models": [{"model": "a/b/c.gguf"}]}
    with pytest.raises(ConfigurationError) as raised:
        launch_entry(APP, {**entry, **change}, SOURCE, api)
    assert words in str(raised.value)
    assert len(api.tasks("forms")) == before
