"""The legacy form: its own names for the same engine, one model, and its key."""

from __future__ import annotations

from typing import Any

import pytest

from apps.legacy_model.options import LegacySettings
from apps.vllm.lora import LoraModule
from apps.vllm.request import EngineRequest
from common.errors import Problem
from common.options.loading import load_settings
from common.options.memory import MemorySettings
from tests.declarations import OURS_IN_GENERAL, Field, assert_declares, options_by_path, problems_of

MODEL = {"Model/model": "org/repo"}

# The seed's fields in its order, with the flag that each stands for; None where it is the instance's.
SEED: dict[str, list[Field]] = {
    "Model": [
        ("Model", "model", None),
        ("Trust Remote Code", "trust_remote_code", "--trust-remote-code"),
        ("Revision", "revision", "--revision"),
        ("Code Revision", "code_revision", "--code-revision"),
        ("Max Model Length", "max_model_length", "--max-model-len"),
        ("Tokenizer", "tokenizer", "--tokenizer"),
        ("Tokenizer Revision", "tokenizer_revision", "--tokenizer-revision"),
        ("Tokenizer Mode", "tokenizer_mode", "--tokenizer-mode"),
    ],
    "LoRA": [
        ("Enable LoRA", "enable_lora", "--enable-lora"),
        ("LoRA Modules", "lora_modules", "--lora-modules"),
        ("Max LoRAs", "max_loras", "--max-loras"),
        ("Max LoRA Rank", "max_lora_rank", "--max-lora-rank"),
        ("LoRA Extra Vocabulary Size", "lora_extra_vocabulary_size", "--lora-extra-vocab-size"),
        ("LoRA Dtype", "lora_dtype", "--lora-dtype"),
        ("Max CPU LoRAs", "max_cpu_loras", "--max-cpu-loras"),
    ],
    "General": [
        ("Disable Log Stats", "disable_log_stats", "--disable-log-stats"),
        ("Enforce Eager", "enforce_eager", "--enforce-eager"),
        ("Disable Custom All Reduce", "disable_custom_all_reduce", "--disable-custom-all-reduce"),
        ("Disable Logging Requests", "disable_logging_requests", "--disable-log-requests"),
        ("Fixed API Access Key", "fixed_api_access_key", None),
        ("HuggingFace Token", "hugging_face_token", None),
        ("Load Format", "load_format", "--load-format"),
        ("Dtype", "dtype", "--dtype"),
        ("KV Cache Type", "kv_cache_type", "--kv-cache-dtype"),
        ("Pipeline Parallel Size", "pipeline_parallel_size", "--pipeline-parallel-size"),
        ("Tensor Parallel Size", "tensor_parallel_size", "--tensor-parallel-size"),
        (
            "Max Parallel Loading Workers",
            "max_parallel_loading_workers",
            "--max-parallel-loading-workers",
        ),
        ("Token Block Size", "token_block_size", "--block-size"),
        ("Random Seed", "random_seed", "--seed"),
        ("Swap Space", "swap_space", "--swap-space"),
        ("GPU Memory Utilization", "gpu_memory_utilization", "--gpu-memory-utilization"),
        (
            "Max Number of Batched Tokens",
            "max_number_of_batched_tokens",
            "--max-num-batched-tokens",
        ),
        ("Max Number of Sequences", "max_number_of_sequences", "--max-num-seqs"),
        ("Max Number of Paddings", "max_number_of_paddings", "--max-paddings"),
        ("Quantization", "quantization", "--quantization"),
        (
            "Max Context Length to Capture",
            "max_context_length_to_capture",
            "--max-seq-len-to-capture",
        ),
        ("Max Log Length", "max_log_length", "--max-log-len"),
    ],
    "Idle": [("Idle Time Limit (Hours)", "idle_time_limit_hours", None)],
}


def load(parameters: dict[str, Any]) -> LegacySettings:
    return load_settings(LegacySettings, parameters).settings


def problems(parameters: dict[str, Any]) -> list[Problem]:
    return problems_of(LegacySettings, parameters)


def test_every_field_of_the_seed_is_declared_in_its_order_with_its_flag() -> None:
    assert_declares(LegacySettings, SEED, ("vllm_version", *OURS_IN_GENERAL))


def test_the_form_asks_first_for_project_task_and_queue() -> None:
    entry = [option.title for option in LegacySettings.options() if not option.path]
    assert entry == ["Project Name", "Task Name", "Queue"]


def test_choices_and_secrets_come_from_the_declarations() -> None:
    options = options_by_path(LegacySettings)
    assert all(len(option.help) > 10 for option in options.values())
    assert {path for path, option in options.items() if option.secret} == {
        "General/fixed_api_access_key",
        "General/hugging_face_token",
        "General/api_key",
    }
    assert set(options["General/dtype"].choices) == {
        "auto",
        "half",
        "float16",
        "bfloat16",
        "float",
        "float32",
    }
    assert options["General/kv_cache_type"].choices == ("auto", "fp8_e5m2")
    assert options["LoRA/lora_dtype"].choices == ("auto", "float16", "bfloat16", "float32")


