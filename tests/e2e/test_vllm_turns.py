"""Two models on a real vLLM that take turns, with room for one of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from openai import OpenAI

from tests.e2e.instances import KEY, assert_all_gone, running_instance, wait_for
from tests.vllm.engine_environment import ENVIRON, GENERAL, READY_S, SMALL, installed_environment
from tests.vllm.tiny_models import make_model

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]


def test_two_models_take_turns_and_what_is_put_aside_keeps_its_weights_in_ram(
    tmp_path: Path,
) -> None:
    installed_environment()
    models = [
        {"model": str(make_model(tmp_path / name, seed=seed)), "model_endpoint_name": name, **SMALL}
        for seed, name in enumerate(("a", "b"))
    ]
    parameters = {
        **GENERAL,
        "Models/models": json.dumps(models),
        "Advanced/enable_automatic_cpu_offloading": "true",
        "General/max_cuda_memory_gib": "3",
    }
    with running_instance(
        parameters, app="vllm", environ=ENVIRON, ready_s=READY_S, serving=False
    ) as instance:
        wait_for(lambda: "Serving on" in instance.console, READY_S, "the gateway")

        def statuses() -> dict[str, str]:
            return {model["id"]: model["status"] for model in instance.models()}

        wait_for(lambda: statuses()["a"] == "ready", READY_S, "the first model")
        family = instance.family()
        with OpenAI(
            base_url=f"{instance.url}/v1", api_key=KEY, max_retries=0, timeout=READY_S
        ) as client:
            pieces = [
                piece.choices[0].text
                for piece in client.completions.create(
                    model="b", prompt="Hello", max_tokens=8, temperature=0, stream=True
                )
                if piece.choices
            ]
            assert len(pieces) >= 8, instance.console
            assert statuses() == {"a": "sleeping", "b": "ready"}
        assert "weights kept in host RAM" in instance.console
        family += instance.family()
        instance.process.terminate()
        assert instance.wait_end(60) == 0
    assert_all_gone(family, 10)
