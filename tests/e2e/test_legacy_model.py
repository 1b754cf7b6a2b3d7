"""The legacy app through the local queue, a real agent and a real vLLM."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import AuthenticationError, OpenAI

from tests.e2e.conftest import Workplace
from tests.e2e.instances import KEY, assert_all_gone
from tests.e2e.test_vllm import family_of, launch
from tests.vllm.engine_environment import GENERAL, READY_S, installed_environment
from tests.vllm.tiny_models import make_model

pytestmark = [pytest.mark.engine, pytest.mark.timeout(500)]


@pytest.fixture(autouse=True)
def nothing_left(workplace: Workplace) -> Iterator[None]:
    installed_environment()
    yield
    workplace.stop_all()


def test_the_dashboard_has_all_that_a_client_needs_until_it_is_idle(
    workplace: Workplace, tmp_path: Path
) -> None:
    task_id = launch(
        workplace,
        "legacy_model",
        **{
            "General/vllm_version": GENERAL["General/vllm_version"],
            "General/fixed_api_access_key": KEY,
            "General/enforce_eager": "true",
            "Model/model": str(make_model(tmp_path / "tiny")),
            "Model/max_model_length": "256",
            "Idle/idle_time_limit_hours": f"{15 / 3600:.6f}",
        },
    )
    workplace.wait_stage(task_id, "ready", READY_S)
    family = family_of(task_id)
    assert any("EngineCore" in " ".join(process.cmdline()) for process in family)
    shown = workplace.task(task_id)["hyperparams"]["Status"]
    values = {name: item["value"] for name, item in shown.items()}
    assert values["api_key"] == KEY
    with OpenAI(base_url=values["api_base"], api_key=values["api_key"], max_retries=0) as client:
        answer = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=4
        )
        assert answer.usage is not None
    with (
        OpenAI(base_url=values["api_base"], api_key="another", max_retries=0) as other,
        pytest.raises(AuthenticationError),
    ):
        other.models.list()
    done = subprocess.run(
        values["test_command"], shell=True, capture_output=True, text=True, timeout=60
    )
    assert '"choices"' in done.stdout, done.stderr
    assert KEY not in workplace.log(task_id)

    workplace.wait_stage(task_id, "ended", 120)
    assert workplace.task(task_id)["status"] == "completed"
    assert workplace.status(task_id)["status"] == "stopped"
    assert_all_gone(family, 10)