def test_text_and_typed_values_say_the_engine_the_same() -> None:
    text = {
        "Model/max_model_length": "128",
        "General/tensor_parallel_size": "2",
        "General/load_format": "Dummy",
        "General/kv_cache_type": "ffp8_e5m2",
        "General/gpu_memory_utilization": "0.5",
        "General/max_number_of_paddings": "256",
        "General/enforce_eager": "true",
        "LoRA/max_lora_rank": "8",
    }
    typed = {
        "Model/max_model_length": 128,
        "General/tensor_parallel_size": 2,
        "General/load_format": "dummy",
        "General/kv_cache_type": "fp8_e5m2",
        "General/gpu_memory_utilization": 0.5,
        "General/max_number_of_paddings": 256,
        "General/enforce_eager": True,
        "LoRA/max_lora_rank": 8,
    }
    first, second = (load({**MODEL, **given}) for given in (text, typed))
    assert first == second
    request = EngineRequest(first.models[0], first)
    assert {given.flag: given.value for given in request.given} == {
        "--max-model-len": 128,
        "--tensor-parallel-size": 2,
        "--load-format": "dummy",
        "--kv-cache-dtype": "fp8_e5m2",
        "--gpu-memory-utilization": 0.5,
        "--max-paddings": 256,
        "--enforce-eager": True,
        "--max-lora-rank": 8,
    }


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"Model/max_context_length": "8"}, "Model/max_context_length", "did you mean"),
    ({"General/max_model_length": "8"}, "General/max_model_length", '"Model/max_model_length"'),
    ({"General/gpu_memory_utilization": "90"}, "General/gpu_memory_utilization", "at most 1"),
    ({"General/dtype": "int4"}, "General/dtype", "'bfloat16'"),
    ({"General/vllm_version": "0.4.3"}, "General/vllm_version", "0.6.6 and later"),
    ({"Model/tokenizer": "gpt2"}, "Model/tokenizer", "no model reference"),
    ({"Model/model": "a/b@x", "Model/revision": "y"}, "Model/revision", "'x'"),
    ({"LoRA/lora_modules": "a=org/a"}, "LoRA/lora_modules", '"Enable LoRA" (LoRA/enable_lora)'),
    (
        {"LoRA/enable_lora": "true", "LoRA/lora_modules": "x:a=org/a"},
        "LoRA/lora_modules",
        'known: "org/repo"',
    ),
    (
        {"LoRA/max_loras": "4", "LoRA/max_cpu_loras": "3"},
        "LoRA/max_cpu_loras",
        '"Max LoRAs" (LoRA/max_loras)',
    ),
    (
        {"Idle/last_action_report_interval_seconds": "5"},
        "Idle/last_action_report_interval_seconds",
        "",
    ),
]


@pytest.mark.parametrize(("given", "path", "words"), WRONG)
def test_what_cannot_work_is_said_before_anything_starts(
    given: dict[str, Any], path: str, words: str
) -> None:
    (problem,) = problems({**MODEL, **given})
    assert problem.path == path
    assert words in problem.message


def test_more_than_one_model_is_for_the_vllm_app() -> None:
    listed = [{"model": "org/a"}, {"model": "org/b", "revision": 7}]
    found = problems({"Models/models": listed})
    assert [problem.path for problem in found] == ["Models/models"]
    assert "vLLM Model Deployment app (vllm)" in found[0].message
    assert load({"Models/models": [{"model": "org/a"}]}).models[0].reference == "org/a"


def test_the_key_of_the_form_is_the_key_of_clients() -> None:
    fixed, common = {"General/fixed_api_access_key": "sesame"}, {"General/api_key": "sesame"}
    assert load(MODEL).general.client_key is None
    for given in (fixed, common, {**fixed, **common}):
        settings = load({**MODEL, **given})
        assert settings.general.client_key == "sesame"
        assert "sesame" not in repr(settings)
    assert load(MODEL).shows_api_key


@pytest.mark.parametrize("name", ["fixed_api_access_key", "api_key"])
def test_a_key_that_the_dashboard_would_read_as_markup_is_refused(name: str) -> None:
    (problem,) = problems({**MODEL, f"General/{name}": "<b>sesame"})
    assert problem.path == f"General/{name}"
    assert "sesame" not in str(problem)


def test_two_keys_are_refused_without_showing_them() -> None:
    (problem,) = problems(
        {**MODEL, "General/fixed_api_access_key": "sesame-1", "General/api_key": "sesame-2"}
    )
    assert problem.path == "General/fixed_api_access_key"
    assert "General/api_key" in problem.message
    assert "sesame" not in str(problem)


def test_an_endpoint_is_named_by_its_reference() -> None:
    (model,) = load({**MODEL, "Model/revision": "v2"}).models
    assert (model.reference, model.endpoint_name, model.model_revision) == ("org/repo", None, "v2")
    (problem,) = problems({"Model/model": "admin/repo"})
    assert problem.path == "Model/model"
    assert "Model Endpoint Name" not in problem.message


def test_adapters_belong_to_the_model() -> None:
    settings = load({**MODEL, "LoRA/enable_lora": "true", "LoRA/lora_modules": "a=org/a"})
    assert settings.adapters(["org/repo"]) == {"org/repo": (LoraModule("a", "org/a"),)}


def test_what_the_form_does_not_ask_has_its_default() -> None:
    settings = load({**MODEL, "Idle/idle_time_limit_hours": "2"})
    assert settings.idle.idle_time_limit_hours == 2
    assert settings.idle.report_interval_s == 600
    assert settings.memory == MemorySettings()
    assert not settings.is_embedding(settings.models[0])
