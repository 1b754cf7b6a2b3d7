"""A model's files against its settings and the machine, before vLLM sees them.

What is refused here would fail: vLLM takes its share of each GPU whatever the model, so a model fits
when the share is free and the weights with one whole request fit into it. The flags that it will be
given are judged, whichever field says them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from apps.vllm.command import write_vllm_command
from apps.vllm.facts import EngineFacts
from apps.vllm.machine import CPU_CACHE
from apps.vllm.model_config import (
    check_model_config,
    context_limit,
    parallel_problem,
    text_config,
)
from apps.vllm.model_memory import kv_bytes_per_token, loaded_bytes
from apps.vllm.passed_flags import PassedFlags
from common.errors import CapacityError, ConfigurationError, ModelFormatError, Problem
from common.models.fetch import ModelFiles
from common.models.memory import AvailableMemory, GpuMemory, MemoryNeed
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

_GIB = 2**30
# What the processes of a tiny model hold beside its KV cache (1.34 GiB measured), and a little.
_HOST_OVERHEAD = 3 * _GIB // 2
_DEFAULT_RANK = 16
# vLLM's share of a GPU when nothing is said, and since when it is the second.
_SHARES = (0.9, 0.92)
_SECOND_SHARE_SINCE = Version("0.20")
_FROM_FILES = {None, "auto", "safetensors", "pt", "npcache", "mistral", "bitsandbytes"}


@dataclass(frozen=True)
class _Model:
    """One model: what its engine is given, what the form calls that, what its files say."""

    name: str
    flags: PassedFlags
    titles: Mapping[str, str]
    config: Mapping[str, Any]
    weights_bytes: int
    tokens: int | None

    @property
    def request_bytes(self) -> int | None:
        """KV cache of one request that uses the whole context; None where it cannot be told."""
        each = kv_bytes_per_token(self.config, self.flags)
        return None if each is None or self.tokens is None else each * self.tokens


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
    model = _Model(plan.name, flags, titles, config, loaded, _tokens(flags, config))
    if facts.build == "cpu":
        need = _need_of_host(model, memory, facts)
    else:
        need = _need_of_gpus(model, memory, facts)
    lines = (_describe(model, tensors, stored), _describe_need(model, need))
    return Inspection(lines, need)


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


# -- memory ---------------------------------------------------------------------------------------


def _need_of_host(model: _Model, memory: AvailableMemory, facts: EngineFacts) -> MemoryNeed:
    # Where the worker's environment says it, the facts do not.
    said = os.environ.get(CPU_CACHE, "")
    cache = int((facts.kv_cache_gib or (int(said) if said.isdigit() else 0)) * _GIB)
    request = model.request_bytes
    if cache and request and request > cache:
        fitting = (model.tokens or 0) * cache // request
        raise CapacityError(
            f"{model.name}: one request with the whole context of {model.tokens:,} tokens needs "
            f"{render_gib(request)} of KV cache, and {render_gib(cache)} of host memory are set "
            f'aside for it ({CPU_CACHE}). Set "{_title(model, "--max-model-len")}" to '
            f"{fitting // 16 * 16:,} or less, or give the cache more."
        )
    # Every worker has its part of the weights, and a cache of its own.
    workers = model.flags.whole("--tensor-parallel-size", 1)
    need = model.weights_bytes + cache * workers + _HOST_OVERHEAD
    if need > memory.host_bytes:
        raise CapacityError(
            f"{model.name} does not fit into this machine's memory: weights "
            f"{render_gib(model.weights_bytes)}, KV cache {render_gib(cache * workers)} and "
            f"{render_gib(_HOST_OVERHEAD)} for vLLM itself are {render_gib(need)}, and "
            f"{render_gib(memory.host_bytes)} can be had. Use a smaller model, a smaller KV cache "
            f"({CPU_CACHE}, in GiB), or a machine with more memory."
        )
    return MemoryNeed(need, 0)


def _need_of_gpus(model: _Model, memory: AvailableMemory, facts: EngineFacts) -> MemoryNeed:
    flags = model.flags
    offload = int(flags.number("--cpu-offload-gb", 0) * _GIB)
    if flags.text("--distributed-executor-backend") == "ray" or not memory.gpus:
        # Which GPUs, and how much of each, is not known here.
        return MemoryNeed(_HOST_OVERHEAD + offload, 0)
    stages = flags.whole("--pipeline-parallel-size", 1)
    split = flags.whole("--tensor-parallel-size", 1)
    _check_split(model, split)
    gpus = memory.gpus[: split * stages]
    default = _SHARES[facts.catalogue.release >= _SECOND_SHARE_SINCE]
    share = flags.number("--gpu-memory-utilization", default)
    taken = tuple(int(share * gpu.total_bytes) for gpu in gpus)
    _check_shares(model, gpus, share)
    room = sum(taken) + offload * len(gpus)
    if model.weights_bytes > room:
        raise CapacityError(
            f"{model.name} does not fit: its weights are {render_gib(model.weights_bytes)}, and "
            f"{_of_gpus(len(gpus))} with {render_gib(sum(gpu.total_bytes for gpu in gpus))} give "
            f'{render_gib(room)} ("{_title(model, "--gpu-memory-utilization")}" {share:g}'
            f"{', CPU offload included' if offload else ''}). Use more GPUs, a quantized model, or "
            f'"{_title(model, "--cpu-offload-gb")}".'
        )
    request = model.request_bytes
    left = room - model.weights_bytes
    if request and request > left:
        fitting = (model.tokens or 0) * left // request // 16 * 16
        advice = (
            f'Set "{_title(model, "--max-model-len")}" to {fitting:,} or less, or use'
            if fitting
            else "Use"
        )
        raise CapacityError(
            f"{model.name} with a context of {model.tokens:,} tokens does not fit: weights "
            f"{render_gib(model.weights_bytes)} and {render_gib(request)} of KV cache for one request "
            f"are more than the {render_gib(room)} of {_of_gpus(len(gpus))}. {advice} more GPUs."
        )
    return MemoryNeed(_HOST_OVERHEAD + offload * len(gpus), sum(taken), taken)


def _check_split(model: _Model, split: int) -> None:
    if not model.flags.changes_config and (message := parallel_problem(model.config, split)):
        title = _title(model, "--tensor-parallel-size")
        raise ConfigurationError([Problem(f'the number of GPUs ("{title}"), {split}, {message}')])


def _check_shares(model: _Model, gpus: tuple[GpuMemory, ...], share: float) -> None:
    """Refuse what vLLM refuses: each GPU must have the share free when it starts."""
    for number, gpu in enumerate(gpus):
        if gpu.free_bytes < share * gpu.total_bytes:
            fitting = int(100 * gpu.free_bytes / gpu.total_bytes) / 100
            raise CapacityError(
                f"{model.name} takes {share:g} of each GPU, which is "
                f"{render_gib(int(share * gpu.total_bytes))} of {gpu.name} (GPU {number}), where "
                f"{render_gib(gpu.free_bytes)} of {render_gib(gpu.total_bytes)} are free. Set "
                f'"{_title(model, "--gpu-memory-utilization")}" to {fitting:g} or less (of all '
                "models on a GPU together at most 0.95), or free the GPU."
            )


def _title(model: _Model, flag: str) -> str:
    """What the form calls a flag's field."""
    return model.titles.get(flag, flag)


def _of_gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


# -- words ----------------------------------------------------------------------------------------


def _describe(model: _Model, tensors: Mapping[str, Any], stored: int) -> str:
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


def _describe_need(model: _Model, need: MemoryNeed) -> str:
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
