"""Whether a model fits onto the GPUs, and what vLLM has to be told so that it does. Pure.

Which GPUs a model is on: the workers of tensor and of pipeline parallelism, those of one pipeline stage
first, each replica of data parallelism after the one before it, take the visible devices in their order
(`local_rank` in vllm/v1/executor/multiproc_executor.py, the offset by `data_parallel_rank_local` in
vllm/v1/worker/gpu_worker.py). Each worker takes the same share (``--gpu-memory-utilization``) of the whole
of its GPU, whatever the model: the weights, and KV cache in the rest.

While an engine sleeps, its CUDA context and graphs stay on its GPU, and with several workers the
buffers of NCCL: some hundred MiB to 1.5 GiB each were reported (vLLM's pull requests 11743, 45623, 51485). Where
models sleep, a share that nobody said leaves room for those of the other models.

A model whose weights are larger than the share has a part of them in host RAM (``--cpu-offload-gb``, for
each GPU), where "Max CUDA Memory (GiB)" exceeds the GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from packaging.version import Version

from apps.vllm.facts import EngineFacts
from apps.vllm.inspected_model import HOST_OVERHEAD, InspectedModel
from apps.vllm.model_config import parallel_problem
from common.errors import CapacityError, ConfigurationError, Problem
from common.models.memory import AvailableMemory, GpuMemory, MemoryNeed
from common.models.progress import render_gib

_GIB = 2**30
# vLLM's share of a GPU when nothing is said, and since when it is the second.
_SHARES = (0.9, 0.92)
_SECOND_SHARE_SINCE = Version("0.20")
# What a share holds beside weights and KV cache: activations of the largest batch, CUDA graphs.
_ACTIVATIONS = _GIB

# What stays on each GPU while an engine sleeps: alone there, and beside other workers.
_ASLEEP_BYTES = _GIB
_NCCL_BYTES = _GIB

_SHARE = "--gpu-memory-utilization"
_OFFLOAD = "--cpu-offload-gb"


@dataclass(frozen=True)
class ShareLimits:
    """What bounds the share of the GPUs that a model gets, where nobody said one.

    Attributes:
        budget_gib: What the instance may take of all GPUs together; None: what there is.
        sleepers: Other models of the instance that may sleep on the same GPUs.
    """

    budget_gib: float | None = None
    sleepers: int = 0


@dataclass(frozen=True)
class Fitted:
    """How a model fits.

    Attributes:
        need: What it takes.
        flags: What the engine has to be told, so that it fits.
        lines: What of that the user should know.
    """

    need: MemoryNeed
    flags: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


def fit_into_gpus(
    model: InspectedModel, memory: AvailableMemory, facts: EngineFacts, limits: ShareLimits | None
) -> Fitted:
    """What a model takes of the GPUs; the module's docstring has the rules.

    Args:
        model: The model.
        memory: What is left for it.
        facts: The vLLM that will run.
        limits: What bounds the share that this model gets; None: it was told its share.

    Raises:
        ConfigurationError: The GPUs do not divide the attention heads.
        CapacityError: It cannot fit; says what it needs and what there is.
    """
    flags = model.flags
    offload = int(flags.number(_OFFLOAD, 0) * _GIB)
    if flags.text("--distributed-executor-backend") == "ray" or not memory.gpus:
        # Which GPUs, and how much of each, is not known here.
        return Fitted(MemoryNeed(HOST_OVERHEAD + offload, 0))
    split = flags.whole("--tensor-parallel-size", 1)
    _check_split(model, split)
    workers = (
        split * flags.whole("--pipeline-parallel-size", 1) * flags.whole("--data-parallel-size", 1)
    )
    gpus = memory.gpus[:workers]
    asleep = _ASLEEP_BYTES + _NCCL_BYTES * (workers > 1)
    default = _SHARES[facts.catalogue.release >= _SECOND_SHARE_SINCE]
    share = flags.number(_SHARE, default)
    told: dict[str, str] = {}
    lines: list[str] = []
    within = share if limits is None else _within(share, limits, gpus, memory.gpus, asleep)
    if limits is not None and within < share:
        share = within
        told[_SHARE] = f"{share:g}"
        lines.append(_describe_share(model, share, limits))
    _check_shares(model, gpus, share)
    taken = tuple(int(share * gpu.total_bytes) for gpu in gpus)
    if spill := _spill(model, gpus, sum(taken) + offload * len(gpus)):
        _check_spill(model, facts, memory, offload + spill, len(gpus))
        offload += spill
        told[_OFFLOAD] = f"{offload / _GIB:.4g}"
        lines.append(_describe_spill(gpus, sum(taken), spill, offload))
    _check_room(model, gpus, share, sum(taken) + offload * len(gpus), has_offload=offload > 0)
    by_gpu = (*taken, *[0] * (len(memory.gpus) - len(taken)))
    stays = (*[asleep] * len(taken), *[0] * (len(memory.gpus) - len(taken)))
    need = MemoryNeed(HOST_OVERHEAD + offload * len(gpus), sum(taken), by_gpu, stays)
    return Fitted(need, told, tuple(lines))


def _within(
    share: float,
    limits: ShareLimits,
    gpus: Sequence[GpuMemory],
    all_gpus: Sequence[GpuMemory],
    asleep: int,
) -> float:
    """The largest share, up to the one given, that keeps within the limits; in thousandths."""
    total = sum(gpu.total_bytes for gpu in all_gpus)
    found = share
    if limits.budget_gib is not None:
        found = min(found, share * limits.budget_gib * _GIB / total)
    if limits.sleepers:
        # Never less than half: rather are models stopped that would sleep.
        left = min((gpu.free_bytes - limits.sleepers * asleep) / gpu.total_bytes for gpu in gpus)
        found = min(found, max(left, found / 2))
    return share if found >= share else int(1000 * found) / 1000


def _describe_share(model: InspectedModel, share: float, limits: ShareLimits) -> str:
    reasons = []
    if limits.budget_gib is not None:
        reasons.append(f'"Max CUDA Memory (GiB)" is {limits.budget_gib:g}')
    if limits.sleepers:
        others = "the other model" if limits.sleepers == 1 else f"{limits.sleepers} other models"
        reasons.append(f"{others} may sleep there and keep some of it")
    return f'"{model.title(_SHARE)}" is {share:g}, since {" and ".join(reasons)}'


def _spill(model: InspectedModel, gpus: Sequence[GpuMemory], room: int) -> int:
    """Bytes of each GPU's weights that have to be in host RAM, and by the budget may; 0: none."""
    most = min(gpu.surplus_bytes for gpu in gpus)
    wanted = model.weights_bytes + (model.request_bytes or 0)
    # Each worker has the same part of the weights; the cache stays on the GPU.
    lacking = -(-(wanted - room) // len(gpus))
    if lacking <= 0 or lacking > model.weights_bytes // len(gpus):
        return 0
    spill = -(-(lacking + _ACTIVATIONS) * 10 // _GIB) * _GIB // 10
    return spill if spill <= most else 0


def _check_spill(
    model: InspectedModel, facts: EngineFacts, memory: AvailableMemory, offload: int, gpus: int
) -> None:
    if _OFFLOAD not in facts.catalogue:
        raise CapacityError(
            f"{model.name} is larger than the GPUs, and vLLM {facts.catalogue.version} cannot keep a "
            f"part of it in host memory (it has no {_OFFLOAD}). Use another version, more GPUs or a "
            "quantized model."
        )
    need = HOST_OVERHEAD + offload * gpus
    if need > memory.host_bytes:
        raise CapacityError(
            f"{model.name} is larger than {_of_gpus(gpus)}: {render_gib(offload * gpus)} of it would be "
            f"in host memory, {render_gib(need)} with vLLM itself, where "
            f"{render_gib(memory.host_bytes)} can be had. Use more GPUs, a quantized model, or a "
            "machine with more memory."
        )


def _describe_spill(gpus: Sequence[GpuMemory], taken: int, spill: int, offload: int) -> str:
    each = " on each GPU" if len(gpus) > 1 else ""
    own = f" ({_OFFLOAD} {offload / _GIB:.4g} with what the form says)" if offload > spill else ""
    return (
        f"larger than the {render_gib(taken)} that it gets of {_of_gpus(len(gpus))}: "
        f"{render_gib(spill)} of its weights{each} are in host memory instead "
        f'("Max CUDA Memory (GiB)"){own}, which is slower'
    )


def _check_room(
    model: InspectedModel, gpus: Sequence[GpuMemory], share: float, room: int, *, has_offload: bool
) -> None:
    """Refuse what cannot be loaded, or has no room for one request."""
    if model.weights_bytes > room:
        surplus = sum(gpu.surplus_bytes for gpu in gpus)
        also = (
            f'; "Max CUDA Memory (GiB)" allows {render_gib(surplus)} more in host memory'
            if surplus
            else ""
        )
        raise CapacityError(
            f"{model.name} does not fit: its weights are {render_gib(model.weights_bytes)}, and "
            f"{_of_gpus(len(gpus))} with {render_gib(sum(gpu.total_bytes for gpu in gpus))} give "
            f'{render_gib(room)} ("{model.title(_SHARE)}" {share:g}'
            f"{', CPU offload included' if has_offload else ''}){also}. Use more GPUs, a quantized "
            f'model, or "{model.title(_OFFLOAD)}".'
        )
    request = model.request_bytes
    left = room - model.weights_bytes
    if request and request > left:
        fitting = (model.tokens or 0) * left // request // 16 * 16
        advice = (
            f'Set "{model.title("--max-model-len")}" to {fitting:,} or less, or use'
            if fitting
            else "Use"
        )
        raise CapacityError(
            f"{model.name} with a context of {model.tokens:,} tokens does not fit: weights "
            f"{render_gib(model.weights_bytes)} and {render_gib(request)} of KV cache for one request "
            f"are more than the {render_gib(room)} of {_of_gpus(len(gpus))}. {advice} more GPUs."
        )


def _check_split(model: InspectedModel, split: int) -> None:
    if not model.flags.changes_config and (message := parallel_problem(model.config, split)):
        title = model.title("--tensor-parallel-size")
        raise ConfigurationError([Problem(f'the number of GPUs ("{title}"), {split}, {message}')])


def _check_shares(model: InspectedModel, gpus: Sequence[GpuMemory], share: float) -> None:
    """Refuse what vLLM refuses: each GPU must have the share free when it starts."""
    for number, gpu in enumerate(gpus):
        if gpu.free_bytes < share * gpu.total_bytes:
            fitting = int(100 * gpu.free_bytes / gpu.total_bytes) / 100
            raise CapacityError(
                f"{model.name} takes {share:g} of each GPU, which is "
                f"{render_gib(int(share * gpu.total_bytes))} of {gpu.name} (GPU {number}), where "
                f"{render_gib(gpu.free_bytes)} of {render_gib(gpu.total_bytes)} are free. Set "
                f'"{model.title(_SHARE)}" to {fitting:g} or less (of all '
                "models on a GPU together at most 0.95), or free the GPU."
            )


def _of_gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"
