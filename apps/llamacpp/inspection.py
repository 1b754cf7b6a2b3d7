"""A model's files against its settings and the machine, before an engine sees them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from apps.llamacpp.command import DEFAULT_BATCH, DEFAULT_SLOTS
from apps.llamacpp.flags import BUNDLED_CATALOGUE, EngineFlags, load_catalogue
from apps.llamacpp.options import LlamaCppModel
from common.models.footprint import CACHE_TYPES, CacheRequest, ModelShape, with_context
from common.models.gguf import GgufHeader
from common.models.gpu_split import (
    ALL_LAYERS,
    GpuSplit,
    check_fits,
    fits,
    largest_context,
    plan_memory,
)
from common.models.memory import AvailableMemory, MemoryNeed
from common.models.progress import render_gib
from common.options.cli_field import ParsedCli, parse_cli

_DEFAULT_UBATCH = 512
# llama-server's context for a file that does not say what it was trained with.
_UNTOLD_CONTEXT = 4096
# llama-server lowers a context that was left open no further than this (--fit-ctx).
_LEAST_CONTEXT = 4096


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


@dataclass(frozen=True)
class Fitted:
    """How a model fits.

    Attributes:
        need: What it takes.
        request: What was asked for, with the context that it gets.
        flags: What the engine has to be told, so that it takes no more.
        lines: What of that the user should know.
    """

    need: MemoryNeed
    request: CacheRequest
    flags: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


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


def check_memory(
    options: LlamaCppModel,
    shape: ModelShape,
    memory: AvailableMemory,
    *,
    model: str,
    is_bound: bool = False,
) -> Fitted:
    """Refuse a model that this machine cannot hold.

    Args:
        options: The model's settings.
        shape: Its numbers, from its files.
        memory: What there is; a GPU's surplus is for a model that was told to be on the GPUs.
        model: The model as the user named it.
        is_bound: It may not take more than it is counted with: others share the memory, or there is
            a budget. What was left to the engine, which takes what is free, is then decided here.

    Raises:
        CapacityError: With what it needs, what there is, and the largest context that fits.
    """
    return _Fitting(read_request(options, shape), shape, memory, model).fit(is_bound=is_bound)


class _Fitting:
    """Fits one model into the memory."""

    def __init__(
        self, asked: Asked, shape: ModelShape, memory: AvailableMemory, model: str
    ) -> None:
        self._asked = asked
        self._shape = shape
        self._memory = memory
        self._model = model

    def fit(self, *, is_bound: bool) -> Fitted:
        said = self._asked.gpu_layers
        if not self._memory.gpus or said == 0:
            return Fitted(self._check(0), self._asked.request)
        if said is not None and said > 0:
            return self._fit_said(said)
        return self._fit_bound() if is_bound else self._fit_open()

    def _fit_said(self, said: int) -> Fitted:
        """As many layers as were asked for; fewer where a budget lets host RAM stand for the rest."""
        gpus = self._memory.gpus
        if not any(gpu.surplus_bytes for gpu in gpus) or fits(self._need(said), self._memory):
            return Fitted(self._check(said), self._asked.request)
        wider = tuple(replace(gpu, free_bytes=gpu.free_bytes + gpu.surplus_bytes) for gpu in gpus)
        self._check(said, replace(self._memory, gpus=wider))
        layers = self._most_layers(self._asked.request, said)
        if layers is None:
            return Fitted(self._check(said), self._asked.request)  # the host's memory is short
        need = self._need(layers)
        line = self._partly(layers, self._need(said), need, ' ("Max CUDA Memory (GiB)")')
        return Fitted(need, self._asked.request, {"--gpu-layers": str(layers)}, (line,))

    def _fit_open(self) -> Fitted:
        """As the engine does: as many layers as fit; some split works when both ends are in reach."""
        layers = self._most_layers(self._asked.request, self._shape.layers)
        if fits(self._need(ALL_LAYERS), self._memory) or layers is None:
            return Fitted(self._check(ALL_LAYERS), self._asked.request)
        return Fitted(self._need(layers), self._asked.request)

    def _fit_bound(self) -> Fitted:
        """As the engine does with what is free: a smaller open context first, then fewer layers."""
        asked = self._asked.request
        request = self._lowered() if self._asked.is_open else asked
        flags = {"--ctx-size": str(request.context)} if self._asked.is_open else {}
        lines = []
        if request.context < asked.context:
            lines.append(
                f"the context is {request.context:,} tokens instead of {asked.context:,}, so that "
                'the model fits; "Context Size" sets another'
            )
        if fits(self._need(ALL_LAYERS, request), self._memory):
            flags |= {"--gpu-layers": str(ALL_LAYERS)}
            need = self._need(ALL_LAYERS, request)
            return Fitted(need, request, flags, tuple(lines))
        layers = self._most_layers(request, self._shape.layers)
        if layers is None:
            return Fitted(self._check(ALL_LAYERS), asked)
        need = self._need(layers, request)
        lines.append(self._partly(layers, self._need(ALL_LAYERS, request), need, ""))
        return Fitted(need, request, {**flags, "--gpu-layers": str(layers)}, tuple(lines))

    def _lowered(self) -> CacheRequest:
        """The request with the largest context with which all layers fit, or the least one."""
        asked = self._asked.request

        def can(context: int) -> bool:
            return fits(self._need(ALL_LAYERS, with_context(asked, context)), self._memory)

        if can(asked.context):
            return asked
        found = largest_context(asked.context, can)
        return with_context(asked, max(found, min(_LEAST_CONTEXT, asked.context)))

    def _most_layers(self, request: CacheRequest, most: int) -> int | None:
        """The most GPU layers that fit; None: not even without any does the model."""
        tried = range(min(most, self._shape.layers + 1), -1, -1)
        return next((n for n in tried if fits(self._need(n, request), self._memory)), None)

    def _need(self, layers: int, request: CacheRequest | None = None) -> MemoryNeed:
        return plan_memory(
            self._shape,
            request or self._asked.request,
            layers,
            self._memory.gpus,
            offload_kv=self._asked.offload_kv,
            split=self._asked.split,
        )

    def _check(self, layers: int, memory: AvailableMemory | None = None) -> MemoryNeed:
        return check_fits(
            self._shape,
            self._asked.request,
            memory or self._memory,
            model=self._model,
            gpu_layers=layers,
            offload_kv=self._asked.offload_kv,
            split=self._asked.split,
        )

    def _partly(self, layers: int, wanted: MemoryNeed, need: MemoryNeed, field_title: str) -> str:
        free = sum(gpu.free_bytes for gpu in self._memory.gpus)
        moved = max(0, need.host_bytes - wanted.host_bytes)
        return (
            f"{layers} of {self._shape.layers + 1} layers (the output counts as one) are on the GPUs: "
            f"it would take {render_gib(wanted.gpu_bytes)} there, and {render_gib(free)} can be had. "
            f"{render_gib(moved)} are in host memory instead{field_title}, which is slower"
        )


def describe(
    options: LlamaCppModel, head: GgufHeader, shape: ModelShape, fitted: Fitted
) -> Iterator[str]:
    """Lines for the console: what the model is, what it takes, and what is odd about it."""
    need = fitted.need
    asked = replace(read_request(options, shape), request=fitted.request)
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
    yield from fitted.lines
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
