"""From fields to the flags of one vLLM: each field that was set is settled once.

The catalogue decides wherever it can tell (which flags there are, what they take, which are on their
way out); the version decides the rest (keys of JSON values, what the V0 engine could do alone).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from apps.vllm.translation.config_overrides import write_config_overrides
from apps.vllm.translation.engine_choice import write_engine_choice
from apps.vllm.translation.files import write_adapters, write_revision, write_tokenizer
from apps.vllm.translation.logs import write_log_level, write_request_log
from apps.vllm.translation.machine import write_device, write_profiling
from apps.vllm.translation.plain import write_plain
from apps.vllm.translation.reasoning import write_reasoning, write_tool_choice
from apps.vllm.translation.renamed import (
    write_guided_decoding,
    write_lora_sizes,
    write_media_limit,
    write_pooler,
    write_prompt_adapters,
    write_task,
)
from apps.vllm.translation.speculative import write_speculation
from apps.vllm.translation.writer import CommandWriter

_MERGED = frozenset({"--hf-overrides"})

_RULES: Final[tuple[Callable[[CommandWriter], None], ...]] = (
    write_engine_choice,
    write_log_level,
    write_request_log,
    write_tool_choice,
    write_reasoning,
    write_speculation,
    write_config_overrides,
    write_guided_decoding,
    write_task,
    write_pooler,
    write_prompt_adapters,
    write_media_limit,
    write_lora_sizes,
    write_adapters,
    write_revision,
    write_tokenizer,
    write_device,
    write_profiling,
)


def write_fields(writer: CommandWriter) -> None:
    """Settle every field of the form."""
    _settle_twins(writer)
    for rule in _RULES:
        rule(writer)
    for item in writer.open():
        write_plain(writer, item)


def write_variables(writer: CommandWriter) -> None:
    """Settle the fields that are variables and not arguments; "CLI" does not replace them."""
    write_engine_choice(writer)
    write_log_level(writer)


def _settle_twins(writer: CommandWriter) -> None:
    """Settle the fields that say a flag which an earlier field says: the first counts."""
    for item in writer.open():
        first = writer.request.of(item.flag)[0]
        if item.flag in _MERGED or item is first:
            continue
        name = f'"{first.option.title}" ({first.option.path})'
        if first.value == item.value:
            writer.translate(item, f"nothing: {name} says the same")
        else:
            writer.give_up(item, f"{name} says otherwise for this model, and wins")
