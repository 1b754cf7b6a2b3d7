"""The vLLM form: the seed's fields, what their values may be, and what they must be to each other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apps.vllm.lora import LoraModule
from apps.vllm.options import VllmSettings
from apps.vllm.request import EngineRequest
from common.errors import ConfigurationError, Problem
from common.options.loading import load_settings
from common.options.memory import MemorySettings
from tests.declarations import Field, assert_declares, options_by_path, problems_of

MODEL = {"Model/model": "org/repo"}

# The seed's fields in its order, with the flag or variable of vLLM 0.7.2 that each stands for; None
# where the field is the instance's own.
SEED: dict[str, list[Field]] = {
    "Model": [
        ("Trust Remote Code", "trust_remote_code", "--trust-remote-code"),
        ("CLI", "cli", None),
        ("Enforce Eager", "enforce_eager", "--enforce-eager"),
        (
            "Enable Automatic Prefix Caching",
            "enable_automatic_prefix_caching",
            "--enable-prefix-caching",
        ),
        ("Disable Sliding Window", "disable_sliding_window", "--disable-sliding-window"),
        ("Enable Reasoning", "enable_reasoning", "--enable-reasoning"),
        ("Enable Auto Tool Choice", "enable_auto_tool_choice", "--enable-auto-tool-choice"),
        ("Model", "model", None),
        ("Model Endpoint Name", "model_endpoint_name", None),
        ("Multimedia Limit per Prompt", "multimedia_limit_per_prompt", "--limit-mm-per-prompt"),
        ("Max Context Length", "max_context_length", "--max-model-len"),
        (
            "Max Number of Sequences per iteration",
            "max_number_of_sequences_per_iteration",
            "--max-num-seqs",
        ),
        (
            "Max Sequence Length to Capture",
            "max_sequence_length_to_capture",
            "--max-seq-len-to-capture",
        ),
        ("Tool Call Parser", "tool_call_parser", "--tool-call-parser"),
        ("Tool Parser plugin", "tool_parser_plugin", "--tool-parser-plugin"),
        ("Max Num Batched Tokens", "max_num_batched_tokens", "--max-num-batched-tokens"),
        ("Reasoning Parser", "reasoning_parser", "--reasoning-parser"),
        ("Model Implementation", "model_implementation", "--model-impl"),
        ("GPU Memory Utilization", "gpu_memory_utilization", "--gpu-memory-utilization"),
        ("GPUs (Tensor Parallel Size)", "gpus_tensor_parallel_size", "--tensor-parallel-size"),
        ("Swap Space", "swap_space", "--swap-space"),
        ("CPU Offload GiB", "cpu_offload_gib", "--cpu-offload-gb"),
        ("Quantization", "quantization", "--quantization"),
        ("Dtype", "dtype", "--dtype"),
        ("KV Cache Dtype", "kv_cache_dtype", "--kv-cache-dtype"),
        ("Pipeline Parallel Size", "pipeline_parallel_size", "--pipeline-parallel-size"),
        ("Token Block Size", "token_block_size", "--block-size"),
        ("Random Seed", "random_seed", "--seed"),
        ("Max Logprobs", "max_logprobs", "--max-logprobs"),
        ("Max Concurrent Requests", "max_concurrent_requests", None),
        ("RoPE Theta", "rope_theta", "--rope-theta"),
        ("RoPE Scaling", "rope_scaling", "--rope-scaling"),
        ("Revision", "revision", "--revision"),
        ("Code Revision", "code_revision", "--code-revision"),
        ("Tokenizer", "tokenizer", "--tokenizer"),
        ("Tokenizer Revision", "tokenizer_revision", "--tokenizer-revision"),
        ("Tokenizer Mode", "tokenizer_mode", "--tokenizer-mode"),
        ("Speculative model", "speculative_model", "--speculative-model"),
        (
            "Speculative Disable MQA Scorer",
            "speculative_disable_mqa_scorer",
            "--speculative-disable-mqa-scorer",
        ),
        (
            "Speculative Decoding Acceptance Method",
            "speculative_decoding_acceptance_method",
            "--spec-decoding-acceptance-method",
        ),
        ("Num Speculative Tokens", "num_speculative_tokens", "--num-speculative-tokens"),
        (
            "Speculative Disable By Batch Size",
            "speculative_disable_by_batch_size",
            "--speculative-disable-by-batch-size",
        ),
        (
            "Speculative Draft Tensor Parallel Size",
            "speculative_draft_tensor_parallel_size",
            "--speculative-draft-tensor-parallel-size",
        ),
        ("Speculative Max Model Len", "speculative_max_model_len", "--speculative-max-model-len"),
        (
            "Speculative Model Quantization",
            "speculative_model_quantization",
            "--speculative-model-quantization",
        ),
        ("Num Lookahead Slots", "num_lookahead_slots", "--num-lookahead-slots"),
        ("Model Overrides", "model_overrides", None),
    ],
    "LoRA": [
        ("Enable LoRA", "enable_lora", "--enable-lora"),
        ("LoRA Modules", "lora_modules", "--lora-modules"),
        ("Max LoRAs", "max_loras", "--max-loras"),
        ("Long LoRA Scaling Factors", "long_lora_scaling_factors", "--long-lora-scaling-factors"),
        ("Max LoRA Rank", "max_lora_rank", "--max-lora-rank"),
        ("LoRA Extra Vocabulary Size", "lora_extra_vocabulary_size", "--lora-extra-vocab-size"),
        ("LoRA Dtype", "lora_dtype", "--lora-dtype"),
        ("Max CPU LoRAs", "max_cpu_loras", "--max-cpu-loras"),
        ("Enable LoRA Bias", "enable_lora_bias", "--enable-lora-bias"),
        ("Fully Sharded LoRAs", "fully_sharded_loras", "--fully-sharded-loras"),
    ],
    "General": [
        ("Enable Debug Mode", "enable_debug_mode", None),
        ("Use V1 Engine", "use_v1_engine", "VLLM_USE_V1"),
        ("Trust Remote Code", "trust_remote_code", "--trust-remote-code"),
        ("Disable log requests", "disable_log_requests", "--disable-log-requests"),
        (
            "Disable Async Output Processing",
            "disable_async_output_processing",
            "--disable-async-output-proc",
        ),
        ("HuggingFace Token", "hugging_face_token", None),
        ("Max CUDA Memory (GiB)", "max_cuda_memory_gib", None),
        ("CUDA Memory Manager Minimum Threshold", "cuda_memory_manager_minimum_threshold", None),
        ("Max Log Length", "max_log_length", "--max-log-len"),
        ("Device", "device", "--device"),
        ("Guided Decoding Backend", "guided_decoding_backend", "--guided-decoding-backend"),
        (
            "Distributed Executor Backend",
            "distributed_executor_backend",
            "--distributed-executor-backend",
        ),
        ("Config Overrides", "config_overrides", "--hf-overrides"),
        ("Uvicorn Log Level", "uvicorn_log_level", "--uvicorn-log-level"),
        ("vLLM Log Level", "vllm_log_level", "VLLM_LOGGING_LEVEL"),
        ("Load Format", "load_format", "--load-format"),
        ("vLLM Version", "vllm_version", None),
    ],
    "Advanced": [
        ("Skip Tokenizer Init", "skip_tokenizer_init", "--skip-tokenizer-init"),
        ("Disable Custom All Reduce", "disable_custom_all_reduce", "--disable-custom-all-reduce"),
        ("Enable Chunk Prefill", "enable_chunk_prefill", "--enable-chunked-prefill"),
        (
            "Disable Logprobs During Spec Decoding",
            "disable_logprobs_during_spec_decoding",
            "--disable-logprobs-during-spec-decoding",
        ),
        ("Enable Prompt Adapter", "enable_prompt_adapter", "--enable-prompt-adapter"),
        (
            "Enable Prompt Tokens Details",
            "enable_prompt_tokens_details",
            "--enable-prompt-tokens-details",
        ),
        ("Ray Workers Use Nsight", "ray_workers_use_nsight", "--ray-workers-use-nsight"),
        ("Enable Automatic CPU Offloading", "enable_automatic_cpu_offloading", None),
        ("Enable Disk Swapping", "enable_disk_swapping", None),
        ("Model Loader Extra Config", "model_loader_extra_config", "--model-loader-extra-config"),
        ("Max Prompt Adapter Token", "max_prompt_adapter_token", "--max-prompt-adapter-token"),
        ("HF Overrides", "hf_overrides", "--hf-overrides"),
        ("Ignore Patterns", "ignore_patterns", "--ignore-patterns"),
        ("Guided Decoding Backend", "guided_decoding_backend", "--guided-decoding-backend"),
        ("Ngram Prompt Lookup Max", "ngram_prompt_lookup_max", "--ngram-prompt-lookup-max"),
        ("Ngram Prompt Lookup Min", "ngram_prompt_lookup_min", "--ngram-prompt-lookup-min"),
        ("Num GPU Blocks Override", "num_gpu_blocks_override", "--num-gpu-blocks-override"),
        ("Num Scheduler Steps", "num_scheduler_steps", "--num-scheduler-steps"),
        ("Override Pooler Config", "override_pooler_config", "--override-pooler-config"),
        ("Preemption Mode", "preemption_mode", "--preemption-mode"),
        (
            "Return Tokens As Token IDs",
            "return_tokens_as_token_ids",
            "--return-tokens-as-token-ids",
        ),
        ("Scheduler Delay Factor", "scheduler_delay_factor", "--scheduler-delay-factor"),
        ("Scheduling Policy", "scheduling_policy", "--scheduling-policy"),
        ("Task", "task", "--task"),
        (
            "Tokenizer Pool Extra Config",
            "tokenizer_pool_extra_config",
            "--tokenizer-pool-extra-config",
        ),
        ("Tokenizer Pool Size", "tokenizer_pool_size", "--tokenizer-pool-size"),
        ("Tokenizer Pool Type", "tokenizer_pool_type", "--tokenizer-pool-type"),
        (
            "Typical Acceptance Sampler Posterior Threshold",
            "typical_acceptance_sampler_posterior_threshold",
            "--typical-acceptance-sampler-posterior-threshold",
        ),
    ],
    "Idle": [
        ("Idle Time Limit (Hours)", "idle_time_limit_hours", None),
        (
            "Last Action Report Interval (Seconds)",
            "last_action_report_interval_seconds",
            None,
        ),
    ],
}


def load(parameters: dict[str, Any]) -> VllmSettings:
    return load_settings(VllmSettings, parameters).settings


def problems(parameters: dict[str, Any]) -> list[Problem]:
    return problems_of(VllmSettings, parameters)


def test_every_field_of_the_seed_is_declared_in_its_order_with_its_flag() -> None:
    assert_declares(VllmSettings, SEED)


def test_only_the_models_own_options_are_per_model() -> None:
    assert {
        option.group for option in options_by_path(VllmSettings).values() if option.per_model
    } == {"Model"}
    assert all(
        option.per_model
        for option in options_by_path(VllmSettings).values()
        if option.group == "Model"
    )


def test_types_choices_and_secrets_come_from_the_declarations() -> None:
    options = options_by_path(VllmSettings)
    assert all(len(option.help) > 10 for option in options.values())
    assert {path for path, option in options.items() if option.secret} == {
        "General/hugging_face_token",
        "General/api_key",
    }
    assert options["Model/gpus_tensor_parallel_size"].type == "integer"
    assert options["Model/swap_space"].type == "float"
    assert options["General/use_v1_engine"].type == "boolean"
    assert options["Model/rope_scaling"].type == "string"
    assert options["Model/kv_cache_dtype"].choices == ("auto", "fp8", "fp8_e5m2", "fp8_e4m3")
    assert options["General/load_format"].choices == (
        "auto",
        "pt",
        "safetensors",
        "npcache",
        "dummy",
    )
    assert options["Model/speculative_decoding_acceptance_method"].choices == (
        "RejectionSampler",
        "TypicalAcceptanceSampler",
    )
    assert options["Advanced/scheduling_policy"].choices == ("fcfs", "priority")
    assert options["Advanced/task"].choices[:3] == ("auto", "generate", "embedding")


def test_forms_can_tell_what_a_text_holds() -> None:
    structures = {
        path: o.structure for path, o in options_by_path(VllmSettings).items() if o.structure
    }
    assert structures == {
        "Model/multimedia_limit_per_prompt": "limits",
        "Model/rope_scaling": "object",
        "Model/model_overrides": "overrides",
        "LoRA/lora_modules": "modules",
        "LoRA/long_lora_scaling_factors": "list",
        "General/config_overrides": "object",
        "Advanced/model_loader_extra_config": "object",
        "Advanced/hf_overrides": "object",
        "Advanced/ignore_patterns": "list",
        "Advanced/override_pooler_config": "object",
        "Advanced/tokenizer_pool_extra_config": "object",
    }


# A value of each field that is not its default: as text, as a JSON file has it, and what it becomes.
VALUES: dict[str, tuple[str, Any, Any]] = {
    "Model/gpu_memory_utilization": ("0.5", 0.5, 0.5),
    "Model/gpus_tensor_parallel_size": ("2", 2, 2),
    "Model/enable_automatic_prefix_caching": ("false", False, False),
    "Model/swap_space": ("4", 4, 4.0),
    "Model/random_seed": ("0", 0, 0),
    "Model/max_logprobs": ("-1", -1, -1),
    "Model/multimedia_limit_per_prompt": ("image=16,video=2", {"image": 16, "video": 2}, None),
    "Model/rope_scaling": ('{"factor": 2.0}', {"factor": 2.0}, '{"factor": 2.0}'),
    "Model/model_overrides": ("enforce_eager: true", {"enforce_eager": True}, None),
    "Model/kv_cache_dtype": ("ffp8_e5m2", "FFP8_E5M2", "fp8_e5m2"),
    "Model/speculative_decoding_acceptance_method": (
        "TypicalAcceptanceSampler",
        "typical_acceptance_sampler",
        "typical_acceptance_sampler",
    ),
    "LoRA/long_lora_scaling_factors": ("2.0, 4.0", [2.0, 4.0], "2.0,4.0"),
    "General/load_format": ("Dummy", "dummy", "dummy"),
    "General/vllm_log_level": ("debug", "DEBUG", "DEBUG"),
    "General/uvicorn_log_level": ("DEBUG", "debug", "debug"),
    "General/vllm_version": ("v0.9.2", "0.9.2", "0.9.2"),
    "Advanced/ignore_patterns": ("*.pt *.bin", ["*.pt", "*.bin"], "*.pt,*.bin"),
    "Advanced/task": ("Embedding", "embedding", "embedding"),
    "Advanced/hf_overrides": ('{"a":{"b":1}}', {"a": {"b": 1}}, '{"a": {"b": 1}}'),
}


@pytest.mark.parametrize("path", VALUES)
def test_text_and_json_give_one_value(path: str) -> None:
    text, typed, expected = VALUES[path]
    section, _, name = path.partition("/")
    groups = [
        {
            "Model": settings.models[0],
            "LoRA": settings.lora,
            "General": settings.general,
            "Advanced": settings.advanced,
        }[section]
        for settings in (load({**MODEL, path: text}), load({**MODEL, path: typed}))
    ]
    first, second = (group.given()[name] for group in groups)
    assert first == second
    assert type(first) is type(second)
    if expected is not None:
        assert first == expected


def test_a_value_that_newer_versions_may_know_is_left_to_the_engine() -> None:
    (model,) = load({**MODEL, "Model/kv_cache_dtype": "nvfp4", "Model/quantization": "new"}).models
    assert (model.kv_cache_dtype, model.quantization) == ("nvfp4", "new")


# What is set beside a model -> the paths of the problems, and words of the first one's message.
WRONG: list[tuple[dict[str, Any], list[str], str]] = [
    ({"Model/gpu_memory_utilization": "1.5"}, ["Model/gpu_memory_utilization"], "at most 1"),
    ({"Model/gpu_memory_utilization": "0"}, ["Model/gpu_memory_utilization"], "more than 0"),
    ({"Model/gpus_tensor_parallel_size": "0"}, ["Model/gpus_tensor_parallel_size"], "at least 1"),
    ({"Model/dtype": "int4"}, ["Model/dtype"], "'bfloat16'"),
    ({"Model/dtpye": "auto"}, ["Model/dtpye"], 'did you mean "Model/dtype"'),
    ({"Model/max_loras": "1"}, ["Model/max_loras"], 'did you mean "LoRA/max_loras"'),
    (
        {"General/enable_disk_swapping": "true"},
        ["General/enable_disk_swapping"],
        'did you mean "Advanced/enable_disk_swapping"',
    ),
    ({"Model/rope_scaling": '{"a": }'}, ["Model/rope_scaling"], "at line 1, column 7"),
    ({"Model/rope_scaling": "[1]"}, ["Model/rope_scaling"], "must be a JSON object"),
    ({"Model/model_overrides": "eager"}, ["Model/model_overrides"], "line 1 is not written as"),
    (
        {"Model/multimedia_limit_per_prompt": "image:16"},
        ["Model/multimedia_limit_per_prompt"],
        "image=16,video=2",
    ),
    ({"General/config_overrides": "x"}, ["General/config_overrides"], "is not valid JSON"),
    ({"Advanced/hf_overrides": "1"}, ["Advanced/hf_overrides"], "must be a JSON object"),
    ({"Advanced/model_loader_extra_config": "{"}, ["Advanced/model_loader_extra_config"], "JSON"),
    ({"Advanced/override_pooler_config": "{"}, ["Advanced/override_pooler_config"], "JSON"),
    (
        {"Advanced/tokenizer_pool_extra_config": "{"},
        ["Advanced/tokenizer_pool_extra_config"],
        "JSON",
    ),
    (
        {"LoRA/long_lora_scaling_factors": "2,x"},
        ["LoRA/long_lora_scaling_factors"],
        "'x' is not one",
    ),
    ({"General/vllm_version": "0.6.5"}, ["General/vllm_version"], "0.6.6 and later"),
    ({"General/vllm_version": "0.6.6rc1"}, ["General/vllm_version"], "0.6.6 and later"),
    ({"General/vllm_version": "newest"}, ["General/vllm_version"], "must be a version such as"),
    ({"General/vllm_version": ">=0.9"}, ["General/vllm_version"], "must be a version such as"),
    ({"General/vllm_version": "0.9.2+cu118"}, ["General/vllm_version"], "only +cpu"),
    (
        {"General/vllm_version": "0.9.2+cpu", "General/device": "cuda"},
        ["General/device"],
        "a build for the CPU",
    ),
    ({"Model/tokenizer": "gpt2"}, ["Model/tokenizer"], "no model reference"),
    ({"Model/speculative_model": "gpt2"}, ["Model/speculative_model"], "no model reference"),
    ({"Model/model": "org/repo@main", "Model/revision": "x"}, ["Model/revision"], "'main'"),
    ({"Model/model_endpoint_name": "v1/x"}, ["Model/model_endpoint_name"], "cannot be served"),
    ({"Model/model": "admin/repo"}, ["Model/model"], 'set "Model Endpoint Name"'),
    (
        {"Model/enable_auto_tool_choice": "true"},
        ["Model/enable_auto_tool_choice"],
        '"Tool Call Parser" (Model/tool_call_parser)',
    ),
    ({"LoRA/lora_modules": "a=org/a"}, ["LoRA/lora_modules"], '"Enable LoRA" (LoRA/enable_lora)'),
    (
        {"LoRA/enable_lora": "true", "LoRA/lora_modules": "a=org/a, b"},
        ["LoRA/lora_modules"],
        "'b' is not written as name=reference",
    ),
    (
        {"LoRA/enable_lora": "true", "LoRA/lora_modules": "other:a=org/a"},
        ["LoRA/lora_modules"],
        'known: "org/repo"',
    ),
    (
        {"LoRA/enable_lora": "true", "LoRA/lora_modules": "org/repo=org/a"},
        ["LoRA/lora_modules"],
        "is the endpoint name of a model",
    ),
    (
        {"LoRA/max_loras": "4", "LoRA/max_cpu_loras": "3"},
        ["LoRA/max_cpu_loras"],
        'at least "Max LoRAs" (LoRA/max_loras), which is 4',
    ),
    (
        {
            "General/guided_decoding_backend": "xgrammar",
            "Advanced/guided_decoding_backend": "outlines",
        },
        ["Advanced/guided_decoding_backend"],
        "General/guided_decoding_backend",
    ),
    (
        {"General/config_overrides": {"a": 1, "b": 1}, "Advanced/hf_overrides": {"a": 1, "b": 2}},
        ["Advanced/hf_overrides"],
        "says 'b'",
    ),
    (
        {"Advanced/ngram_prompt_lookup_min": "5", "Advanced/ngram_prompt_lookup_max": "4"},
        ["Advanced/ngram_prompt_lookup_min"],
        "Advanced/ngram_prompt_lookup_max",
    ),
    (
        {
            "Advanced/enable_automatic_cpu_offloading": "true",
            "Advanced/enable_disk_swapping": "true",
        },
        ["Advanced/enable_disk_swapping"],
        "(Advanced/enable_automatic_cpu_offloading)",
    ),
    (
        {"LoRA/max_loras": "4", "LoRA/max_cpu_loras": "3", "LoRA/lora_dtype": "int4"},
        ["LoRA/lora_dtype", "LoRA/max_cpu_loras"],
        "'bfloat16'",
    ),
]


@pytest.mark.parametrize(("given", "paths", "words"), WRONG)
def test_what_cannot_work_is_said_before_anything_starts(
    given: dict[str, Any], paths: list[str], words: str
) -> None:
    found = problems({**MODEL, **given})
    assert sorted(problem.path for problem in found) == paths
    assert words in found[0].message
    titles = {option.path: option.title for option in VllmSettings.options(entry=False)}
    assert all(problem.title == titles.get(problem.path, "") for problem in found)


@pytest.mark.parametrize(
    "given",
    [
        {"Model/enable_auto_tool_choice": "true", "Model/tool_call_parser": "hermes"},
        {
            "Model/enable_auto_tool_choice": "true",
            "Model/model_overrides": "tool-call-parser: hermes",
        },
        {"Model/enable_auto_tool_choice": "false"},
        {"LoRA/lora_modules": "a=org/a", "Model/model_overrides": "enable_lora: true"},
        {"LoRA/enable_lora": "true", "LoRA/lora_modules": "org/repo:a=org/a"},
        {"LoRA/max_loras": "4", "LoRA/max_cpu_loras": "4"},
        {
            "General/guided_decoding_backend": "outlines",
            "Advanced/guided_decoding_backend": "Outlines",
        },
        {"General/config_overrides": {"a": 1}, "Advanced/hf_overrides": {"a": 1, "b": 2}},
        {"Model/speculative_model": "[ngram]"},
        {"General/vllm_version": "0.6.6"},
        {"General/vllm_version": "0.9.2+cpu", "General/device": "cpu"},
        {"Model/enable_reasoning": "true"},
        {"Model/model": "org/repo@v2", "Model/revision": "v2"},
    ],
)
def test_what_can_work_is_accepted(given: dict[str, Any]) -> None:
    assert load({**MODEL, **given}).models


REPLACED = {
    "Model/enable_auto_tool_choice": "true",
    "Model/tokenizer": "gpt2",
    "LoRA/lora_modules": "a=org/a",
    "LoRA/max_loras": "4",
    "LoRA/max_cpu_loras": "3",
    "General/guided_decoding_backend": "xgrammar",
    "Advanced/guided_decoding_backend": "outlines",
}


def test_fields_that_cli_replaces_are_not_checked_against_each_other() -> None:
    assert load({**MODEL, **REPLACED, "Model/cli": "--max-model-len 8"}).models
    assert len(problems({**MODEL, **REPLACED})) == 5


def test_shared_fields_still_count_for_the_models_without_cli() -> None:
    listed = [{"model": "org/a", "cli": "--seed 1"}, {"model": "org/b"}]
    shared = {path: value for path, value in REPLACED.items() if not path.startswith("Model/")}
    paths = {problem.path for problem in problems({"Models/models": listed, **shared})}
    assert paths == {
        "LoRA/lora_modules",
        "LoRA/max_cpu_loras",
        "Advanced/guided_decoding_backend",
    }


def test_cli_does_not_replace_the_instances_own_fields() -> None:
    switches = {
        "Advanced/enable_automatic_cpu_offloading": "true",
        "Advanced/enable_disk_swapping": "true",
        "General/vllm_version": "0.5",
    }
    paths = {problem.path for problem in problems({**MODEL, "Model/cli": "--seed 1", **switches})}
    assert paths == {"Advanced/enable_disk_swapping", "General/vllm_version"}


def test_a_model_is_required_in_the_words_of_this_app() -> None:
    (problem,) = problems({})
    assert problem.path == "Model/model"
    assert "openai-community/gpt2" in problem.message
    assert "gguf" not in problem.message


def test_secrets_and_free_text_for_the_engine_are_never_echoed() -> None:
    found = problems(
        {
            "General/hugging_face_token": ["hf_sesame"],
            "General/api_key": {"sesame": 1},
            "General/hugging_face_tokn": "hf_sesame",
            "Model/cli": "--api-key sesame 'open",
            "Model/model_overrides": "api_key: sesame\nbroken",
            "Model/rope_scaling": '{"key": "sesame"',
            "Advanced/model_loader_extra_config": '{"secret": "sesame"',
        }
    )
    assert len(found) == 7
    assert "sesame" not in str(ConfigurationError(found))
    settings = load(
        {**MODEL, "General/hugging_face_token": "hf_sesame", "General/api_key": "sesame"}
    )
    assert "sesame" not in repr(settings)
    assert settings.general.client_key == "sesame"


def test_two_models_share_what_is_shared_and_differ_in_what_is_their_own() -> None:
    settings = load(
        {
            "Models/models": json.dumps(
                [
                    {"model": "org/a", "rope_scaling": {"factor": 2}, "max_concurrent_requests": 3},
                    {"model": "org/b", "model_overrides": {"seed": 1}},
                ]
            ),
            "General/load_format": "dummy",
        }
    )
    first, second = (EngineRequest(model, settings) for model in settings.models)
    assert first.value("--rope-scaling") == '{"factor": 2}'
    assert second.value("--rope-scaling") is None
    assert second.overrides == {"seed": 1}
    assert first.value("--load-format") == second.value("--load-format") == "dummy"
    assert settings.models[0].limits.max_concurrent_requests == 3


def test_two_models_cannot_have_one_endpoint_name() -> None:
    listed = [{"model": "org/a"}, {"model": "org/b", "cli": "--served-model-name=org/a x"}]
    (problem,) = problems({"Models/models": listed})
    assert problem.path == "Models/models[1]"
    assert '"org/a" is also the endpoint name' in problem.message


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, None),
        ({"Model/model_endpoint_name": "chat"}, "chat"),
        ({"Model/cli": "--served-model-name one two"}, "one"),
        ({"Model/cli": "--served_model_name=one"}, "one"),
        ({"Model/cli": "--served-model-name one", "Model/model_endpoint_name": "chat"}, "chat"),
    ],
)
def test_the_endpoint_name_comes_from_the_field_or_from_cli(
    given: dict[str, Any], name: str | None
) -> None:
    assert load({**MODEL, **given}).models[0].endpoint_name == name


@pytest.mark.parametrize(
    ("given", "revision"),
    [
        ({}, None),
        ({"Model/revision": "v2"}, "v2"),
        ({"Model/revision": "v2", "Model/model_overrides": "revision: 0123"}, "0123"),
        ({"Model/revision": "v2", "Model/cli": "--seed 1"}, None),
        ({"Model/revision": "v2", "Model/cli": "--revision v3"}, "v3"),
    ],
)
def test_the_revision_is_the_one_that_applies(given: dict[str, Any], revision: str | None) -> None:
    assert load({**MODEL, **given}).models[0].model_revision == revision


@pytest.mark.parametrize(
    ("given", "embeds"),
    [
        ({}, False),
        ({"Advanced/task": "embedding"}, True),
        ({"Advanced/task": "embed"}, True),
        ({"Advanced/task": "generate"}, False),
        ({"Advanced/task": "classify"}, False),
        ({"Advanced/task": "embed", "Model/cli": "--seed 1"}, False),
        ({"Model/cli": "--task embed"}, True),
        ({"Model/cli": "--task=embedding"}, True),
        ({"Model/cli": "--runner pooling"}, True),
        ({"Model/cli": "--runner pooling --convert classify"}, False),
        ({"Model/cli": "--convert embed"}, True),
        ({"Model/model_overrides": "runner: pooling"}, True),
        ({"Model/model_overrides": "convert: embed"}, True),
        ({"Model/model_overrides": "--task: generate", "Advanced/task": "embed"}, False),
    ],
)
def test_which_models_serve_embeddings(given: dict[str, Any], embeds: bool) -> None:
    settings = load({**MODEL, **given})
    assert settings.is_embedding(settings.models[0]) is embeds


def test_adapters_go_to_the_models_that_cli_does_not_replace() -> None:
    lora = {"LoRA/enable_lora": "true", "LoRA/lora_modules": "org/a:x=org/x, b:y=org/y"}
    listed = [
        {"model": "org/a"},
        {"model": "org/b", "model_endpoint_name": "b", "cli": "--seed 1"},
    ]
    settings = load({"Models/models": listed, **lora})
    assert settings.adapters(["org/a", "b"]) == {
        "org/a": (LoraModule("x", "org/x", "org/a"),),
        "b": (),
    }


def test_a_bare_adapter_of_several_models_is_refused_while_names_are_unknown() -> None:
    unnamed = "0123456789abcdef0123456789abcdef"
    listed = [{"model": unnamed}, {"model": "org/b"}]
    lora = {"LoRA/enable_lora": "true", "LoRA/lora_modules": "x=org/x, some:y=org/y"}
    (problem,) = problems({"Models/models": listed, **lora})
    assert problem.path == "LoRA/lora_modules"
    assert "write endpoint:x=" in problem.message


def test_a_flat_file_may_hold_objects() -> None:
    assert load({**MODEL, "Model/rope_scaling": {"factor": 2}}).models[0].rope_scaling is not None


def test_memory_is_read_alike_whatever_the_groups() -> None:
    assert load(MODEL).memory == MemorySettings()
    given = {
        "Advanced/enable_disk_swapping": "true",
        "General/max_cuda_memory_gib": "48",
        "General/cuda_memory_manager_minimum_threshold": "-1",
    }
    assert load({**MODEL, **given}).memory == MemorySettings(
        disk_swapping=True, max_cuda_gib=48.0, manager_threshold_kb=-1
    )


def test_the_version_and_its_build() -> None:
    none = load(MODEL).general
    assert (none.wanted_version, none.wants_cpu_build) == (None, False)
    built = load({**MODEL, "General/vllm_version": "0.9.2+cpu"}).general
    assert (str(built.wanted_version), built.wants_cpu_build) == ("0.9.2", True)
    assert load({**MODEL, "General/device": "cpu"}).general.wants_cpu_build
    assert not load({**MODEL, "General/vllm_version": "0.9.2"}).general.wants_cpu_build
