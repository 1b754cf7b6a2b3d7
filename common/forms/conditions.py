"""What a form has to know about single options beyond their declarations. Keyed by parameter paths."""

from __future__ import annotations

from collections.abc import Mapping

NEEDS: Mapping[str, tuple[str, bool]] = {
    "Model/tool_call_parser": ("Model/enable_auto_tool_choice", True),
    "Model/tool_parser_plugin": ("Model/enable_auto_tool_choice", True),
    "Model/reasoning_parser": ("Model/enable_reasoning", True),
    "LoRA/lora_modules": ("LoRA/enable_lora", True),
    "LoRA/max_loras": ("LoRA/enable_lora", True),
    "LoRA/long_lora_scaling_factors": ("LoRA/enable_lora", True),
    "LoRA/max_lora_rank": ("LoRA/enable_lora", True),
    "LoRA/lora_extra_vocabulary_size": ("LoRA/enable_lora", True),
    "LoRA/lora_dtype": ("LoRA/enable_lora", True),
    "LoRA/max_cpu_loras": ("LoRA/enable_lora", True),
    "LoRA/enable_lora_bias": ("LoRA/enable_lora", True),
    "LoRA/fully_sharded_loras": ("LoRA/enable_lora", True),
    "General/enable_disk_swapping": ("General/enable_automatic_cpu_offloading", False),
    "General/cuda_memory_manager_minimum_threshold": (
        "General/enable_automatic_cpu_offloading",
        True,
    ),
    "General/max_host_memory_gib": ("General/enable_automatic_cpu_offloading", True),
    "Advanced/enable_disk_swapping": ("Advanced/enable_automatic_cpu_offloading", False),
    "Advanced/max_prompt_adapter_token": ("Advanced/enable_prompt_adapter", True),
}
"""Option -> the switch that it is shown with, and which way that has to be; only of the same form.

A form can only ask for a value of a field above, so what matters with any model, or with a field
below, is always shown.
"""

THREE_WAY = frozenset(
    {
        # On, or left to the engine, unless told otherwise.
        "Model/continuous_batching",
        "Model/enable_automatic_prefix_caching",
        "Model/cancel_on_disconnect",
        # Empty lets the memory decide.
        "Model/preload",
        "Advanced/flash_attention",
        "Advanced/use_mmap",
        "Advanced/offload_kqv",
        "Advanced/enable_chunk_prefill",
        "Advanced/disable_logprobs_during_spec_decoding",
        "General/use_v1_engine",
        # Two names of one switch: off in both is a contradiction.
        "Model/no_mmap",
        # Newer engines log no requests; off asks them to.
        "General/disable_log_requests",
        "General/disable_logging_requests",
    }
)
"""Switches for which "off" is not the same as "not set".

A checkbox is on or off, so these are dropdowns. For the others the engine's default is off.
"""

MODEL_THREE_WAY = frozenset({"Model/trust_remote_code"})
"""The same, where models are a list: a model's own switch then wins over that of all models."""

SOURCES: Mapping[str, str] = {
    "service_project": "project",
    "project_name": "project",
    "queue": "queue",
    "model": "model",
    "tokenizer": "model",
    "speculative_model": "model",
}
"""Field -> the kind of ClearML object that the server offers for it."""
