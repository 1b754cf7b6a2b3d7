"""From a task as the server gives it to where an instance is on its way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.launch.follow import interpret


def task(task_status: str, *, reason: str = "", id: str = "t1", **values: str) -> dict[str, Any]:
    section = {name: {"value": value} for name, value in values.items()}
    return {
        "id": id,
        "status": task_status,
        "status_reason": reason,
        "hyperparams": {"Status": section},
    }


def models(*states: tuple[str, str]) -> str:
    return json.dumps(
        [
            {"name": f"m{n}", "url": "u", "status": s, "progress": p}
            for n, (s, p) in enumerate(states)
        ]
    )


@pytest.mark.parametrize(
    ("given", "stage"),
    [
        (task("created"), "queued"),
        (task("queued"), "queued"),
        (task("in_progress"), "picked up"),
        (task("in_progress", status="loading"), "picked up"),
        (
            task("in_progress", models=models(("loading", "downloading m: 1 of 2 MB"))),
            "downloading",
        ),
        (task("in_progress", models=models(("loading", "starting the engine"))), "loading"),
        (task("in_progress", models=models(("loading", ""), ("ready", ""))), "ready"),
        (task("in_progress", models="not JSON"), "picked up"),
        (task("in_progress", models="7"), "picked up"),
        (task("in_progress", models='[7, {"name": "m"}]'), "picked up"),
        (task("in_progress", session="t0", models=models(("ready", ""))), "picked up"),
        (task("in_progress", session="t1", models=models(("ready", ""))), "ready"),
        (task("stopped", models=models(("ready", ""))), "ended"),
        (task("failed"), "ended"),
        (task("completed"), "ended"),
        ({"id": "t1", "status": "queued", "hyperparams": None}, "queued"),
    ],
)
def test_stage(given: dict[str, Any], stage: str) -> None:
    assert interpret(given).stage == stage


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (["starting the engine"], "starting the engine"),
        (["Installing vLLM", "Installing vLLM"], "Installing vLLM"),
        (["downloading m: 1 of 2 MB", "starting the engine"], None),
        (["starting the engine", ""], "m0: starting the engine"),
        ([""], ""),
    ],
)
def test_progress_names_the_models_that_differ(steps: list[str], text: str | None) -> None:
    given = task("in_progress", models=models(*(("loading", step) for step in steps)))
    wanted = "m0: downloading m: 1 of 2 MB; m1: starting the engine" if text is None else text
    assert interpret(given).text == wanted
    assert interpret(given).stage == ("downloading" if text is None else "loading")


def test_the_instances_own_words_are_the_reason() -> None:
    idle = "no request for 4 hours"
    ended = task("completed", reason="worker execution done", stop_reason=idle)
    assert interpret(ended).reason == idle
    assert interpret(task("failed", reason="exit code 1", error="no GGUF")).reason == "no GGUF"
    assert interpret(task("failed", reason="exit code 1")).reason == "exit code 1"
    assert interpret(task("in_progress", reason="x", error="y")).reason == ""


def test_nothing_of_the_original_is_told_of_a_clone() -> None:
    clone = task("created", session="t0", api_key="cdk-other", endpoint="http://old", id="t2")
    assert interpret(clone).status == {}


@pytest.mark.parametrize("name", ["api_key", "fixed_api_access_key"])
def test_a_given_key_is_kept_out_of_texts(name: str) -> None:
    given = task("in_progress")
    given["hyperparams"]["General"] = {"api_key": {"value": ""}, name: {"value": "sk-mine"}}
    found = interpret(given)
    assert found.given_key == "sk-mine"
    assert "sk-mine" not in repr(found)
