"""The four ways to launch: a form's entry, the command line, a clone of a template, the plain SDK.

All make the same task, and each of them serves, through a real agent, from each kind of source.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import OpenAI

from common.demo.model import packaged_model
from tests.e2e.conftest import Workplace
from tests.e2e.instances import KEY, ROOT

IDLE_QUEUE = "served-by-nobody"
CONTAINER = ("--docker", "img:1", "--docker-args", "--ipc=host")

LAUNCH_ENTRY = """
import json, sys
from common.cli.inputs import load_app
from common.clearml.api import ClearMLApi
from common.launch.launcher import launch_entry
from common.launch.source import choose_source
given = json.loads(sys.argv[1])
app = load_app(given["app"])
source = choose_source(given["source"], app.name)
print(launch_entry(app, given["entry"], source, ClearMLApi(), **given["more"]))
"""

CLONE_WITH_SDK = """
import json, sys
from clearml import Task
template = Task.get_task(task_id=sys.argv[1])
task = Task.clone(template, name="by the SDK")
task.update_parameters(json.loads(sys.argv[2]))
Task.enqueue(task, queue_name=sys.argv[3])
print(task.id)
"""


@pytest.fixture(autouse=True)
def nothing_left(workplace: Workplace) -> Iterator[None]:
    yield
    workplace.stop_all()


@pytest.fixture(scope="module")
def idle_queue(workplace: Workplace) -> str:
    with workplace.server.client() as client:
        client.call("queues.create", name=IDLE_QUEUE)
    return IDLE_QUEUE


def register(workplace: Workplace, app: str, *arguments: str) -> str:
    rows = json.loads(workplace.cli("register", app, "--json", *arguments))
    return str(rows[0]["task_id"])


def sets(parameters: dict[str, str]) -> list[str]:
    return [word for path, value in parameters.items() for word in ("--set", f"{path}={value}")]


def what_counts(task: dict[str, Any]) -> dict[str, Any]:
    """A task without what is its own alone: ID, name, times, project, parent."""
    fields = ("type", "tags", "system_tags", "script", "container", "comment", "status")
    flat = {
        f"{section}/{name}": {key: value for key, value in item.items() if value}
        for section, items in task["hyperparams"].items()
        for name, item in items.items()
    }
    return {"parameters": flat, **{name: task[name] for name in fields}}


# What a person fills in, as parameters and as the form's entry; several models, and one.
CASES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "llamacpp": (
        {
            "Models/models": json.dumps(
                [{"model": "a/b/c.gguf", "context_size": 512}, {"model": "d/e/f.gguf"}]
            ),
            "General/port": "8800",
            "Idle/idle_time_limit_hours": "0.5",
        },
        {
            "models": [{"model": "a/b/c.gguf", "context_size": 512}, {"model": "d/e/f.gguf"}],
            "general_port": "8800",
            "idle_idle_time_limit_hours": 0.5,
        },
    ),
    "vllm": (
        {
            "Models/models": json.dumps(
                [
                    {"enforce_eager": True, "model": "org/repo", "max_context_length": 4096},
                    {"model": "org/other", "dtype": "float16"},
                ]
            ),
            "LoRA/enable_lora": "true",
            "LoRA/lora_modules": "org/repo:sql=org/adapter",
            "General/vllm_version": "0.10.0",
            "Advanced/task": "generate",
        },
        {
            "models": [
                {"model": "org/repo", "max_context_length": 4096, "enforce_eager": True},
                {"model": "org/other", "dtype": "float16"},
            ],
            "lora_enable_lora": True,
            "lora_lora_modules": "org/repo:sql=org/adapter",
            "general_vllm_version": "0.10.0",
            "advanced_task": "generate",
        },
    ),
    "legacy_model": (
        {"Model/model": "org/repo", "Model/max_model_length": "4096"},
        {"model": "org/repo", "max_model_length": 4096},
    ),
}


@pytest.mark.parametrize(
    ("app", "source"), [("llamacpp", "local"), ("vllm", "local"), ("legacy_model", "installed")]
)
def test_the_four_ways_make_the_same_task(
    app: str, source: str, workplace: Workplace, idle_queue: str, tmp_path: Path
) -> None:
    """And a fifth: the exported configuration of one of them, launched."""
    parameters, entry = CASES[app]
    given = {
        "app": app,
        "source": source,
        "entry": {**entry, "queue": idle_queue},
        "more": {"container": "img:1", "container_arguments": "--ipc=host"},
    }
    template = register(workplace, app, "--source", source, *CONTAINER)
    ways = {
        "form": workplace.script(LAUNCH_ENTRY, json.dumps(given)).split()[-1],
        "command": workplace.cli(
            *("launch", app, "--queue", idle_queue, "--source", source),
            *(*CONTAINER, *sets(parameters)),
        ).strip(),
        "clone": workplace.cli("clone", template, "--queue", idle_queue, *sets(parameters)).strip(),
        "SDK": workplace.script(
            CLONE_WITH_SDK, template, json.dumps(parameters), idle_queue
        ).split()[-1],
    }
    file = tmp_path / "exported.json"
    workplace.cli("export", ways["form"], "-o", str(file))
    ways["export"] = workplace.cli(
        "launch", app, "--config", str(file), "--source", source, *CONTAINER
    ).strip()
    tasks = {way: what_counts(workplace.task(task_id)) for way, task_id in ways.items()}
    with workplace.server.client() as client:
        for task_id in ways.values():
            client.call("tasks.dequeue", task=task_id)
    form = tasks.pop("form")
    for path, value in parameters.items():
        assert form["parameters"][path]["value"] == value
    assert form["parameters"]["General/drain_seconds"]["value"] == "30.0"
    assert form["script"]["entry_point"] == f"-m apps.{app}"
    assert (form["type"], form["tags"], form["status"]) == (
        "inference",
        ["clearml-deploy", app],
        "queued",
    )
    for way, task in tasks.items():
        for field, value in form.items():
            assert task[field] == value, (way, field)


def docs_example(**replaced: str) -> str:
    """The SDK's lines of the page on launching, with its placeholders replaced."""
    page = (ROOT / "docs" / "launching.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(from clearml import Task\n.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) <= 10
    for placeholder, value in replaced.items():
        assert placeholder in code
        code = code.replace(placeholder, value)
    return str(code)


def working_folder(task_id: str) -> Path:
    """Where the agent runs a task."""
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if process.environ().get("CLEARML_TASK_ID") == task_id and "apps.llamacpp" in words:
                return Path(process.cwd())
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    raise AssertionError(f"no process runs {task_id}")


def chat(url: str, model: str) -> str:
    with OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "What is gravity?"}],
            max_tokens=8,
            temperature=0,
        )
    return answer.choices[0].message.content or ""


