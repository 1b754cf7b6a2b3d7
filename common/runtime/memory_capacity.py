"""How much memory the models of an instance may take, from its settings and what the machine has. Pure.

The pools are those of `common.memory.contract`, and with "Max Host Memory (GiB)" one more: `HELD`, host
RAM that models hold while they are put aside, which counts in `host` as well.

A budget ("Max CUDA Memory (GiB)") is divided over the GPUs in proportion to their memory. A pool is never
more than its card has beside other processes. What a share exceeds its card by is `Capacity.surplus`:
host RAM that stands for it, for a single model that is larger than the card. Without a GPU the budget
bounds the pool `resident`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from common.errors import Problem
from common.memory.contract import HOST, RESIDENT, Bytes, Tier
from common.memory.pools import HELD
from common.models.memory import AvailableMemory
from common.options.memory import MemorySettings, cuda_budget_problem

_GIB = 2**30
_RESERVE_SHARE = 20
_LEAST_RESERVE = 256 * 2**20
_MOST_RESERVE = 4 * _GIB


@dataclass(frozen=True)
class Capacity:
    """What the instance may take.

    Attributes:
        pools: Bytes by pool; the GPUs first, in the order of ``CUDA_VISIBLE_DEVICES``.
        away: The tiers that models may be put aside to, best first.
        surplus: Bytes of host RAM, by the pool of the GPU that they stand for, of which a single model
            that is larger than the card may make use.
        problems: What is wrong with the settings on this machine.
    """

    pools: Bytes
    away: tuple[Tier, ...] = ()
    surplus: Bytes = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @property
    def counts_held(self) -> bool:
        """Whether what models hold while they are put aside is bounded by itself, for `footprint`."""
        return HELD in self.pools


def gpu_pool(index: int) -> str:
    """The pool of a GPU, by its place in ``CUDA_VISIBLE_DEVICES``."""
    return f"gpu{index}"


def is_gpu(pool: str) -> bool:
    """Whether a pool is a GPU's memory."""
    return pool.startswith("gpu")


def capacity(
    settings: MemorySettings, memory: AvailableMemory, held: Bytes, machine: str
) -> Capacity:
    """Work out the pools.

    Args:
        settings: How the models share the memory.
        memory: What is free now.
        held: What the instance's own models took of that, by pool, measured at the same time (see
            `held_now`). In `host` only what the kernel cannot drop: memory of their own and locked
            pages. Pages of a mapped file count as free already.
        machine: The processor's architecture, as `platform.machine()` names it.

    Returns:
        The capacity; with problems also where the settings cannot be followed.
    """
    host = _host(memory, held)
    of_host = {HOST: host}
    if settings.max_host_gib is not None:
        of_host[HELD] = min(host, int(settings.max_host_gib * _GIB))
    budget = None if settings.max_cuda_gib is None else int(settings.max_cuda_gib * _GIB)
    if not memory.gpus:
        resident = host if budget is None else min(host, budget)
        return Capacity({RESIDENT: resident, **of_host}, away(settings))
    left = {
        gpu_pool(index): min(gpu.total_bytes, gpu.free_bytes + held.get(gpu_pool(index), 0))
        for index, gpu in enumerate(memory.gpus)
    }
    total = sum(gpu.total_bytes for gpu in memory.gpus)
    if budget is None:
        return Capacity({**left, **of_host}, away(settings))
    problem = cuda_budget_problem(budget / _GIB, machine, total / _GIB)
    pools: dict[str, int] = {}
    surplus: dict[str, int] = {}
    for (pool, physical), gpu in zip(left.items(), memory.gpus, strict=True):
        share = budget * gpu.total_bytes // total if total else 0
        pools[pool] = min(share, physical)
        # A budget within the hardware is a limit: what others take of it is not made up for.
        if share > gpu.total_bytes and problem is None:
            surplus[pool] = share - pools[pool]
    return Capacity(
        {**pools, **of_host},
        away(settings),
        surplus,
        (problem,) if problem else (),
    )


def away(settings: MemorySettings) -> tuple[Tier, ...]:
    """The tiers that models may be put aside to, best first; none: all stay loaded."""
    if settings.cpu_offloading:
        return (Tier.CPU, Tier.DISK)
    return (Tier.DISK,) if settings.disk_swapping else ()


def taken_by_others(memory: AvailableMemory, held: Bytes) -> dict[str, int]:
    """Bytes of each GPU that are in use, and not by this instance's models.

    What the driver keeps for itself counts as well.

    Args:
        memory: A reading.
        held: As for `capacity`.
    """
    return {
        gpu_pool(index): max(0, gpu.total_bytes - gpu.free_bytes - held.get(gpu_pool(index), 0))
        for index, gpu in enumerate(memory.gpus)
    }


def held_now(measured: Mapping[str, Bytes], counted: Mapping[str, Bytes]) -> dict[str, int]:
    """What the instance's models hold, from what was measured of them and what they count as.

    In many containers the driver does not tell which process holds how much of a GPU. For a model of
    which nothing is told, what it counts as stands in; so that with those readings a model's own
    memory is not taken for somebody else's.

    Args:
        measured: By model, bytes by pool as they were read.
        counted: By model that rests on a GPU, what it counts as there; models that move are left out,
            and a reading meanwhile is better not used where the driver does not tell.

    Returns:
        Bytes by pool, of all models together.
    """
    held: dict[str, int] = {}
    for name in {**measured, **counted}:
        pools = dict(measured.get(name, {}))
        if not any(map(is_gpu, pools)):
            pools |= {pool: size for pool, size in counted.get(name, {}).items() if is_gpu(pool)}
        for pool, size in pools.items():
            held[pool] = held.get(pool, 0) + size
    return held


def as_whole(memory: AvailableMemory, found: Capacity) -> AvailableMemory:
    """The machine as a model finds it that has all of the capacity to itself.

    Args:
        memory: A reading.
        found: Its capacity.

    Returns:
        The GPUs with what the pools leave as free, and the surplus of each; the host's pool.
    """
    gpus = tuple(
        replace(
            gpu,
            free_bytes=found.pools.get(gpu_pool(index), 0),
            surplus_bytes=found.surplus.get(gpu_pool(index), 0),
        )
        for index, gpu in enumerate(memory.gpus)
    )
    host = found.pools.get(HOST, 0)
    return AvailableMemory(min(host, found.pools.get(RESIDENT, host)), gpus)


def host_reserve(host_bytes: int) -> int:
    """Host RAM that no model may have, in bytes: a twentieth, at least 256 MiB, at most 4 GiB.

    This program, the engines' buffers for requests, the kernel's sockets and tables and the file pages
    that a load reads through need some; without any the kernel stalls before it kills.
    """
    return min(max(host_bytes // _RESERVE_SHARE, _LEAST_RESERVE), _MOST_RESERVE)


def _host(memory: AvailableMemory, held: Bytes) -> int:
    there = memory.host_bytes + held.get(HOST, 0)
    return max(0, there - host_reserve(there))
