"""What is ours in every command, "CLI", "Model Overrides", GPUs, and versions that nobody has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apps.vllm.catalogue import CatalogueFlag
from apps.vllm.command import check_engine_options, write_vllm_command
from common.engines.contract import EngineAddress, EngineCommand
from common.errors import ConfigurationError, InternalError
from common.options.loading import load_settings
from common.runtime.app import AnySettings
from tests.vllm.samples import (
    FORMS,
    VERSIONS,
    address,
    changed,
    check,
    facts,
    load,
    names_in,
    plan_of,
    value_of,
    write,
)


def several(*models: dict[str, Any], **shared: Any) -> AnySettings:
    """Settings of several models."""
    listed = [
        {"model": f"org/{n}", "model_endpoint_name": f"m{n}", **m} for n, m in enumerate(models)
    ]
    return load_settings(FORMS["vllm"], {"Models/models": listed, **shared}).settings


def reasons(command: EngineCommand) -> dict[str, str]:
    return {item.path: item.reason for item in command.unavailable}


def test_the_model_comes_first_and_then_its_name_and_address() -> None:
    command = write("0.33.0", known={"program": ("/env/bin/python", "-m", "vllm")})
    assert command.argv == (
        "/env/bin/python",
        "-m",
        "vllm",
        "serve",
        "/cache/base",
        "--served-model-name",
        "tiny-0",
        "--uds",
        "/run/e.sock",
        "--disable-uvicorn-access-log",
    )
    assert command.env == {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_API_KEY": "",
        "VLLM_RPC_BASE_PATH": "/run",
        "HF_HUB_OFFLINE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
    }
    assert not command.secret_env


def test_a_version_without_sockets_listens_on_loopback_with_a_key() -> None:
    command = write("0.7.2")
    assert command.argv[5:] == (
        "--host",
        "127.0.0.1",
        "--port",
        "8001",
        "--uvicorn-log-level",
        "warning",
    )
    assert command.env["VLLM_API_KEY"] == "engine-key"
    assert command.secret_env == {"VLLM_API_KEY"}
    assert "engine-key" not in " ".join(command.argv)
    with pytest.raises(InternalError, match="0.7.2 cannot listen on a Unix socket"):
        write("0.7.2", plan={"address": EngineAddress(socket_path=Path("/run/e.sock"))})


@pytest.mark.parametrize("version", VERSIONS)
def test_a_level_for_the_http_server_is_the_users(version: str) -> None:
    command = write(version, **{"General/uvicorn_log_level": "info"})
    assert value_of(command, "--uvicorn-log-level") == "info"
    assert "--disable-uvicorn-access-log" not in command.argv


def test_the_token_is_a_secret_variable() -> None:
    command = write("0.33.0", **{"General/hugging_face_token": "hf_secret"})
    assert command.env["HF_TOKEN"] == "hf_secret"
    assert command.secret_env == {"HF_TOKEN"}
    assert "hf_secret" not in " ".join(command.argv)
    assert "HF_TOKEN" not in write("0.33.0").env


def test_what_the_installation_needs_wins_over_ours() -> None:
    env = write("0.33.0", known={"env": {"HF_HUB_OFFLINE": "0", "VIRTUAL_ENV": "/env"}}).env
    assert (env["HF_HUB_OFFLINE"], env["VIRTUAL_ENV"]) == ("0", "/env")


@pytest.mark.parametrize(
    "parameters",
    [
        {"trust_remote_code": True},
        {"General/trust_remote_code": True},
        {"cli": "--trust-remote-code"},
        {"model_overrides": "trust_remote_code: true"},
    ],
)
def test_trusted_code_may_fetch_more_of_itself(parameters: dict[str, Any]) -> None:
    assert "HF_HUB_OFFLINE" not in write("0.33.0", **parameters).env


def test_code_that_is_not_trusted_after_all_stays_offline() -> None:
    parameters = {"General/trust_remote_code": True, "model_overrides": "trust_remote_code: false"}
    assert write("0.33.0", **parameters).env["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    "parameters",
    [
        {"cli": "--tokenizer org/tok"},
        {"model_overrides": 'speculative_config: {"model": "org/draft"}'},
    ],
)
def test_what_was_not_fetched_beforehand_may_be_fetched(parameters: dict[str, Any]) -> None:
    assert "HF_HUB_OFFLINE" not in write("0.33.0", **parameters).env


def test_ray_finds_its_own_address() -> None:
    command = write("0.33.0", **{"General/distributed_executor_backend": "ray"})
    assert "VLLM_HOST_IP" not in command.env
    assert value_of(command, "--distributed-executor-backend") == "ray"


# GPUs


@pytest.mark.parametrize(
    ("gpus", "parameters", "size"),
    [
        (None, {}, None),
        (1, {}, None),
        (4, {}, "4"),
        (4, {"pipeline_parallel_size": 2}, "2"),
        (4, {"gpus_tensor_parallel_size": 2}, "2"),
        (4, {"model_overrides": "tensor_parallel_size: 1"}, "1"),
        (4, {"model_overrides": "data_parallel_size: 2"}, "2"),
        (4, {"cli": "--max-model-len 99"}, None),
    ],
)
def test_all_gpus_are_used_unless_told_otherwise(
    gpus: int | None, parameters: dict[str, Any], size: str | None
) -> None:
    command = write("0.33.0", known={"gpus": gpus}, **parameters)
    assert value_of(command, "--tensor-parallel-size") == size
    assert check("0.33.0", known={"gpus": gpus}, **parameters) == []


@pytest.mark.parametrize(
    ("gpus", "parameters", "path", "message"),
    [
        (
            1,
            {"gpus_tensor_parallel_size": 2},
            "gpus_tensor_parallel_size",
            "2 GPUs are asked for, and 1 GPU is visible",
        ),
        (
            3,
            {"gpus_tensor_parallel_size": 2, "pipeline_parallel_size": 2},
            "gpus_tensor_parallel_size",
            "4 GPUs (2 x 2) are asked for, and 3 GPUs are visible",
        ),
        (1, {"pipeline_parallel_size": 2}, "pipeline_parallel_size", "1 GPU is visible"),
        (1, {"cli": "-tp 2"}, "cli", "1 GPU is visible"),
        (
            1,
            {"model_overrides": "tensor_parallel_size: 2"},
            "model_overrides",
            "1 GPU is visible",
        ),
    ],
)
def test_more_gpus_than_there_are(
    gpus: int, parameters: dict[str, Any], path: str, message: str
) -> None:
    (problem,) = check("0.33.0", known={"gpus": gpus}, **parameters)
    assert problem.path == path
    assert message in problem.message
    assert check("0.33.0", **parameters) == []
    ray = {**parameters, "General/distributed_executor_backend": "ray"}
    assert "cli" in ray or check("0.33.0", known={"gpus": gpus}, **ray) == []


def test_models_share_the_memory_of_the_gpus() -> None:
    settings = several({}, {"gpu_memory_utilization": 0.5}, {})
    first, second = (
        write_vllm_command(plan_of(settings, index), settings, facts("0.33.0")) for index in (0, 1)
    )
    assert value_of(first, "--gpu-memory-utilization") == "0.2"
    assert value_of(second, "--gpu-memory-utilization") == "0.5"
    (item,) = first.translated
    assert item.path == "Model/gpu_memory_utilization"
    assert "0.2" in item.to
    for name in ("enable_disk_swapping", "enable_automatic_cpu_offloading"):
        moving = several({}, {}, **{f"Advanced/{name}": True})
        command = write_vllm_command(plan_of(moving), moving, facts("0.33.0"))
        assert value_of(command, "--gpu-memory-utilization") is None
    assert value_of(write("0.33.0"), "--gpu-memory-utilization") is None


def test_shares_count_wherever_they_are_said() -> None:
    settings = several(
        {},
        {"cli": "--gpu-memory-utilization 0.3"},
        {"model_overrides": "gpu_memory_utilization: 0.4"},
    )
    command = write_vllm_command(plan_of(settings), settings, facts("0.33.0"))
    assert value_of(command, "--gpu-memory-utilization") == "0.2"
    full = several({"gpu_memory_utilization": 0.9}, {})
    nothing_left = write_vllm_command(plan_of(full, 1), full, facts("0.33.0"))
    assert value_of(nothing_left, "--gpu-memory-utilization") is None


def test_the_cpu_build() -> None:
    cpu = {"build": "cpu", "kv_cache_gib": 2.7, "gpus": 0}
    command = write("0.33.0", known=cpu, **{"General/device": "cpu"})
    assert command.env["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in command.env
    assert [item.to for item in command.translated] == ["the CPU build of vLLM"]
    assert check("0.33.0", known=cpu, gpus_tensor_parallel_size=2) == []
    settings = several({}, {})
    two = write_vllm_command(plan_of(settings), settings, facts("0.33.0", **cpu))
    assert two.env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert two.env["OMP_NUM_THREADS"] == "3"
    assert value_of(two, "--gpu-memory-utilization") is None
    assert write("0.7.2", known={**cpu, "kv_cache_gib": 0.5}).env["VLLM_CPU_KVCACHE_SPACE"] == "1"


# CLI and Model Overrides


def test_cli_replaces_the_fields_and_nothing_else() -> None:
    command = write(
        "0.33.0",
        cli="--max-model-len 4k --seed=-1 --model other",
        dtype="half",
        model_overrides="seed: 3",
        **{
            "General/vllm_log_level": "DEBUG",
            "General/use_v1_engine": True,
            "General/disable_log_requests": True,
            "LoRA/enable_lora": True,
            "Advanced/task": "embedding",
        },
    )
    assert command.argv[5:] == (
        "--uds",
        "/run/e.sock",
        "--max-model-len",
        "4k",
        "--seed=-1",
        "--disable-uvicorn-access-log",
    )
    told = reasons(command)
    replaced = {path for path, reason in told.items() if "replaces it" in reason}
    assert replaced == {
        "Model/dtype",
        "Model/model_overrides",
        "General/disable_log_requests",
        "LoRA/enable_lora",
        "Advanced/task",
    }
    assert "--model is ignored" in told["Model/cli"]
    assert command.env["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_cli_may_say_the_levels_of_the_http_server() -> None:
    assert (
        "--disable-uvicorn-access-log" not in write("0.33.0", cli="--uvicorn-log-level info").argv
    )
    command = write("0.33.0", cli="--no-disable-uvicorn-access-log")
    assert "--enable-uvicorn-access-log" in command.argv
    assert "--disable-uvicorn-access-log" not in command.argv


def test_cli_names_the_endpoint() -> None:
    command = write("0.33.0", cli="--served-model-name mine")
    assert value_of(command, "--served-model-name") == "mine"
    assert [item.path for item in command.translated] == ["Model/cli"]
    named = write("0.33.0", cli="--served-model-name mine", model_endpoint_name="other")
    assert value_of(named, "--served-model-name") == "other"
    assert "the name of the endpoint" in reasons(named)["Model/cli"]


@pytest.mark.parametrize(
    ("parameters", "path", "message"),
    [
        ({"cli": "--max-modle-len 5"}, "cli", "did you mean --max-model-len"),
        ({"cli": "--device cuda"}, "cli", "--device is no flag of this engine"),
        ({"cli": "--port 80"}, "cli", "--port cannot be set here"),
        ({"model_overrides": "max_modle_len: 5"}, "model_overrides", "--max-model-len"),
        ({"model_overrides": "dtype: int3"}, "model_overrides", "int3"),
    ],
)
def test_problems_of_flags_that_the_user_wrote(
    parameters: dict[str, Any], path: str, message: str
) -> None:
    (problem,) = check("0.32.0", **parameters)
    assert problem.path == path
    assert message in problem.message


def test_overrides_win_over_the_fields() -> None:
    command = write(
        "0.33.0",
        dtype="half",
        random_seed=3,
        rope_theta=5.0,
        speculative_model="org/draft",
        model_overrides=(
            '{"dtype": "float32", "hf_overrides": {"a": 1}, "spec_tokens": 2, "enforce_eager": true,'
            ' "seed": null}'
        ),
        **{"Advanced/task": "embedding"},
    )
    assert value_of(command, "--dtype") == "float32"
    assert value_of(command, "--hf-overrides") == '{"a":1}'
    assert value_of(command, "--seed") is None
    assert "--enforce-eager" in command.argv
    assert value_of(command, "--runner") == "pooling"
    assert set(reasons(command)) == {
        "Model/dtype",
        "Model/random_seed",
        "Model/rope_theta",
        "Model/speculative_model",
    }
    assert all('"Model Overrides"' in reason for reason in reasons(command).values())


def test_a_draft_model_in_the_overrides() -> None:
    command = write(
        "0.7.2", num_speculative_tokens=3, model_overrides="speculative_model: org/draft"
    )
    assert value_of(command, "--speculative-model") == "org/draft"
    assert value_of(command, "--num-speculative-tokens") == "3"
    assert not command.unavailable


def test_overrides_of_a_part_of_what_a_field_becomes() -> None:
    command = write("0.33.0", model_overrides="runner: generate", **{"Advanced/task": "embedding"})
    assert value_of(command, "--runner") == "generate"
    assert value_of(command, "--convert") is None
    assert "--runner" in reasons(command)["Advanced/task"]


# Versions


def test_a_version_that_is_too_old() -> None:
    old = changed("0.4.3", "0.7.2")
    (problem,) = check(old)
    assert "vLLM 0.4.3 is too old: 0.6.6 and later" in problem.message
    with pytest.raises(ConfigurationError, match="too old"):
        write(old)
    assert check(changed("0.6.6.post1", "0.7.2")) == []


def test_a_version_that_nobody_has_seen() -> None:
    future = changed(
        "0.99.0",
        "0.33.0",
        remove=[
            "--max-num-seqs",
            "--speculative-config",
            "--structured-outputs-config",
            "--runner",
            "--convert",
            "--hf-overrides",
            "--disable-uvicorn-access-log",
            "--uds",
            "--enforce-eager",
            "--disable-custom-all-reduce",
            "--skip-tokenizer-init",
            "--seed",
            "--tokenizer-mode",
        ],
        add=[
            # A switch that turned round, one that takes a value now, new values and types.
            CatalogueFlag(
                "--enable-custom-all-reduce", (), ("--no-enable-custom-all-reduce",), "none", None
            ),
            CatalogueFlag("--skip-tokenizer-init", takes_value="optional", type="bool"),
            CatalogueFlag("--random-seed", ("--seed",), type="int"),
            CatalogueFlag("--tokenizer-mode", choices=("fast",)),
        ],
    )
    given = {
        "max_number_of_sequences_per_iteration": 4,
        "enforce_eager": True,
        "speculative_model": "org/draft",
        "num_speculative_tokens": 3,
        "rope_theta": 5.0,
        "random_seed": 3,
        "tokenizer_mode": "slow",
        "General/guided_decoding_backend": "xgrammar",
        "Advanced/task": "embedding",
        "Advanced/disable_custom_all_reduce": True,
        "Advanced/skip_tokenizer_init": True,
        "Advanced/hf_overrides": '{"a": 1}',
    }
    command = write(future, **given)
    assert names_in(command) <= {
        *future.flags,
        "--no-enable-custom-all-reduce",
        "--seed",
    }
    assert value_of(command, "--random-seed") == "3"
    assert "--skip-tokenizer-init=True" in command.argv
    assert "--no-enable-custom-all-reduce" in command.argv
    assert value_of(command, "--uvicorn-log-level") == "warning"
    assert set(reasons(command)) == {
        "Model/max_number_of_sequences_per_iteration",
        "Model/enforce_eager",
        "Model/speculative_model",
        "Model/num_speculative_tokens",
        "Model/rope_theta",
        "Model/tokenizer_mode",
        "General/guided_decoding_backend",
        "Advanced/task",
        "Advanced/hf_overrides",
    }
    assert reasons(command)["Model/enforce_eager"] == "vLLM 0.99.0 has no --enforce-eager"
    assert "absent from 0.11.1 on" in reasons(command)["Model/rope_theta"]


def test_adapters_go_to_their_models() -> None:
    lora = {"LoRA/enable_lora": True, "LoRA/lora_modules": "m0:sql=org/sql, m1:js=org/js"}
    settings = several({}, {}, {}, **lora)
    commands = [
        write_vllm_command(
            plan_of(settings, index, companions={"lora:sql": Path("/c/sql")}),
            settings,
            facts("0.33.0"),
        )
        for index in range(3)
    ]
    assert value_of(commands[0], "--lora-modules") == "sql=/c/sql"
    assert value_of(commands[1], "--lora-modules") == "js=org/js"
    assert value_of(commands[2], "--lora-modules") is None
    assert "those of other models" in commands[2].translated[0].to


def test_the_legacy_form_is_the_same_engine() -> None:
    settings = load(
        "legacy_model",
        **{
            "General/max_number_of_paddings": 3,
            "General/max_parallel_loading_workers": 2,
            "General/tensor_parallel_size": 2,
            "General/disable_log_stats": True,
            "General/dtype": "half",
        },
    )
    new = facts("0.33.0", gpus=1)
    command = write_vllm_command(plan_of(settings, address=address(new.catalogue)), settings, new)
    assert {"--disable-log-stats", "--dtype"} <= names_in(command)
    assert set(reasons(command)) == {
        "General/max_number_of_paddings",
        "General/max_parallel_loading_workers",
    }
    (problem,) = check_engine_options("Model", settings.models[0], settings, new)
    assert problem.path == "General/tensor_parallel_size"