def head() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.timeout(300)
def test_each_way_serves_through_the_agent(workplace: Workplace) -> None:
    """A form from this checkout, a command from a git URL, clones from the agent's own environment."""
    model = str(packaged_model())
    parameters = {
        "Model/model": model,
        "Model/context_size": "512",
        "General/host": "127.0.0.1",
        "General/engine": "xllamacpp",
        "General/api_key": KEY,
    }
    entry = {
        "models": [{"model": model, "context_size": 512}],
        "general_host": "127.0.0.1",
        "general_engine": "xllamacpp",
        "general_api_key": KEY,
        "queue": "default",
    }
    given = {"app": "llamacpp", "source": "local", "entry": entry, "more": {}}
    template = register(workplace, "llamacpp", "--source", "installed")
    # All wait in one queue, for the agent runs one at a time.
    form = workplace.script(LAUNCH_ENTRY, json.dumps(given)).split()[-1]
    command = workplace.cli(
        *("launch", "llamacpp", "--queue", "default", "--repository", ROOT.as_uri()),
        *("--commit", head(), *sets(parameters)),
    ).strip()
    clone = workplace.cli("clone", template, "--queue", "default", *sets(parameters)).strip()
    code = docs_example(
        TEMPLATE_ID=template,
        **{'"Qwen/Qwen2.5-3B-Instruct-GGUF/qwen2.5-3b-instruct-q4_0.gguf"': json.dumps(model)},
        **{
            '"gpu"': '"default"',
            "Task.enqueue(": f"task.update_parameters({parameters})\nTask.enqueue(",
        },
    )
    workplace.script(code)
    with workplace.server.client() as client:
        (found,) = client.call("tasks.get_all", name="^qwen, cooler$")["tasks"]
    sdk = str(found["id"])

    for task_id in (form, command, clone, sdk):
        (served,) = workplace.wait_stage(task_id, "ready")["models"]
        assert "ravity" in chat(served["url"], served["name"])
        folder = working_folder(task_id)
        is_cloned = task_id in (form, command)
        assert (folder / "apps" / "llamacpp").is_dir() == is_cloned, folder
        assert not folder.is_relative_to(ROOT)
        workplace.cli("stop", task_id)
    assert workplace.task(sdk)["hyperparams"]["Model"]["temperature"]["value"] == "0.2"
