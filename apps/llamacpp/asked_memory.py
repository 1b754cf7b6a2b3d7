"""What a model's settings ask of the memory, from the form's fields or from CLI. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from apps.llamacpp.command import DEFAULT_BATCH, DEFAULT_SLOTS
from apps.llamacpp.flags import BUNDLED_CATALOGUE, EngineFlags, load_catalogue
from apps.llamacpp.options import LlamaCppModel
from common.models.footprint import CACHE_TYPES, CacheRequest, ModelShape
from common.models.gpu_split import GpuSplit
from common.options.cli_field import ParsedCli, parse_cli

_DEFAULT_UBATCH = 512
# llama-server's context for a file that does not say what it was trained with.
_UNTOLD_CONTEXT = 4096


@dataclass(frozen=True)
class Asked:
    """What the settings ask of the memory, from the form's fields or from CLI.

    Attributes:
        request: Context, slots, cache types; one slot where the slots share a cache.
        gpu_layers: Layers for the GPUs; None leaves it to the engine, which takes what fits.
        offload_kv: Whether the cache goes with its layers.
        is_open: The context was left to the model and the engine.
        split: How several GPUs share the model.
        maps_files: Whether the engine maps the file.
    """

    request: CacheRequest
    gpu_layers: int | None
    offload_kv: bool
    is_open: bool
    split: GpuSplit = GpuSplit()
    maps_files: bool = True


def read_request(options: LlamaCppModel, shape: ModelShape) -> Asked:
    """Work out what a model's settings ask for, as the command does."""
    trained = shape.trained_context or _UNTOLD_CONTEXT
    if options.cli is not None:
        return _from_cli(options.cli, trained)
    slots = options.slots or DEFAULT_SLOTS
    ubatch = options.max_physical_batch_total_tokens or _DEFAULT_UBATCH
    if options.embedding and options.max_physical_batch_total_tokens is None:
        ubatch = options.max_batch_total_tokens or DEFAULT_BATCH
    is_open = not options.request_context
    request = CacheRequest(
        context=options.request_context or trained,
        slots=1 if is_open else slots,
        cache_type_k=options.type_k or "f16",
        cache_type_v=options.type_v or "f16",
        ubatch=ubatch,
        flash_attention=options.flash_attention is not False,
    )
    split = GpuSplit(
        options.split_mode or "layer", options.main_gpu or 0, _shares(options.tensor_split or "")
    )
    return Asked(
        request,
        options.number_of_gpu_layers,
        options.offload_kqv is not False,
        is_open,
        split,
        options.mmap is not False,
    )


def _from_cli(cli: str, trained: int) -> Asked:
    flags = EngineFlags(load_catalogue(BUNDLED_CATALOGUE).table)
    parsed = parse_cli(cli, flags.table)
    context = _number(parsed, "--ctx-size") or 0
    slots = _number(parsed, "--parallel") or 1
    # --ctx-size is the sum over the slots; where CLI says neither, one cache is shared.
    cache_k, cache_v = (_cache_type(parsed, f"--cache-type-{half}") for half in "kv")
    offload = parsed.last("--kv-offload")
    request = CacheRequest(
        context=max(context, 1) if context else trained,
        slots=1,
        cache_type_k=cache_k,
        cache_type_v=cache_v,
        ubatch=_number(parsed, "--ubatch-size") or _DEFAULT_UBATCH,
    )
    is_open = not context and slots == 1
    layers = _number(parsed, "--gpu-layers")
    offload_kv = not (offload and offload.is_negated)
    return Asked(request, layers, offload_kv, is_open, _split(parsed), _maps_files(parsed, cli))


def _split(parsed: ParsedCli) -> GpuSplit:
    mode = _text(parsed, "--split-mode")
    known = cast('Literal["none", "layer", "row"]', mode) if mode in ("none", "row") else "layer"
    main = _number(parsed, "--main-gpu")
    return GpuSplit(known, max(main or 0, 0), _shares(_text(parsed, "--tensor-split")))


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in re.split("[,/]+", text) if part.strip())
    except ValueError:
        return ()  # the engine says what is wrong


def _maps_files(parsed: ParsedCli, cli: str) -> bool:
    mode = _text(parsed, "--load-mode")
    # Older engines have a flag of its own, which the catalogue of the newest does not know.
    return "mmap" in mode if mode else "--no-mmap" not in cli.split()


def _text(parsed: ParsedCli, name: str) -> str:
    item = parsed.last(name)
    return item.values[0] if item is not None and item.values else ""


def _number(parsed: ParsedCli, name: str) -> int | None:
    item = parsed.last(name)
    if item is None or not item.values[0].lstrip("-").isdigit():
        return None
    return int(item.values[0])


def _cache_type(parsed: ParsedCli, name: str) -> str:
    item = parsed.last(name)
    return item.values[0] if item is not None and item.values[0] in CACHE_TYPES else "f16"
