"""What the fields become, version by version, where they are more than their flag."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apps.vllm.catalogue import CatalogueFlag
from apps.vllm.history import why_inert, why_missing, why_value_missing
from common.engines.contract import EngineCommand
from tests.vllm.samples import changed, check, json_of, names_in, value_of, write

ROPE = '{"rope_type":"dynamic","factor":2.0}'


def told(command: EngineCommand, path: str) -> str:
    """What was told about a field, translated or unavailable; empty when it was passed."""
    found = [item.to for item in command.translated if item.path == path]
    found += [item.reason for item in command.unavailable if item.path == path]
    return " | ".join(found)


@pytest.mark.parametrize(
    ("version", "parameters", "arguments"),
    [
        ("0.7.2", {"Advanced/enable_chunk_prefill": True}, ["--enable-chunked-prefill=True"]),
        ("0.7.2", {"Advanced/enable_chunk_prefill": False}, ["--enable-chunked-prefill=False"]),
        ("0.10.0", {"Advanced/enable_chunk_prefill": True}, ["--enable-chunked-prefill"]),
        ("0.10.0", {"Advanced/enable_chunk_prefill": False}, ["--no-enable-chunked-prefill"]),
        ("0.33.0", {"Advanced/enable_chunk_prefill": False}, ["--disable-chunked-prefill"]),
        (
            "0.7.2",
            {"enable_automatic_prefix_caching": False},
            ["--no-enable-prefix-caching"],
        ),
        ("0.32.0", {"enforce_eager": False}, ["--no-enforce-eager"]),
        (
            "0.7.2",
            {"Advanced/ignore_patterns": "a*, b*"},
            ["--ignore-patterns", "a*", "--ignore-patterns", "b*"],
        ),
        ("0.33.0", {"Advanced/ignore_patterns": "a*, b*"}, ["--ignore-patterns", "a*", "b*"]),
        ("0.33.0", {"Advanced/ignore_patterns": "-a"}, ["--ignore-patterns=-a"]),
        (
            "0.7.2",
            {"LoRA/long_lora_scaling_factors": "2.0 4"},
            ["--long-lora-scaling-factors", "2.0,4"],
        ),
        (
            "0.9.2",
            {"LoRA/long_lora_scaling_factors": "2.0,4"},
            ["--long-lora-scaling-factors", "2.0", "4.0"],
        ),
        ("0.33.0", {"random_seed": -3}, ["--seed=-3"]),
        (
            "0.7.2",
            {"multimedia_limit_per_prompt": "image=16,video=2"},
            ["--limit-mm-per-prompt", "image=16,video=2"],
        ),
        ("0.7.2", {"rope_scaling": ROPE}, ["--rope-scaling", json.dumps(json.loads(ROPE))]),
        ("0.8.5", {"General/device": "cuda"}, ["--device", "cuda"]),
        ("0.7.2", {"Advanced/task": "embedding"}, ["--task", "embedding"]),
        ("0.10.0", {"LoRA/max_lora_rank": 64}, ["--max-lora-rank", "64"]),
        ("0.7.2", {"LoRA/lora_extra_vocabulary_size": 0}, ["--lora-extra-vocab-size", "0"]),
        (
            "0.7.2",
            {"speculative_model": "org/draft", "num_speculative_tokens": 3},
            ["--speculative-model", "org/draft", "--num-speculative-tokens", "3"],
        ),
        (
            "0.7.2",
            {"speculative_model": "ngram", "num_speculative_tokens": 3},
            [
                "--speculative-model",
                "[ngram]",
                "--num-speculative-tokens",
                "3",
                "--ngram-prompt-lookup-max",
                "4",
            ],
        ),
        (
            "0.7.2",
            {
                "speculative_model": "org/draft",
                "num_speculative_tokens": 3,
                "speculative_decoding_acceptance_method": "TypicalAcceptanceSampler",
            },
            [
                "--speculative-model",
                "org/draft",
                "--spec-decoding-acceptance-method",
                "typical_acceptance_sampler",
                "--num-speculative-tokens",
                "3",
            ],
        ),
    ],
)
def test_passed_in_the_form_of_the_version(
    version: str, parameters: dict[str, Any], arguments: list[str]
) -> None:
    command = write(version, **parameters)
    assert set(arguments) <= set(command.argv)
    assert len(command.argv) == len(write(version).argv) + len(arguments)
    assert not command.unavailable
    assert not command.translated


@pytest.mark.parametrize(
    ("version", "parameters", "to"),
    [
        (
            "0.10.0",
            {"Model/multimedia_limit_per_prompt": "image=16, video=2"},
            '--limit-mm-per-prompt {"image":16,"video":2}',
        ),
        (
            "0.33.0",
            {"Model/multimedia_limit_per_prompt": '{"image": {"count": 2, "width": 64}}'},
            '--limit-mm-per-prompt {"image":{"count":2,"width":64}}',
        ),
        (
            "0.32.0",
            {"General/disable_log_requests": True},
            "nothing: requests are not logged unless asked for",
        ),
        (
            "0.33.0",
            {"General/disable_log_requests": True},
            "nothing: requests are not logged unless asked for",
        ),
        (
            "0.11.2",
            {"General/disable_log_requests": True},
            "nothing: requests are not logged unless asked for",
        ),
        ("0.33.0", {"General/disable_log_requests": False}, "--enable-log-requests"),
        (
            "0.10.0",
            {"General/disable_log_requests": False},
            "nothing: requests are logged unless told otherwise",
        ),
        ("0.7.2", {"Model/enforce_eager": False}, "nothing: it is off unless told otherwise"),
        ("0.33.0", {"Advanced/task": "embedding"}, "--runner pooling --convert embed"),
        ("0.11.2", {"Advanced/task": "embedding"}, "--runner pooling --convert embed"),
        ("0.11.2", {"Advanced/task": "reward"}, "--runner pooling --convert reward"),
        ("0.33.0", {"Advanced/task": "score"}, "--runner pooling --convert classify"),
        ("0.33.0", {"Advanced/task": "generate"}, "--runner generate"),
        (
            "0.33.0",
            {"Advanced/task": "auto"},
            "nothing: vLLM finds out what the model is for",
        ),
        (
            "0.33.0",
            {"General/guided_decoding_backend": "outlines"},
            '--structured-outputs-config {"backend":"outlines"}',
        ),
        (
            "0.11.2",
            {"Advanced/guided_decoding_backend": "guidance"},
            '--structured-outputs-config {"backend":"guidance"}',
        ),
        (
            "0.33.0",
            {"Advanced/override_pooler_config": '{"pooling_type": "MEAN", "normalize": true}'},
            '--pooler-config {"pooling_type":"MEAN","use_activation":true}',
        ),
        ("0.33.0", {"LoRA/max_lora_rank": 100}, "--max-lora-rank 128"),
        ("0.7.2", {"LoRA/max_lora_rank": 100}, "--max-lora-rank 128"),
        ("0.11.0", {"LoRA/max_lora_rank": 257}, "--max-lora-rank 320"),
        ("0.10.0", {"LoRA/lora_extra_vocabulary_size": 300}, "--lora-extra-vocab-size 512"),
        ("0.33.0", {"General/device": "cuda"}, "nothing: vLLM detects what it runs on"),
        ("0.9.2", {"General/device": "auto"}, "nothing: vLLM detects what it runs on"),
        (
            "0.33.0",
            {"General/use_v1_engine": True},
            "nothing: V1 is the only engine of this version",
        ),
        ("0.33.0", {"General/enable_debug_mode": True}, "VLLM_LOGGING_LEVEL=DEBUG"),
        ("0.33.0", {"Model/revision": "v2"}, "what is downloaded: org/base at v2"),
        ("0.33.0", {"Model/tokenizer_revision": "v2"}, "what is downloaded: org/base at v2"),
        ("0.14.1", {"Model/rope_theta": 1e6}, '--hf-overrides {"rope_theta":1000000.0}'),
        (
            "0.14.1",
            {"Model/rope_scaling": ROPE},
            '--hf-overrides {"rope_scaling":{"rope_type":"dynamic","factor":2.0}}',
        ),
        (
            "0.32.0",
            {"Model/rope_scaling": '{"type": "dynamic", "factor": 2.0}'},
            '--hf-overrides {"rope_parameters":{"factor":2.0,"rope_type":"dynamic"}}',
        ),
    ],
)
def test_translated(version: str, parameters: dict[str, Any], to: str) -> None:
    command = write(version, **parameters)
    (path,) = parameters
    assert told(command, path) == to
    assert not command.unavailable
    if to.startswith("--"):
        assert to in " ".join(command.argv)
    else:
        assert command.argv == write(version).argv


@pytest.mark.parametrize(
    ("version", "parameters", "reason"),
    [
        (
            "0.32.0",
            {"Model/swap_space": 4},
            "vLLM 0.32.0 has no --swap-space: absent from 0.18.0 on; the KV cache no longer swaps. "
            "Nearest: --kv-offloading-size (another feature)",
        ),
        (
            "0.11.2",
            {"Model/swap_space": 4},
            "vLLM 0.11.2 accepts --swap-space and does nothing with it: known from 0.11.0 on; the "
            "KV cache no longer swaps. Nearest: --kv-offloading-size (another feature)",
        ),
        ("0.11.2", {"Model/num_lookahead_slots": 4}, "does nothing with it"),
        ("0.10.0", {"Advanced/enable_prompt_adapter": True}, "prompt adapters were removed"),
        ("0.33.0", {"General/use_v1_engine": False}, "has the V1 engine only"),
        ("0.33.0", {"Advanced/task": "reward"}, "--runner and --convert, which have no 'reward'"),
        ("0.33.0", {"LoRA/max_lora_rank": 1024}, "takes 512 at most for --max-lora-rank"),
        ("0.7.2", {"LoRA/max_lora_rank": 320}, "takes 256 at most for --max-lora-rank"),
        ("0.33.0", {"Advanced/ray_workers_use_nsight": True}, "no workers of Ray"),
        (
            "0.33.0",
            {"Model/tool_call_parser": "a\0b"},
            "--tool-call-parser cannot hold a zero character: no argument can",
        ),
        ("0.33.0", {"LoRA/lora_dtype": "float32"}, "no 'float32' for --lora-dtype"),
        ("0.7.2", {"LoRA/lora_dtype": "float32"}, "no 'float32' for --lora-dtype"),
        ("0.32.0", {"Model/quantization": "bitsandbytes"}, "absent from 0.28.0 on"),
        (
            "0.10.0",
            {"Model/multimedia_limit_per_prompt": '{"image": {"count": 1}}'},
            "takes a number for each kind, no object",
        ),
        ("0.33.0", {"General/device": "cpu"}, "this one is built for GPUs"),
        ("0.33.0", {"General/device": "tpu"}, "vLLM detects what it runs on"),
        (
            "0.8.5",
            {"General/guided_decoding_backend": "outlines"},
            "takes 'outlines' at some starts only",
        ),
        ("0.7.2", {"General/guided_decoding_backend": "guidance"}, "not 'guidance'"),
        ("0.33.0", {"Model/num_speculative_tokens": 3}, "no Speculative model is set"),
        ("0.7.2", {"Model/num_speculative_tokens": 3}, "no Speculative model is set"),
        ("0.10.0", {"Model/speculative_model": "org/draft"}, "the V1 engine has it from 0.15.0 on"),
        ("0.14.1", {"Model/speculative_model": "org/draft"}, "of the kind 'draft_model'"),
        ("0.14.1", {"Model/speculative_model": "org/x-DFlash"}, "of the kind 'dflash'"),
        ("0.8.5", {"Model/speculative_model": "org/x-DFlash"}, "of the kind 'dflash'"),
        ("0.7.2", {"Model/speculative_model": "org/EAGLE3-x"}, "has it from 0.8.5 on"),
        ("0.20.2", {"Model/speculative_model": "org/mlp-speculator"}, "only the V0 engine had it"),
        ("0.33.0", {"Model/speculative_model": "org/medusa"}, "of the kind 'medusa'"),
        ("0.33.0", {"Model/enable_reasoning": True}, "a Reasoning Parser is what turns it on"),
        ("0.6.6", {"Model/enable_reasoning": True}, "--enable-reasoning: it is known from 0.7.1"),
    ],
)
def test_unavailable(version: str, parameters: dict[str, Any], reason: str) -> None:
    command = write(version, **parameters)
    (path,) = parameters
    assert [item.path for item in command.unavailable] == [path]
    assert reason in command.unavailable[0].reason
    assert not command.translated
    assert command.argv == write(version).argv


@pytest.mark.parametrize(
    ("version", "parameters", "config"),
    [
        (
            "0.8.5",
            {
                "speculative_model": "org/draft",
                "num_speculative_tokens": 3,
                "speculative_disable_mqa_scorer": True,
                "speculative_decoding_acceptance_method": "TypicalAcceptanceSampler",
                "Advanced/typical_acceptance_sampler_posterior_threshold": 0.1,
                "speculative_disable_by_batch_size": 8,
                "Advanced/disable_logprobs_during_spec_decoding": True,
                "speculative_draft_tensor_parallel_size": 1,
                "speculative_max_model_len": 512,
                "speculative_model_quantization": "awq",
            },
            {
                "method": "draft_model",
                "model": "org/draft",
                "num_speculative_tokens": 3,
                "disable_mqa_scorer": True,
                "acceptance_method": "typical_acceptance_sampler",
                "posterior_threshold": 0.1,
                "disable_by_batch_size": 8,
                "disable_logprobs": True,
                "draft_tensor_parallel_size": 1,
                "max_model_len": 512,
                "quantization": "awq",
            },
        ),
        (
            "0.10.0",
            {"speculative_model": "[ngram]", "Advanced/ngram_prompt_lookup_max": 4},
            {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4},
        ),
        (
            "0.10.0",
            {"speculative_model": "org/EAGLE3-x", "num_speculative_tokens": 2},
            {"method": "eagle3", "model": "org/EAGLE3-x", "num_speculative_tokens": 2},
        ),
        (
            "0.20.2",
            {
                "speculative_model": "org/draft",
                "speculative_decoding_acceptance_method": "RejectionSampler",
            },
            {
                "method": "draft_model",
                "model": "org/draft",
                "num_speculative_tokens": 5,
            },
        ),
        (
            "0.33.0",
            {
                "speculative_model": "org/draft",
                "speculative_decoding_acceptance_method": "RejectionSampler",
            },
            {
                "method": "draft_model",
                "model": "org/draft",
                "num_speculative_tokens": 5,
            },
        ),
        (
            "0.33.0",
            {"speculative_model": "org/glm-mtp"},
            {"method": "mtp", "model": "org/glm-mtp"},
        ),
        (
            "0.33.0",
            {"Advanced/ngram_prompt_lookup_max": 4, "Advanced/ngram_prompt_lookup_min": 2},
            {
                "method": "ngram",
                "num_speculative_tokens": 5,
                "prompt_lookup_max": 4,
                "prompt_lookup_min": 2,
            },
        ),
    ],
)
def test_speculative_config(
    version: str, parameters: dict[str, Any], config: dict[str, Any]
) -> None:
    command = write(version, **parameters)
    assert json_of(command, "--speculative-config") == config
    assert not command.unavailable
    assert len(command.translated) == len(parameters)


def test_speculation_that_only_the_old_engine_could_tune() -> None:
    command = write(
        "0.33.0",
        speculative_model="org/draft",
        speculative_disable_mqa_scorer=True,
        speculative_disable_by_batch_size=8,
        speculative_decoding_acceptance_method="TypicalAcceptanceSampler",
        plan={"companions": {"draft_model": Path("/cache/draft")}},
    )
    assert json_of(command, "--speculative-config") == {
        "method": "draft_model",
        "model": "/cache/draft",
        "num_speculative_tokens": 5,
    }
    reasons = {item.path: item.reason for item in command.unavailable}
    assert set(reasons) == {
        "Model/speculative_disable_mqa_scorer",
        "Model/speculative_disable_by_batch_size",
        "Model/speculative_decoding_acceptance_method",
    }
    by_size = reasons["Model/speculative_disable_by_batch_size"]
    assert "Nearest: num_speculative_tokens_per_batch_size, from 0.24.0" in by_size


@pytest.mark.parametrize(
    ("version", "model", "is_refused"),
    [
        ("0.7.2", "org/draft", True),
        ("0.8.5", "org/draft", True),
        ("0.8.5", "org/medusa", True),
        ("0.8.5", "org/EAGLE-x", False),
        ("0.9.2", "org/medusa", False),
        ("0.9.2", "[ngram]", False),
    ],
)
def test_early_v1_speculates_in_some_ways(version: str, model: str, is_refused: bool) -> None:
    given = {"Model/speculative_model": model, "Model/num_speculative_tokens": 3}
    command = write(version, **given, **{"General/use_v1_engine": True})
    refused = {i.path for i in command.unavailable if '"Use V1 Engine" is on' in i.reason}
    assert refused == (set(given) if is_refused else set())
    assert not write(version, **given).unavailable


@pytest.mark.parametrize(
    ("version", "config"),
    [
        ("0.11.0", {"pooling_type": "MEAN", "normalize": True}),
        ("0.11.2", {"pooling_type": "MEAN", "use_activation": True}),
    ],
)
def test_a_poolers_keys_change_after_its_flag(version: str, config: dict[str, Any]) -> None:
    given = {"Advanced/override_pooler_config": '{"pooling_type": "MEAN", "normalize": true}'}
    assert json_of(write(version, **given), "--pooler-config") == config


@pytest.mark.parametrize(
    ("version", "v1", "backend", "is_taken"),
    [
        ("0.8.0", None, "outlines", True),
        ("0.8.0", None, "auto", False),
        ("0.8.0", True, "guidance", False),
        ("0.8.4", None, "guidance", False),
        ("0.8.4", True, "guidance", True),
        ("0.8.4", None, "xgrammar", True),
        ("0.8.5", None, "guidance", True),
    ],
)
def test_backends_that_depend_on_the_engine_which_a_start_chooses(
    version: str, v1: bool | None, backend: str, is_taken: bool
) -> None:
    known = changed(version, "0.8.5", add=[CatalogueFlag("--guided-decoding-backend")])
    given: dict[str, Any] = {} if v1 is None else {"General/use_v1_engine": v1}
    command = write(known, **given, **{"General/guided_decoding_backend": backend})
    assert value_of(command, "--guided-decoding-backend") == (backend if is_taken else None)
    assert len(command.unavailable) == (0 if is_taken else 1)


def test_prompt_adapters_need_a_size() -> None:
    adapters = {"Advanced/enable_prompt_adapter": True}
    (problem,) = check("0.9.2", **adapters)
    assert problem.path == "Advanced/enable_prompt_adapter"
    assert 'needs "Max Prompt Adapter Token"' in problem.message
    assert not check("0.9.2", **adapters, **{"Advanced/max_prompt_adapter_token": 8})
    assert not check("0.9.2", **adapters, model_overrides="max_prompt_adapter_token: 8")
    assert not check("0.33.0", **adapters)


def test_workers_of_ray_can_be_profiled() -> None:
    ray = {"General/distributed_executor_backend": "ray"}
    command = write("0.33.0", **ray, **{"Advanced/ray_workers_use_nsight": True})
    assert "--ray-workers-use-nsight" in command.argv
    assert not command.unavailable


@pytest.mark.parametrize("version", ["0.11.1rc2.dev5+g123", "0.11.1.post2", "0.11.1"])
def test_a_candidate_has_what_its_release_has(version: str) -> None:
    limit = {"multimedia_limit_per_prompt": '{"image": {"count": 1}}'}
    assert not write(changed(version, "0.11.2"), **limit).unavailable


def test_a_media_limit_is_a_number_up_to_0_11_0() -> None:
    limit = {"multimedia_limit_per_prompt": '{"image": {"count": 1}}'}
    assert "no object" in told(write("0.11.0", **limit), "Model/multimedia_limit_per_prompt")
    assert json_of(write("0.11.2", **limit), "--limit-mm-per-prompt") == {"image": {"count": 1}}


def test_rope_reaches_the_model_with_either_transformers() -> None:
    # With 4 the config's own `rope_theta` and `rope_scaling` win over `rope_parameters`; with 5 a
    # `rope_theta` alone is lost.
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 5e5}
    given = {"rope_scaling": ROPE, "rope_theta": 5e5}
    between = changed("0.19.1", "0.14.1")
    assert json_of(write(between, **given), "--hf-overrides") == {
        "rope_parameters": rope,
        "rope_scaling": rope,
        "rope_theta": 5e5,
    }
    after = changed("0.24.0", "0.20.2")
    assert json_of(write(after, **given), "--hf-overrides") == {"rope_parameters": rope}


def test_the_v1_engine_refuses_what_only_v0_has() -> None:
    given = {
        "General/disable_async_output_processing": True,
        "Advanced/preemption_mode": "swap",
        "Advanced/num_scheduler_steps": 2,
        "Advanced/scheduler_delay_factor": 0.5,
        "General/guided_decoding_backend": "outlines",
        "Model/max_sequence_length_to_capture": 1024,
    }
    command = write("0.10.0", **given, **{"General/use_v1_engine": True})
    assert command.env["VLLM_USE_V1"] == "1"
    assert {item.path for item in command.unavailable} == set(given)
    assert all('"Use V1 Engine" is on' in item.reason for item in command.unavailable)
    for is_v1 in ({}, {"General/use_v1_engine": False}):
        free = write("0.10.0", **given, **is_v1)
        assert not free.unavailable
        assert {"--preemption-mode", "--num-scheduler-steps"} <= names_in(free)
    assert write("0.7.2", **{"General/use_v1_engine": False}).env["VLLM_USE_V1"] == "0"
    assert "VLLM_USE_V1" not in write("0.33.0", **{"General/use_v1_engine": True}).env


def test_early_v1_has_one_task_and_one_policy() -> None:
    given = {"Advanced/task": "embedding", "Advanced/scheduling_policy": "priority"}
    both = {**given, "General/use_v1_engine": True}
    assert {item.path for item in write("0.8.5", **both).unavailable} == set(given)
    assert not write("0.10.0", **both).unavailable


@pytest.mark.parametrize(
    ("version", "arguments"),
    [
        ("0.7.2", ["--reasoning-parser", "deepseek_r1", "--enable-reasoning"]),
        ("0.8.5", ["--reasoning-parser", "deepseek_r1", "--enable-reasoning"]),
        ("0.9.2", ["--reasoning-parser", "deepseek_r1"]),
        ("0.33.0", ["--reasoning-parser", "deepseek_r1"]),
    ],
)
def test_reasoning(version: str, arguments: list[str]) -> None:
    command = write(version, enable_reasoning=True, reasoning_parser="deepseek_r1")
    assert [part for part in command.argv if part in arguments] == arguments
    alone = write(version, reasoning_parser="deepseek_r1")
    assert set(arguments) <= set(alone.argv)
    off = write(version, enable_reasoning=False, reasoning_parser="deepseek_r1")
    assert not set(arguments) & set(off.argv)
    assert told(off, "Model/reasoning_parser") == '"Enable Reasoning" is off'


def test_reasoning_needs_its_parser_where_the_switch_lives() -> None:
    (problem,) = check("0.7.2", enable_reasoning=True)
    assert problem.path == "enable_reasoning"
    assert "needs a Reasoning Parser with vLLM 0.7.2" in problem.message
    assert check("0.33.0", enable_reasoning=True) == []


def test_reasoning_beside_tools() -> None:
    given = {
        "enable_reasoning": True,
        "reasoning_parser": "deepseek_r1",
        "enable_auto_tool_choice": True,
        "tool_call_parser": "hermes",
    }
    old = write("0.7.2", **given)
    assert {item.path for item in old.unavailable} == {
        "Model/enable_reasoning",
        "Model/reasoning_parser",
    }
    assert "--enable-auto-tool-choice" in old.argv
    assert not write("0.8.5", **given).unavailable


def test_parsers_that_a_version_does_not_have() -> None:
    unknown = {"enable_auto_tool_choice": True, "tool_call_parser": "mine"}
    (problem,) = check("0.10.0", **unknown)
    assert problem.path == "tool_call_parser"
    assert "is known to no vLLM" in problem.message
    plugin = write("0.10.0", **unknown, tool_parser_plugin="/p.py")
    assert [item.path for item in plugin.unavailable] == [
        "Model/tool_call_parser",
        "Model/enable_auto_tool_choice",
    ]
    assert not write("0.33.0", **unknown, tool_parser_plugin="/p.py").unavailable
    (near,) = check("0.10.0", enable_auto_tool_choice=True, tool_call_parser="hermess")
    assert "did you mean hermes?" in near.message


def test_overrides_of_the_config_are_one_flag() -> None:
    given = {
        "General/config_overrides": '{"a": 1}',
        "Advanced/hf_overrides": '{"b": 2}',
        "Model/rope_theta": 5.0,
    }
    command = write("0.33.0", **given)
    assert json_of(command, "--hf-overrides") == {
        "a": 1,
        "b": 2,
        "rope_parameters": {"rope_theta": 5.0, "rope_type": "default"},
    }
    assert [item.path for item in command.translated] == ["Model/rope_theta"]
    conflict = {"Advanced/hf_overrides": '{"rope_parameters": {}}', "Model/rope_theta": 5.0}
    (problem,) = check("0.33.0", **conflict)
    assert problem.path == "rope_theta"
    assert '"HF Overrides" (Advanced/hf_overrides)' in problem.message


@pytest.mark.parametrize(
    ("config", "parameters", "overrides"),
    [
        (
            {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}},
            {"rope_theta": 5.0},
            {"rope_parameters": {"factor": 4.0, "rope_type": "linear", "rope_theta": 5.0}},
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            {"rope_scaling": ROPE},
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6}},
        ),
        (
            {"text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}},
            {"rope_theta": 5.0},
            {"text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}},
        ),
    ],
)
def test_rope_says_again_what_the_model_has(
    config: dict[str, Any], parameters: dict[str, Any], overrides: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = write("0.33.0", plan={"path": tmp_path}, **parameters)
    assert json_of(command, "--hf-overrides") == overrides


def test_rope_of_each_kind_of_layer_is_left_alone(tmp_path: Path) -> None:
    config = {"rope_parameters": {"full_attention": {"rope_type": "default"}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = write("0.33.0", plan={"path": tmp_path}, rope_theta=5.0)
    assert "for each kind of its layers" in told(command, "Model/rope_theta")
    assert value_of(command, "--hf-overrides") is None


def test_fields_that_are_one_option() -> None:
    command = write(
        "0.33.0", **{"Model/trust_remote_code": False, "General/trust_remote_code": True}
    )
    assert "--no-trust-remote-code" in command.argv
    assert "wins" in told(command, "General/trust_remote_code")
    twice = dict.fromkeys(
        ("General/guided_decoding_backend", "Advanced/guided_decoding_backend"), "xgrammar"
    )
    same = write("0.10.0", **twice)
    assert value_of(same, "--guided-decoding-backend") == "xgrammar"
    assert "says the same" in told(same, "Advanced/guided_decoding_backend")


def test_levels_of_the_log() -> None:
    level, debug = {"General/vllm_log_level": "warning"}, {"General/enable_debug_mode": True}
    assert write("0.33.0", **level).env["VLLM_LOGGING_LEVEL"] == "WARNING"
    assert write("0.33.0", **debug).env["VLLM_LOGGING_LEVEL"] == "DEBUG"
    both = write("0.33.0", **level, **debug)
    assert both.env["VLLM_LOGGING_LEVEL"] == "WARNING"
    assert "is set and counts" in told(both, "General/enable_debug_mode")


def test_files_are_given_by_their_paths() -> None:
    companions = {
        "tokenizer": Path("/cache/tok"),
        "lora:sql": Path("/cache/sql"),
        "lora:js": Path("/cache/js"),
    }
    command = write(
        "0.33.0",
        tokenizer="org/tok",
        plan={"companions": companions},
        **{
            "LoRA/enable_lora": True,
            "LoRA/lora_modules": '[{"name":"sql","path":"o/s","base_model_name":"b"},"js=o/j"]',
        },
    )
    assert value_of(command, "--tokenizer") == "/cache/tok"
    at = command.argv.index("--lora-modules")
    sql = {"name": "sql", "path": "/cache/sql", "base_model_name": "b"}
    assert json.loads(command.argv[at + 1]) == sql
    assert command.argv[at + 2] == "js=/cache/js"
    revision = write("0.33.0", tokenizer_revision="v2", plan={"companions": companions})
    assert value_of(revision, "--tokenizer") == "/cache/tok"


def test_revisions_are_those_of_repositories() -> None:
    for model, where in (("/models/a", "a local path"), ("0" * 32, "a ClearML model")):
        command = write("0.33.0", model=model, revision="v2")
        assert where in told(command, "Model/revision")


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("0.18.0", "absent from 0.18.0 on"),
        ("0.99.0", "absent from 0.18.0 on"),
        ("0.8.0+cpu", "vLLM 0.8.0+cpu has no --swap-space: the KV cache"),
    ],
)
def test_reasons_hold_beyond_the_versions_looked_at(version: str, text: str) -> None:
    assert text in why_missing("--swap-space", version)


def test_reasons_where_nothing_is_known() -> None:
    assert why_missing("--never-heard-of", "0.33.0") == "vLLM 0.33.0 has no --never-heard-of"
    assert why_inert("--seed", "0.33.0") is None
    assert why_inert("--swap-space", "0.10.0") is None
    assert why_value_missing("--quantization", "hqq", "0.14.1") is None
    assert why_inert("--swap-space", "0.10.2") is None
    assert why_value_missing("--quantization", "awq", "0.33.0") is None
