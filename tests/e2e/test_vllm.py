"""The vLLM app through the local queue, a real agent and a real vLLM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from openai import OpenAI

from tests.e2e.conftest import Workplace
from tests.e2e.instances import assert_all_gone, wait_for
from tests.e2e.test_through_agent import engines_of
from tests.vllm.engine_environment import GENERAL, READY_S, SMALL, installed_environment
from tests.vllm.tiny_models import make_adapter, make_model

pytestmark = [pytest.mark.engine, pytest.mark.timeout(500)]

REGISTER_PACKAGE = """
import sys
from clearml import OutputModel, Task

task = Task.init("models", "registers a package", reuse_last_task_id=False, output_uri=True)
for name, folder in (("Tiny", sys.argv[1]), ("Adapter", sys.argv[2])):
    model = OutputModel(task=task, name=name, framework="PyTorch")
    # Without a name of its own the second package would replace the first.
    model.update_weights_package(
        weights_path=folder, auto_delete_file=False, target_filename=f"{name}.zip"
    )
    print(model.id)
task.close()
"""


@pytest.fixture(autouse=True)
def nothing_left(workplace: Workplace) -> Iterator[None]:
    installed_environment()
    yield
    workplace.stop_all()


@pytest.fixture(scope="module")
def registered(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A model and an adapter in the registry, packages both; their IDs."""
    folder = tmp_path_factory.mktemp("registered")
    paths = (make_model(folder / "tiny"), make_adapter(folder / "adapter"))
    lines = workplace.script(REGISTER_PACKAGE, *map(str, paths)).splitlines()
    model, adapter = (line for line in lines if len(line) == 32)
    return model, adapter


def launch(workplace: Workplace, app: str, **parameters: object) -> str:
    """Launch an app with the small settings; the task's ID."""
    given = {"General/host": "127.0.0.1", **parameters}
    sets = [word for path, value in given.items() for word in ("--set", f"{path}={value}")]
    return workplace.cli(
        "launch", app, "--queue", "default", "--name", f"test {app}", *sets
    ).split()[0]


def family_of(task_id: str) -> list[psutil.Process]:
    """A task's processes; those that vLLM renames no longer show their environment."""
    found = engines_of(task_id)
    below = (child for process in found for child in process.children(recursive=True))
    return list({process.pid: process for process in (*found, *below)}.values())


def loading_family_of(task_id: str) -> list[psutil.Process]:
    """A task's processes once the one that loads the weights is among them; none before."""
    try:
        family = family_of(task_id)
        is_loading = any("EngineCore" in " ".join(process.cmdline()) for process in family)
    except psutil.NoSuchProcess:
        return []
    return family if is_loading else []


def test_model_and_adapter_of_the_registry_until_an_abort(
    workplace: Workplace, registered: tuple[str, str]
) -> None:
    model_id, adapter_id = registered
    task_id = launch(
        workplace,
        "vllm",
        **GENERAL,
        **{f"Model/{name}": value for name, value in SMALL.items()},
        **{
            "Model/model": model_id,
            "LoRA/enable_lora": "true",
            "LoRA/lora_modules": f"sql={adapter_id}",
        },
    )
    status = workplace.wait_stage(task_id, "ready", READY_S)
    key = workplace.cli("key", task_id).strip()
    with OpenAI(base_url=f"{status['endpoint']}/v1", api_key=key, max_retries=0) as client:
        listed = {model.id: model.model_dump() for model in client.models.list()}
        assert set(listed) == {"Tiny", "sql"}
        assert listed["sql"]["parent"] == "Tiny"
        texts = [
            client.completions.create(model=name, prompt="Hello", max_tokens=8, temperature=0)
            .choices[0]
            .text
            for name in listed
        ]
        assert texts[0] != texts[1]
        answer = client.chat.completions.create(
            model="Tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=4
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
    assert requests.get(f"{status['endpoint']}/v1/models", timeout=5).status_code == 401
    assert key not in workplace.log(task_id)

    family = family_of(task_id)
    assert any("EngineCore" in " ".join(process.cmdline()) for process in family)
    workplace.cli("stop", task_id)
    assert workplace.task(task_id)["status"] == "stopped"
    assert_all_gone(family, 10)


def test_an_abort_while_vllm_loads_stops_the_task(workplace: Workplace, tmp_path: Path) -> None:
    model = {"model": str(make_model(tmp_path / "tiny")), **SMALL}
    task_id = launch(workplace, "vllm", **GENERAL, **{"Models/models": json.dumps([model])})
    family = wait_for(lambda: loading_family_of(task_id), READY_S, "an engine that loads")
    workplace.cli("stop", task_id)
    assert workplace.task(task_id)["status"] == "stopped"
    assert_all_gone(family, 10)
    assert "ready after" not in workplace.log(task_id)


def test_a_context_that_is_too_long_fails_the_task_by_name(
    workplace: Workplace, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "tiny")
    listed = json.dumps([{"model": str(model), "max_context_length": 4096}])
    task_id = launch(workplace, "vllm", **GENERAL, **{"Models/models": listed})
    workplace.wait_stage(task_id, "ended", READY_S)
    task = workplace.task(task_id)
    assert task["status"] == "failed"
    assert (
        '"Max Context Length" (Models/models[0].max_context_length) = 4096'
        in (task["status_reason"])
    )
    assert "the model's own 512" in task["status_reason"]
    assert_all_gone(family_of(task_id), 15)
