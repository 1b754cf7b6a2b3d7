"""How llama.cpp divides a model between host RAM and GPUs, and whether it fits there. Pure.

The rules are those of `llama_model_base::load_tensors` (src/llama-model.cpp), of releases since the
engine chooses its own GPU layers (``--fit``):

* A model of L layers has L + 1 slots; the last is the output. Of n GPU layers the last n slots are on
  GPUs: `first = max(L + 1 - n, 0)`, so that one GPU layer is the output alone. The token embeddings
  always stay in host RAM; where they are the output too, the GPU gets a copy.
* Split mode *layer* (the default): a slot's GPU is the first whose cumulated share of ``--tensor-split``
  exceeds `(slot - first) / slots on GPUs`. Without shares, or with zeros alone, they are the free bytes of
  each GPU. A layer's cache is where the layer is.
* Split mode *row*: the rows of each matrix are divided by the shares (``ggml_backend_cuda_split_buffer_type``;
  without shares by the total memory of the GPUs); the caches lie as with *layer*.
* Split mode *none*: all on ``--main-gpu``, 0 if not given.
* Every GPU that is used has a context and a compute buffer of its own.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from common.errors import CapacityError
from common.models.footprint import (
    CONTEXT_STEP,
    CacheRequest,
    ModelShape,
    estimate_memory,
    kv_bytes_by_layer,
    with_context,
)
from common.models.memory import AvailableMemory, GpuMemory, MemoryNeed
from common.models.progress import render_gib

ALL_LAYERS = 9999
"""More layers than any model has."""

# A context per GPU costs this before any tensor (CUDA kernels, cuBLAS workspaces).
_GPU_OVERHEAD_BYTES = 400 * 2**20
# The engine's program, its buffers and its tokenizer.
_HOST_OVERHEAD_BYTES = 150 * 2**20


@dataclass(frozen=True)
class GpuSplit:
    """What the settings say about several GPUs.

    Attributes:
        mode: Split mode.
        main_gpu: The one of mode *none*.
        shares: Tensor split, as it was given; empty: the engine's own.
    """

    mode: Literal["none", "layer", "row"] = "layer"
    main_gpu: int = 0
    shares: tuple[float, ...] = ()

    def used(self, gpus: Sequence[GpuMemory]) -> tuple[int, ...]:
        """Which GPUs the model is on, by their places."""
        if self.mode == "none":
            return (min(self.main_gpu, len(gpus) - 1),) if gpus else ()
        return tuple(range(len(gpus)))

    def given(self, count: int) -> tuple[float, ...] | None:
        """The shares of so many GPUs, as the engine takes them; None: it chooses."""
        shares = (*self.shares, *[0.0] * count)[:count]
        return shares if any(shares) else None


def plan_memory(
    shape: ModelShape,
    request: CacheRequest,
    gpu_layers: int,
    gpus: Sequence[GpuMemory],
    *,
    offload_kv: bool = True,
    split: GpuSplit = GpuSplit(),
) -> MemoryNeed:
    """Divide a model's need; the module's docstring has the rules.

    Args:
        shape: The model's numbers.
        request: Context, slots, cache types.
        gpu_layers: Layers that go to the GPUs; more than the model has means all.
        gpus: The GPUs there are; their free bytes count where the engine chooses by them.
        offload_kv: Whether the cache of those layers goes there as well.
        split: What the settings say about several GPUs.
    """
    estimate = estimate_memory(shape, request)
    used = split.used(gpus)
    if not used or gpu_layers <= 0:
        return MemoryNeed(estimate.total_bytes + _HOST_OVERHEAD_BYTES, 0)
    placed = _Placed(shape, request, gpu_layers, [gpus[index] for index in used], split)
    sizes = placed.sizes(offload_kv=offload_kv)
    host = estimate.weights_bytes + estimate.kv_bytes - sum(sizes) + _HOST_OVERHEAD_BYTES
    sizes[placed.device_of(shape.layers)] += shape.tied_bytes
    per_gpu = estimate.compute_bytes + _GPU_OVERHEAD_BYTES
    by_gpu = [0] * len(gpus)
    for index, size in zip(used, sizes, strict=True):
        by_gpu[index] = size + per_gpu
    return MemoryNeed(host, sum(by_gpu), tuple(by_gpu))


def check_fits(
    shape: ModelShape,
    request: CacheRequest,
    memory: AvailableMemory,
    *,
    model: str,
    gpu_layers: int = 0,
    offload_kv: bool = True,
    split: GpuSplit = GpuSplit(),
) -> MemoryNeed:
    """Refuse a model that the memory cannot hold.

    Args:
        shape: The model's numbers.
        request: Context, slots, cache types.
        memory: What there is.
        model: The model as the user named it.
        gpu_layers: Layers that go to the GPUs; more than the model has means all.
        offload_kv: Whether the cache of those layers goes there as well.
        split: What the settings say about several GPUs.

    Returns:
        What it needs.

    Raises:
        CapacityError: With the numbers and the largest context that would fit, or that none does.
    """
    gpus = memory.gpus if gpu_layers > 0 else ()

    def need_at(context: int) -> MemoryNeed:
        asked = with_context(request, context)
        return plan_memory(shape, asked, gpu_layers, gpus, offload_kv=offload_kv, split=split)

    need = need_at(request.context)
    if fits(need, memory):
        return need
    largest = largest_context(request.context, lambda context: fits(need_at(context), memory))
    raise CapacityError(_refusal(shape, request, memory, need, model, largest))


def fits(need: MemoryNeed, memory: AvailableMemory) -> bool:
    """Whether each GPU, and the host, has what is needed of it."""
    return need.host_bytes <= memory.host_bytes and all(
        size <= gpu.free_bytes for size, gpu in zip(need.by_gpu, memory.gpus, strict=False)
    )


def largest_context(most: int, can: Callable[[int], bool]) -> int:
    """The largest context of at most `most` tokens, in the engine's steps, that can be had; 0: none."""
    low, high = 0, most // CONTEXT_STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if can(middle * CONTEXT_STEP) else (low, middle - 1)
    return low * CONTEXT_STEP


