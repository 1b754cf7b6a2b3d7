"""A model's files against its settings and the machine, before vLLM sees them.

What is refused here would fail: vLLM takes its share of each GPU whatever the model, so a model fits
when the share is free and the weights with one whole request fit into it. The flags that it will be
given are judged, whichever field says them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from apps.vllm.command import write_vllm_command
from apps.vllm.facts import EngineFacts
from apps.vllm.inspected_model import InspectedModel, need_of_host
from apps.vllm.memory_fit import Fitted, ShareLimits, fit_into_gpus
from apps.vllm.model_config import (
    check_model_config,
    context_limit,
    text_config,
)
from apps.vllm.model_memory import loaded_bytes
from apps.vllm.passed_flags import PassedFlags
from apps.vllm.request import EngineRequest
from apps.vllm.translation.machine import said_share
from apps.vllm.translation.sleep_mode import SLEEP
from common.errors import ConfigurationError, ModelFormatError, Problem
from common.models.fetch import ModelFiles
from common.models.memory import AvailableMemory, MemoryNeed
from common.models.progress import render_gib
from common.models.repository import (
    ADAPTER_CONFIG,
    check_weights,
    read_json,
    read_tensors,
    weights_bytes,
)
from common.models.safetensors import count_parameters
from common.runtime.app import AnySettings, Inspection, ModelPlan

__all__ = ["check_adapters", "check_model_config", "inspect_model"]

_DEFAULT_RANK = 16
_FROM_FILES = {None, "auto", "safetensors", "pt", "npcache", "mistral", "bitsandbytes"}


def inspect_model(
    plan: ModelPlan,
    files: ModelFiles,
    settings: AnySettings,
    memory: AvailableMemory,
    facts: EngineFacts,
) -> Inspection:
    """Check a model's files, its companions' and what they need. Blocks for milliseconds.

    Args:
        plan: The model, with its companions' places.
        files: Its files; `first` is the folder.
        settings: The instance's settings.
        memory: What is left for it on this machine.
        facts: The vLLM that will run.

    Returns:
        Lines for the console, and what it will take.

    Raises:
        ModelFormatError: No weights, some of them missing, or damaged.
        ConfigurationError: The GPUs do not divide the attention heads.
        CapacityError: It cannot fit into `memory`; says what it needs and what there is.
    """
    flags = PassedFlags(write_vllm_command(plan, settings, facts).argv, facts.catalogue)
    folder = files.first
    config = _read_config(folder, plan.name)
    load_format = flags.text("--load-format")
    if load_format in _FROM_FILES:
        check_weights(folder, plan.name)
    for key, path in plan.companions.items():
        if key != "tokenizer":
            check_weights(path, f"the {key.replace('_', ' ').replace('lora:', 'LoRA adapter ')}")
    is_dummy = load_format == "dummy"
    stored = 0 if is_dummy else weights_bytes(folder)
    tensors = {} if is_dummy else read_tensors(folder)
    loaded = loaded_bytes(tensors, flags, config, facts.build) if tensors else stored
    titles = {option.flag: option.title for option in settings.options() if option.flag}
    model = InspectedModel(plan.name, flags, titles, config, loaded, _tokens(flags, config))
    if facts.build == "cpu":
        fitted = Fitted(need_of_host(model, memory, facts))
    else:
        is_said = said_share(EngineRequest(plan.options, settings)) is not None
        shared = settings.memory
        can_sleep = shared.cpu_offloading and SLEEP in facts.catalogue
        sleepers = len(settings.models) - 1 if can_sleep else 0
        limits = None if is_said else ShareLimits(shared.max_cuda_gib, sleepers)
        fitted = fit_into_gpus(model, memory, facts, limits)
    lines = (_describe(model, tensors, stored), _describe_need(model, fitted.need), *fitted.lines)
    return Inspection(lines, fitted.need, fitted.flags, weights_bytes=loaded)


def _read_config(folder: Path, name: str) -> Mapping[str, Any]:
    """The model's configuration; empty where only Mistral's own form of it is there."""
    path = folder / "config.json"
    if path.is_file():
        return read_json(path, name)
    adapter = folder / ADAPTER_CONFIG
    if adapter.is_file():
        base = read_json(adapter, name).get("base_model_name_or_path")
        of = f" of {base}" if base else ""
        raise ModelFormatError(
            f"{name} is a LoRA adapter{of}, no model: give that model, and the adapter as "
            '"LoRA Modules" (LoRA/lora_modules).'
        )
    return {}


def _tokens(flags: PassedFlags, config: Mapping[str, Any]) -> int | None:
    """The context that the engine will make room for; None where this is left to the engine."""
    if "--max-model-len" in flags:
        return flags.whole("--max-model-len", 0) or None
    text = text_config(config)
    rope = text.get("rope_scaling") or text.get("rope_parameters")
    if flags.changes_config or (rope and rope.get("rope_type", rope.get("type")) != "default"):
        return None
    limit = context_limit(config, without_window="--disable-sliding-window" in flags)
    return limit.tokens if limit else None


# -- LoRA -----------------------------------------------------------------------------------------


def check_adapters(plan: ModelPlan, settings: AnySettings, facts: EngineFacts) -> None:
    """Check a model's adapters, before the model itself is there. Blocks for milliseconds.

    Raises:
        ModelFormatError: The configuration of one cannot be read.
        ConfigurationError: The rank of one is above "Max LoRA Rank".
    """
    flags = PassedFlags(write_vllm_command(plan, settings, facts).argv, facts.catalogue)
    limit = flags.whole("--max-lora-rank", _DEFAULT_RANK)
    ranks = {
        key.partition(":")[2]: _rank(path, key)
        for key, path in plan.companions.items()
        if key.startswith("lora:")
    }
    above = {name: rank for name, rank in ranks.items() if rank > limit}
    if not above:
        return
    flag = facts.catalogue.find("--max-lora-rank")
    choices = sorted(int(choice) for choice in (flag.choices if flag else ()) if choice.isdigit())
    highest = max(above.values())
    fitting = next((choice for choice in choices if choice >= highest), highest)
    names = ", ".join(f"{name!r} has rank {rank}" for name, rank in above.items())
    option = next(item for item in settings.options() if item.flag == "--max-lora-rank")
    said = flags.text("--max-lora-rank")
    raise ConfigurationError(
        [
            Problem(
                f"the LoRA adapter {names}, and {limit} is the limit"
                f"{'' if said else ' when this is empty'}. Set it to {fitting}",
                title=option.title,
                path=option.path,
                value=said,
            )
        ]
    )


def _rank(folder: Path, key: str) -> int:
    config = read_json(folder / ADAPTER_CONFIG, f"the {key.replace('lora:', 'adapter ')}")
    patterns = config.get("rank_pattern")
    ranks = [config.get("r", 0), *(patterns.values() if isinstance(patterns, dict) else ())]
    return max(int(rank) for rank in ranks if isinstance(rank, int))


# -- words ----------------------------------------------------------------------------------------


def _describe(model: InspectedModel, tensors: Mapping[str, Any], stored: int) -> str:
    names = model.config.get("architectures") or [model.config.get("model_type") or "a model"]
    parts = [f"{model.name}: {', '.join(map(str, names))}"]
    count, kind = count_parameters(tensors.values())
    quantized = model.config.get("quantization_config")
    if isinstance(quantized, Mapping):
        parts.append(f"quantized ({quantized.get('quant_method', 'its own way')})")
    elif count:
        parts.append(f"{_short(count)} parameters in {kind}")
    parts.append(f"{render_gib(stored)} of weights" if stored else "random weights")
    return ", ".join(parts)


def _describe_need(model: InspectedModel, need: MemoryNeed) -> str:
    context = f"context {model.tokens:,} tokens; " if model.tokens else ""
    gpu = f", {render_gib(need.gpu_bytes)} of GPU memory" if need.gpu_bytes else ""
    return f"{context}expected memory {render_gib(need.host_bytes)}{gpu}"


def _short(count: int) -> str:
    for size, unit in _units():
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def _units() -> Iterator[tuple[float, str]]:
    yield from ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
