"""What a model takes of each pool while it answers and while it is put aside. Pure.

From the need that its app's inspection found to the planner's `Footprint`. Which GPUs a model takes
how much of is the engine's rule, which the inspections apply (`MemoryNeed.by_gpu`): for llama.cpp
`common.models.gpu_split`, for vLLM `apps.vllm.memory_fit`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import replace

from common.memory.contract import HOST, RESIDENT, Bytes, Footprint
from common.memory.pools import HELD
from common.models.learned_footprints import best_estimate
from common.models.memory import MemoryNeed
from common.runtime.memory_capacity import gpu_pool


class Aside(enum.Enum):
    """What of a model is in host RAM while it is put aside."""

    FILES = "files"
    """Its engine is stopped and the weights' files are held."""
    WEIGHTS = "weights"
    """Its engine lives, and has copied the weights there (vLLM, sleep level 1). Some of its GPU memory
    stays with it (`MemoryNeed.asleep_by_gpu`)."""
    EVERYTHING = "everything"
    """Its engine lives, and all its GPU memory was copied there (a driver's checkpoint)."""


def footprint(
    need: MemoryNeed,
    *,
    file_bytes: int,
    gpus: int,
    aside: Aside = Aside.FILES,
    weights_bytes: int | None = None,
    maps_files: bool = False,
    counts_held: bool = False,
) -> Footprint:
    """Work out what a model takes.

    Args:
        need: What its inspection found.
        file_bytes: Sizes of its weights' files together.
        gpus: GPUs that the instance may use; 0: it runs in host RAM.
        aside: How it will be put aside; without a GPU always by holding its files.
        weights_bytes: Its weights once loaded, all GPUs together; None: as large as the files.
        maps_files: Its engine maps the files, so that in host RAM they are there once, whether
            the engine has them or they are held.
        counts_held: What is put aside is bounded by itself (`Capacity.counts_held`).
    """

    def asleep(size: int) -> Bytes:
        return {HOST: size, HELD: size} if counts_held else {HOST: size}

    if not gpus:
        size = need.host_bytes + need.gpu_bytes
        return Footprint({RESIDENT: size, HOST: size}, asleep(file_bytes), is_shared=maps_files)
    running: Bytes = {**_gpu_bytes(need, gpus), HOST: need.host_bytes}
    if aside is Aside.FILES:
        copied = file_bytes
    elif aside is Aside.WEIGHTS:
        copied = need.host_bytes + (file_bytes if weights_bytes is None else weights_bytes)
    else:
        copied = need.host_bytes + need.gpu_bytes
    stays = need.asleep_by_gpu if aside is Aside.WEIGHTS else ()
    return Footprint(running, {**_by_pool(stays), **asleep(copied)})


def kept_when_emptied(need: MemoryNeed, *, counts_held: bool = False) -> Bytes:
    """What an engine's process keeps that has dropped its weights and its cache, as estimated.

    Args:
        need: What its inspection found.
        counts_held: As for `footprint`.

    Returns:
        Bytes by pool; empty where it is not known what stays on the GPUs.
    """
    stays = _by_pool(need.asleep_by_gpu)
    if not stays:
        return {}
    host = need.host_bytes
    return {**stays, HOST: host, **({HELD: host} if counts_held else {})}


def with_learned(
    estimated: Footprint, learned: Bytes | None, asleep: Bytes | None = None
) -> Footprint:
    """A footprint with what was measured of the engine in place of estimates.

    Args:
        estimated: From the files.
        learned: Bytes by pool while it runs, as `common.models.learned_footprints` has them; None:
            nothing yet.
        asleep: The same of an engine that sleeps (`FootprintKey.asleep`): what it keeps of the GPUs,
            and of host RAM.
    """
    told = dict(learned or {})
    if RESIDENT in estimated.gpu and HOST in told:
        told[RESIDENT] = told[HOST]
    return replace(
        estimated,
        gpu=best_estimate(estimated.gpu, told),
        cpu=best_estimate(estimated.cpu, asleep),
    )


def _gpu_bytes(need: MemoryNeed, gpus: int) -> Mapping[str, int]:
    shares = need.by_gpu
    if not shares and need.gpu_bytes:
        # An engine that does not say: as much of each.
        shares = (-(-need.gpu_bytes // gpus),) * gpus
    return _by_pool(shares)


def _by_pool(shares: Sequence[int]) -> dict[str, int]:
    return {gpu_pool(index): size for index, size in enumerate(shares) if size}
