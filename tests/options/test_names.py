"""Titles, parameter names and the seed's fields."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from apps.llamacpp.options import LlamaCppGeneral, LlamaCppModel, LlamaCppSettings
from common.options.declaration import (
    OptionGroup,
    describe_options,
    like,
    option,
    parameter_name,
)

# The seed's titles of the llama.cpp form, in its order, with the spelling that the contract gives.
SEED_MODEL_TITLES = [
    "CLI",
    "Verbose",
    "No MMAP",
    "Continuous Batching",
    "Embedding",
    "Model",
    "Model Endpoint Name",
    "Number of GPU Layers",
    "Repeat Penalty",
    "Temperature",
    "Top-K",
    "Top-P",
    "Min-P",
    "XTC Probability",
    "XTC Threshold",
    "Typical-P",
    "Repeat Last N",
    "Context Size",
    "RoPE Frequency Base",
    "RoPE Scaling",
    "RoPE Frequency Scale",
    "YaRN Extrapolation Mix Factor",
    "YaRN Attention Factor",
    "YaRN Beta Fast",
    "YaRN Beta Slow",
    "Threads",
    "Threads Batch",
    "Tensor Split",
    "Parallel",
    "Max Concurrent Requests",
    "NUMA",
    "Split Mode",
    "Main GPU",
]
SEED_GENERAL_TITLES = [
    "Enable Debug Mode",
    "Disable Logs",
    "Enable Automatic CPU Offloading",
    "Enable Disk Swapping",
    "Hugging Face Token",
    "Max CUDA Memory (GiB)",
    "CUDA Memory Manager Minimum Threshold",
]
SEED_IDLE_TITLES = ["Idle Time Limit (Hours)", "Last Action Report Interval (Seconds)"]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Max CUDA Memory (GiB)", "max_cuda_memory_gib"),
        ("YaRN Beta Fast", "yarn_beta_fast"),
        ("Typical-P", "typical_p"),
        ("Idle Time Limit (Hours)", "idle_time_limit_hours"),
        ("vLLM Version", "vllm_version"),
        ("GPUs / Tensor Parallel Size", "gpus_tensor_parallel_size"),
    ],
)
def test_parameter_name_follows_the_title(title: str, name: str) -> None:
    assert parameter_name(title) == name


def test_a_field_whose_name_is_not_its_titles_is_refused() -> None:
    with pytest.raises(TypeError, match="top_k"):

        class Wrong(OptionGroup):
            topk: int | None = option("Top-K", help="...")


def test_an_option_can_be_declared_like_another() -> None:
    class First(OptionGroup):
        section = "First"
        size: int | None = option(
            "Size", flag="--size", ge=1, le=9, help="How large.", placeholder="3"
        )
        kind: str | None = option(
            "Kind", flag="--kind", choices=("a", "b"), spellings={"x": "a"}, help="Which."
        )

    class Second(OptionGroup):
        section = "Second"
        most_tokens: int | None = like(First, "size", title="Most Tokens")
        kind: str | None = like(First, "kind", choices=("a",))

    size, first_kind = describe_options(First)
    most_tokens, kind = describe_options(Second)
    assert most_tokens == replace(
        size, title="Most Tokens", name="most_tokens", path="Second/most_tokens", group="Second"
    )
    assert kind == replace(first_kind, path="Second/kind", group="Second", choices=("a",))
    assert Second(kind="X").kind == "a"
    with pytest.raises(ValidationError, match="less than or equal to 9"):
        Second(most_tokens=10)


def test_every_title_of_the_seed_is_declared_in_its_order() -> None:
    by_group: dict[str, list[str]] = {}
    for item in LlamaCppSettings.options():
        by_group.setdefault(item.group, []).append(item.title)
    place = SEED_MODEL_TITLES.index("Max Concurrent Requests") + 1
    ours = ["Max Waiting Requests", "Max Queue (Seconds)", "Cancel On Disconnect"]
    ours += ["Priority", "Pinned", "Preload", "Idle Offload (Minutes)", "Max Wait (Seconds)"]
    ours += ["Save Prompt Cache"]
    assert by_group["Model"] == [*SEED_MODEL_TITLES[:place], *ours, *SEED_MODEL_TITLES[place:]]
    assert by_group["General"][: len(SEED_GENERAL_TITLES)] == SEED_GENERAL_TITLES
    assert by_group["Idle"] == SEED_IDLE_TITLES
    assert by_group[""] == ["Instance Name", "Service Project - Access Control", "Queue"]


def test_public_parameter_paths_never_disappear() -> None:
    """Forms, clones and scripts rely on these names; the list only grows."""
    paths = {item.path for item in LlamaCppSettings.options(entry=False)}
    assert paths >= {
        *(f"Model/{parameter_name(title)}" for title in SEED_MODEL_TITLES),
        *(f"General/{parameter_name(title)}" for title in SEED_GENERAL_TITLES),
        *(f"Idle/{parameter_name(title)}" for title in SEED_IDLE_TITLES),
        "Advanced/flash_attention",
        "Advanced/type_k",
        "Advanced/type_v",
        "Advanced/use_mmap",
        "Advanced/use_mlock",
        "Advanced/offload_kqv",
        "Advanced/defrag_threshold",
        "Advanced/validation_workers",
        "Advanced/max_input_tokens",
        "Advanced/max_total_tokens",
        "Advanced/max_batch_total_tokens",
        "Advanced/max_physical_batch_total_tokens",
        "Advanced/max_batch_size",
        "Model/max_waiting_requests",
        "Model/max_queue_seconds",
        "Model/cancel_on_disconnect",
        "Model/priority",
        "Model/pinned",
        "Model/preload",
        "Model/idle_offload_minutes",
        "Model/max_wait_seconds",
        "Model/save_prompt_cache",
        "General/max_host_memory_gib",
        "General/gateway_route",
        "General/auth",
        "General/api_key",
        "General/host",
        "General/port",
        "General/public_url",
        "General/tls_certificate_file",
        "General/tls_key_file",
        "General/cors_origins",
        "General/drain_seconds",
        "General/max_body_mib",
        "General/engine",
        "General/llama_server_path",
    }


def test_every_option_has_help_and_choices_come_from_the_type() -> None:
    options = {item.path: item for item in LlamaCppSettings.options(entry=False)}
    assert all(len(item.help) > 10 for item in options.values())
    assert options["Model/numa"].choices == ("distributed", "isolate", "numactl")
    assert options["Model/split_mode"].choices == ("none", "layer", "row")
    assert options["General/hugging_face_token"].secret
    assert options["General/api_key"].secret
    assert options["Model/temperature"].per_model
    assert not options["General/port"].per_model


def test_secrets_are_not_shown_by_the_settings_themselves() -> None:
    general = LlamaCppGeneral.model_validate(
        {"api_key": "sesame-open", "hugging_face_token": "hf_x1"}
    )
    assert "sesame" not in repr(general)
    assert "hf_x1" not in str(general)


def test_two_names_of_one_switch_give_one_value() -> None:
    assert LlamaCppModel(no_mmap=True).mmap is False
    assert LlamaCppModel(use_mmap=False).mmap is False
    assert LlamaCppModel().mmap is None
    assert LlamaCppModel(max_batch_size=3).slots == 3
    assert LlamaCppModel(parallel=4, max_batch_size=4).slots == 4