class _Placed:
    """The slots of one model on the GPUs that it is on."""

    def __init__(
        self,
        shape: ModelShape,
        request: CacheRequest,
        gpu_layers: int,
        gpus: Sequence[GpuMemory],
        split: GpuSplit,
    ) -> None:
        self._shape = shape
        self._request = request
        self._first = max(shape.layers + 1 - gpu_layers, 0)
        self._count = shape.layers + 1 - self._first
        given = split.given(len(gpus)) if split.mode != "none" else None
        self._by_slot = _cumulated(given or [float(gpu.free_bytes) for gpu in gpus])
        self._rows = None
        if split.mode == "row":
            self._rows = _normalised(given or [float(gpu.total_bytes) for gpu in gpus])
        self._gpus = len(gpus)

    def device_of(self, slot: int) -> int:
        """Which of the GPUs has a slot that is on GPUs."""
        part = (slot - self._first) / self._count
        return min(bisect.bisect_right(self._by_slot, part), self._gpus - 1)

    def sizes(self, *, offload_kv: bool) -> list[int]:
        """Bytes of weights and caches on each GPU, without the copy of embeddings."""
        shape = self._shape
        sizes = [0] * self._gpus
        weights = dict(enumerate((*shape.layer_bytes, shape.output_bytes)))
        for slot in range(self._first, shape.layers + 1):
            self._add_weights(sizes, slot, weights[slot])
        if offload_kv:
            caches = kv_bytes_by_layer(shape, self._request)
            state = shape.state_bytes_per_slot * self._request.slots // shape.layers
            for slot in range(self._first, shape.layers):
                sizes[self.device_of(slot)] += caches[slot] + state
        return sizes

    def _add_weights(self, sizes: list[int], slot: int, size: int) -> None:
        if self._rows is None:
            sizes[self.device_of(slot)] += size
            return
        left = size
        for device, share in enumerate(self._rows):
            part = left if device == self._gpus - 1 else min(left, int(size * share))
            sizes[device] += part
            left -= part


def _normalised(shares: Sequence[float]) -> list[float]:
    total = sum(shares)
    return [share / total if total else 1 / len(shares) for share in shares]


def _cumulated(shares: Sequence[float]) -> list[float]:
    return list(itertools.accumulate(_normalised(shares)))


def _refusal(
    shape: ModelShape,
    request: CacheRequest,
    memory: AvailableMemory,
    need: MemoryNeed,
    model: str,
    largest: int,
) -> str:
    estimate = estimate_memory(shape, request)
    slots = f" for each of {request.slots} parallel requests" if request.slots > 1 else ""
    lines = [
        f"{model} with a context of {request.context:,} tokens{slots} does not fit into memory: "
        f"weights {render_gib(estimate.weights_bytes)}, KV cache {render_gib(estimate.kv_bytes)}, "
        f"compute buffers {render_gib(estimate.compute_bytes)}."
    ]
    if need.gpu_bytes:
        lines.append(_of_gpus(need, memory.gpus))
    lines.append(
        f"It needs {render_gib(need.host_bytes)} of host memory, where "
        f"{render_gib(memory.host_bytes)} can be had."
    )
    if largest >= CONTEXT_STEP:
        lines.append(
            f'Set "Context Size" to {largest:,} or less, or choose fewer parallel requests or a '
            "smaller cache type."
        )
    else:
        lines.append(
            "No context fits: choose a smaller quantisation or a machine with more memory."
        )
    return " ".join(lines)


def _of_gpus(need: MemoryNeed, gpus: Sequence[GpuMemory]) -> str:
    used = [
        (index, size, gpu.free_bytes)
        for index, (size, gpu) in enumerate(zip(need.by_gpu, gpus, strict=False))
        if size
    ]
    if len(used) == 1:
        _, size, free = used[0]
        return f"It needs {render_gib(size)} on 1 GPU, where {render_gib(free)} are free."
    each = ", ".join(
        f"{render_gib(size)} on GPU {index} ({render_gib(free)} free)" for index, size, free in used
    )
    return f"It needs {render_gib(need.gpu_bytes)} on {len(used)} GPUs: {each}."
