"""A model's files against its settings and the machine, before an engine sees them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from apps.llamacpp.command import DEFAULT_BATCH, DEFAULT_SLOTS
from apps.llamacpp.flags import BUNDLED_CATALOGUE, EngineFlags, load_catalogue
from apps.llamacpp.options import LlamaCppModel
from common.errors import CapacityError
from common.models.footprint import CACHE_TYPES, CacheRequest, ModelShape
from common.models.gguf import GgufHeader
from common.models.memory import AvailableMemory, MemoryNeed, check_fits
from common.models.progress import render_gib
from common.options.cli_field import ParsedCli, parse_cli

_ALL_LAYERS = 9999
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
    """

    request: CacheRequest
    gpu_layers: int | None
    offload_kv: bool
    is_open: bool


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
    return Asked(request, options.number_of_gpu_layers, options.offload_kqv is not False, is_open)


def check_memory(
    options: LlamaCppModel, shape: ModelShape, memory: AvailableMemory, *, model: str
) -> MemoryNeed:
    """Refuse a model that this machine cannot hold.

    Args:
        options: The model's settings.
        shape: Its numbers, from its files.
        memory: What there is.
        model: The model as the user named it.

    Raises:
        CapacityError: With what it needs, what there is, and the largest context that fits.
    """
    asked = read_request(options, shape)

    def fit(layers: int) -> MemoryNeed:
        return check_fits(
            shape,
            asked.request,
            memory,
            model=model,
            gpu_layers=layers,
            offload_kv=asked.offload_kv,
        )

    if asked.gpu_layers is not None and asked.gpu_layers >= 0:
        return fit(asked.gpu_layers)
    if not memory.gpus:
        return fit(0)
    # The engine itself puts as many layers onto the GPUs as fit: some split between all and none
    # works exactly when both ends are within reach together.
    try:
        return fit(_ALL_LAYERS)
    except CapacityError as error:
        for layers in range(shape.layers, -1, -1):
            try:
                return fit(layers)
            except CapacityError:
                continue
        raise error


def describe(
    options: LlamaCppModel, head: GgufHeader, shape: ModelShape, need: MemoryNeed
) -> Iterator[str]:
    """Lines for the console: what the model is, what it takes, and what is odd about it."""
    asked = read_request(options, shape)
    name = head.text("general.name") or head.path.name
    size = render_gib(shape.weights_bytes)
    yield f"{name}: {shape.architecture}, {shape.layers} layers, {size} of weights"
    gpu = f", {render_gib(need.gpu_bytes)} on the GPU" if need.gpu_bytes else ""
    slots = f" x {asked.request.slots} slots" if asked.request.slots > 1 else ""
    shared = ", shared by the slots" if asked.is_open else ""
    yield (
        f"context {asked.request.context:,} tokens{slots}{shared}; "
        f"expected memory {render_gib(need.host_bytes)}{gpu}"
    )
    trained = shape.trained_context
    stretches = any(
        value is not None
        for value in (
            options.rope_scaling,
            options.rope_frequency_scale,
            options.rope_frequency_base,
        )
    )
    if trained and asked.request.context > trained and not stretches:
        yield (
            f'WARNING: "Context Size" is {asked.request.context:,} and the model was trained with '
            f"{trained:,} tokens: answers degrade beyond that"
        )
    is_pooled = bool(head.number(f"{head.architecture}.pooling_type"))
    if (is_pooled or not shape.has_cache) and options.cli is None and not options.embedding:
        yield (
            'WARNING: this is an embedding model; it cannot chat. Switch "Embedding" on to serve '
            "/v1/embeddings"
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
    return Asked(request, layers, not (offload and offload.is_negated), is_open)


def _number(parsed: ParsedCli, name: str) -> int | None:
    item = parsed.last(name)
    if item is None or not item.values[0].lstrip("-").isdigit():
        return None
    return int(item.values[0])


def _cache_type(parsed: ParsedCli, name: str) -> str:
    item = parsed.last(name)
    return item.values[0] if item is not None and item.values[0] in CACHE_TYPES else "f16"
