"""Instances launched through a real queue by a real agent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import requests
from openai import OpenAI

from tests.e2e.conftest import Workplace
from tests.e2e.instances import assert_all_gone, wait_for

CLONE_AND_EDIT = """
import sys
from clearml import Task

template = Task.get_task(task_id=sys.argv[1])
task = Task.clone(template, name="a cooler clone")
task.set_parameter("Model/temperature", 0.25)
Task.enqueue(task, queue_name="default")
print(task.id)
"""


@pytest.fixture(autouse=True)
def nothing_left(workplace: Workplace) -> Iterator[None]:
    yield
    workplace.stop_all()


def engines_of(task_id: str) -> list[psutil.Process]:
    """Processes started for a task: the instance, its guards and engines."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CLEARML_TASK_ID") == task_id:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def ask(url: str, key: str, model: str) -> str:
    with OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "What is gravity?"}],
            max_tokens=16,
            temperature=0,
        )
    return answer.choices[0].message.content or ""


def test_an_instance_from_the_registry_through_the_queue_to_an_abort(
    workplace: Workplace, model_id: str
) -> None:
    task_id = workplace.launch(**{"Model/model": model_id, "Model/context_size": "1024"})
    status = workplace.wait_stage(task_id, "ready")
    (model,) = status["models"]
    # The registry's name has a space in it; an endpoint's name is part of a URL.
    assert model["name"] == "SmolLM2-test"
    key = workplace.cli("key", task_id).strip()
    assert "ravity" in ask(model["url"], key, model["name"])
    assert requests.get(f"{status['endpoint']}/v1/models", timeout=5).status_code == 401

    task = workplace.task(task_id)
    assert "stopping" not in (task.get("status_message") or "")
    assert key not in workplace.log(task_id)
    wanted = {"Total Number of Requests", "Tokens per Second", "Requests in Flight", "Memory (GiB)"}
    wait_for(
        lambda: {metric["metric"] for metric in _scalars(workplace, task_id)} >= wanted,
        60,
        str(wanted),
    )

    family = engines_of(task_id)
    assert any(
        "wheel_server" in " ".join(p.cmdline()) or "llama-server" in p.name() for p in family
    )
    started = time.monotonic()
    assert task_id in workplace.cli("stop", task_id)
    assert workplace.task(task_id)["status"] == "stopped"
    assert time.monotonic() - started < 45
    assert_all_gone(family, 5)
    assert workplace.status(task_id)["status"] == "stopped"

    # A clone, edited with the SDK alone, comes up with the value on its engine's command line.
    clone_id = workplace.script(CLONE_AND_EDIT, task_id)
    status = workplace.wait_stage(clone_id, "ready")
    assert status["session"] == clone_id
    commands = [process.cmdline() for process in engines_of(clone_id)]
    assert any(
        "--temp" in words and words[words.index("--temp") + 1] == "0.25" for words in commands
    )
    assert workplace.cli("key", clone_id).strip() != key
    family = engines_of(clone_id)
    workplace.cli("stop", clone_id)
    assert_all_gone(family, 5)


def _scalars(workplace: Workplace, task_id: str) -> list[dict[str, Any]]:
    metrics = workplace.task(task_id).get("last_metrics") or {}
    return [value for variants in metrics.values() for value in variants.values()]


def test_an_idle_instance_completes_its_task(workplace: Workplace, model_id: str) -> None:
    task_id = workplace.launch(
        **{
            "Model/model": model_id,
            "Model/context_size": "512",
            "Idle/idle_time_limit_hours": f"{3 / 3600:.6f}",
        }
    )
    workplace.wait_stage(task_id, "ended", 60)
    assert workplace.task(task_id)["status"] == "completed"
    status = workplace.status(task_id)
    assert status["status"] == "stopped"
    assert status["stop_reason"].startswith("no request for")


def test_a_bad_value_fails_the_task_with_its_reason(workplace: Workplace, model_id: str) -> None:
    # Launching refuses it at once; a clone edited in the UI can still hold it.
    refused = workplace.cli(
        "launch", "llamacpp", "--queue", "default", "--set", "Model/temperature=hot", check=False
    )
    assert "must be a number" in refused
    good = workplace.launch(**{"Model/model": model_id})
    code = CLONE_AND_EDIT.replace("0.25", "'hot'")
    task_id = workplace.script(code, good)
    workplace.cli("stop", good)
    workplace.wait_stage(task_id, "ended", 60)
    task = workplace.task(task_id)
    assert task["status"] == "failed"
    assert '"Temperature" (Model/temperature)' in task["status_reason"]
    # The agent ships the console in batches.
    wait_for(lambda: "must be a number" in workplace.log(task_id), 20, "the reason on the console")
    assert "must be a number" in workplace.status(task_id)["error"]


def test_an_unknown_model_id_fails_the_task_by_name(workplace: Workplace) -> None:
    unknown = "0123456789abcdef0123456789abcdef"
    task_id = workplace.launch(**{"Model/model": unknown})
    workplace.wait_stage(task_id, "ended", 60)
    task = workplace.task(task_id)
    assert task["status"] == "failed"
    assert unknown in task["status_reason"]
    assert_all_gone(engines_of(task_id), 15)
    # The agent is done with it too, and has left our reason alone.
    assert unknown in workplace.task(task_id)["status_reason"]


def test_an_unknown_queue_is_refused_with_those_there_are(workplace: Workplace) -> None:
    text = workplace.cli(
        "launch", "llamacpp", "--queue", "nowhere", "--set", "Model/model=a/b/c.gguf", check=False
    )
    assert "nowhere" in text
    assert "default" in text
