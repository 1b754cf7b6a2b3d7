"""Whether a model fits into the memory, and what llama.cpp has to be told so that it does. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from apps.llamacpp.asked_memory import Asked, read_request
from apps.llamacpp.options import LlamaCppModel
from common.models.footprint import CacheRequest, ModelShape, with_context
from common.models.gpu_split import ALL_LAYERS, check_fits, fits, largest_context, plan_memory
from common.models.memory import AvailableMemory, MemoryNeed
from common.models.progress import render_gib

# llama-server lowers a context that was left open no further than this (--fit-ctx).
_LEAST_CONTEXT = 4096


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
        is_said = said is not None and said > 0
        layers = said if is_said and said is not None else ALL_LAYERS
        flags, lines = self._lower_context(layers) if is_bound and self._asked.is_open else ({}, ())
        if is_said:
            fitted = self._fit_said(layers)
        else:
            fitted = self._fit_bound() if is_bound else self._fit_open()
        return replace(fitted, flags={**flags, **fitted.flags}, lines=(*lines, *fitted.lines))

    def _lower_context(self, layers: int) -> tuple[dict[str, str], tuple[str, ...]]:
        """Ask for the largest context with which so many layers fit, or for the least one."""
        asked = self._asked.request

        def can(context: int) -> bool:
            return fits(self._need(layers, with_context(asked, context)), self._memory)

        if can(asked.context):
            return {"--ctx-size": str(asked.context)}, ()
        found = max(largest_context(asked.context, can), min(_LEAST_CONTEXT, asked.context))
        self._asked = replace(self._asked, request=with_context(asked, found))
        line = (
            f"the context is {found:,} tokens instead of {asked.context:,}, so that the model fits; "
            '"Context Size" sets another'
        )
        return {"--ctx-size": str(found)}, (line,)

    def _fit_said(self, said: int) -> Fitted:
        """As many layers as were asked for; fewer where a budget lets host RAM stand for the rest."""
        gpus = self._memory.gpus
        if not any(gpu.surplus_bytes for gpu in gpus) or fits(self._need(said), self._memory):
            return Fitted(self._check(said), self._asked.request)
        wider = tuple(replace(gpu, free_bytes=gpu.free_bytes + gpu.surplus_bytes) for gpu in gpus)
        self._check(said, replace(self._memory, gpus=wider))
        layers = self._most_layers(said)
        if layers is None:
            return Fitted(self._check(said), self._asked.request)  # the host's memory is short
        need = self._need(layers)
        line = self._partly(layers, self._need(said), need, ' ("Max CUDA Memory (GiB)")')
        return Fitted(need, self._asked.request, {"--gpu-layers": str(layers)}, (line,))

    def _fit_open(self) -> Fitted:
        """As the engine does: as many layers as fit; some split works when both ends are in reach."""
        layers = self._most_layers(self._shape.layers)
        if fits(self._need(ALL_LAYERS), self._memory) or layers is None:
            return Fitted(self._check(ALL_LAYERS), self._asked.request)
        return Fitted(self._need(layers), self._asked.request)

    def _fit_bound(self) -> Fitted:
        """As the engine does with what is free, and as it is then told: as many layers as fit."""
        request = self._asked.request
        if fits(self._need(ALL_LAYERS), self._memory):
            return Fitted(self._need(ALL_LAYERS), request, {"--gpu-layers": str(ALL_LAYERS)})
        layers = self._most_layers(self._shape.layers)
        if layers is None:
            return Fitted(self._check(ALL_LAYERS), request)
        need = self._need(layers)
        line = self._partly(layers, self._need(ALL_LAYERS), need, "")
        return Fitted(need, request, {"--gpu-layers": str(layers)}, (line,))

    def _most_layers(self, most: int) -> int | None:
        """The most GPU layers that fit; None: not even without any does the model."""
        tried = range(min(most, self._shape.layers + 1), -1, -1)
        return next((n for n in tried if fits(self._need(n), self._memory)), None)

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
