"""What a launched task carries, and what an instance writes to it, on a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apps.llamacpp.options import LlamaCppSettings
from apps.vllm.options import VllmSettings
from common.clearml.parameters import parameter_items
from common.local_server import RunningServer
from tests.fixtures_clearml import clearml_environment

ROOT = Path(__file__).parents[2]


def by_path(items: Any) -> dict[str, dict[str, str]]:
    return {f"{item['section']}/{item['name']}": item for item in items}


def test_every_option_is_there_once_with_type_and_description() -> None:
    listed = parameter_items(LlamaCppSettings, {"Model/temperature": 0.25, "General/port": "8800"})
    items = by_path(listed)
    assert len(items) == len(listed)
    assert items["Model/temperature"]["value"] == "0.25"
    assert items["Model/temperature"]["type"] == "float"
    assert items["Model/model"]["value"] == ""
    assert all(item["description"] and item["type"] for item in listed)
    declared = {option.path for option in LlamaCppSettings.options(entry=False)}
    assert items.keys() == declared | {"Models/models"}


def test_descriptions_tell_what_may_be_entered() -> None:
    items = by_path(parameter_items(LlamaCppSettings, {}))
    for option in LlamaCppSettings.options(entry=False):
        description = items[option.path]["description"]
        assert description.startswith(f"{option.title}: {option.help}")
        assert "Choices: true, false." in description or option.type != "boolean"
        for choice in option.choices:
            assert choice in description.partition("Choices: ")[2]
    assert items["Model/model"]["description"].endswith("Required, unless Models/models is set.")
    others = by_path(parameter_items(VllmSettings, {}))["General/guided_decoding_backend"]
    assert "others are left to the engine" in others["description"]


def test_a_list_of_models_is_stored_as_json() -> None:
    models = [{"model": "a/b/c.gguf"}, {"model": "d/e/f.gguf"}]
    value = by_path(parameter_items(LlamaCppSettings, {"Models/models": models}))["Models/models"]
    assert json.loads(value["value"]) == models


# Opens the task as a run by hand does; prints what the server has after each step.
WRITE = """
import json, os, sys, time
from common.clearml.api import ClearMLApi
from common.clearml.instance import InstanceTask
from common.clearml.task import open_task
warnings = []
task = open_task(project="a project", name="instance", offline=False)
api = ClearMLApi()
api.call("tasks", "edit_hyper_params", task=task.id, force=True, hyperparams=[
    {"section": "Status", "name": "api_key", "value": "old"},
    {"section": "Status", "name": "models", "value": "[]"},
    {"section": "properties", "name": "endpoint", "value": "http://old"},
])
report = InstanceTask(task, api, warnings.append)
def read():
    assert report._outbox.flush(20)
    found = api.call("tasks", "get_by_id", task=task.id)["task"]
    return {s: {k: v["value"] for k, v in p.items()} for s, p in found["hyperparams"].items()}
report.reset_status()
seen = {"reset": read()}
report.set_status({"status": "idle", "endpoint": "http://new", "models_table": "<table>"})
seen["set"] = read()
report.report_scalars([("Queue", "m", 1.0)])
seen["taken"] = report.finish(sys.argv[1], "why it ended", "", 20)
found = api.call("tasks", "get_by_id", task=task.id)["task"]
seen["end"] = [found["status"], found["status_reason"]]
seen["warnings"] = warnings
print("SEEN", json.dumps(seen))
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize("ending", ["completed", "stopped", "failed"])
def test_status_starts_clean_and_the_end_is_marked(
    ending: str, clearml_server: RunningServer, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITE, ending],
        env=clearml_environment(clearml_server, tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    assert lines, done.stdout + done.stderr
    seen = json.loads(lines[0].removeprefix("SEEN "))
    assert seen["reset"]["Status"] == {"status": "loading"}
    assert seen["reset"]["properties"] == {
        "status": "loading",
        "endpoint": "",
        "idle_hours": "",
        "last_action": "",
        "models_ready": "",
        "requests": "",
    }
    assert seen["set"]["Status"] == {
        "status": "idle",
        "endpoint": "http://new",
        "models_table": "<table>",
    }
    assert seen["set"]["properties"]["endpoint"] == "http://new"
    assert "models_table" not in seen["set"]["properties"]
    assert seen["taken"] is True
    assert seen["end"] == [ending, "why it ended"]
    assert seen["warnings"] == []
