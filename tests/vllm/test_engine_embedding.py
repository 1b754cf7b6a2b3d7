"""A real vLLM that embeds because "Task" says so."""

from __future__ import annotations

import pytest
from openai import OpenAI

from apps.vllm.environments.layout import EngineEnvironment
from tests.e2e.instances import KEY, running_instance
from tests.vllm.conftest import TinyModels
from tests.vllm.engine_environment import ENVIRON, GENERAL, READY_S, SMALL

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]


def test_a_task_makes_a_chat_model_an_embedder(
    vllm_environment: EngineEnvironment, tiny: TinyModels
) -> None:
    parameters = {
        **GENERAL,
        **{f"Model/{name}": value for name, value in SMALL.items()},
        "Model/model": str(tiny.base),
        "Model/model_endpoint_name": "embed",
        "Advanced/task": "embedding",
    }
    with (
        running_instance(parameters, app="vllm", environ=ENVIRON, ready_s=READY_S) as instance,
        OpenAI(base_url=f"{instance.url}/v1", api_key=KEY, max_retries=0) as client,
    ):
        assert "--runner pooling --convert embed" in instance.console, instance.console
        answer = client.embeddings.create(model="embed", input=["red", "green", "red"])
        red, green, again = (item.embedding for item in answer.data)
        assert len(red) == len(green) == 64
        assert red == pytest.approx(again, abs=1e-4)
        assert red != pytest.approx(green, abs=1e-2)
        assert sum(number * number for number in red) == pytest.approx(1, abs=1e-3)
        assert answer.usage.prompt_tokens == len("redgreenred")
