"""Options of Universal Memory: what the models share, and how one of them wants to be treated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import Problem
from common.options.declaration import OptionGroup, option

DEFAULT_MAX_WAIT_S = 30.0
"""How long a request waits before models with requests give way to its own, in seconds."""

OFFLOADING = ("enable_automatic_cpu_offloading", "enable_disk_swapping")
"""The options that let models be put aside; one of them at a time."""

_X86_64 = ("x86_64", "amd64")


@dataclass(frozen=True)
class MemorySettings:
    """How the models share the worker's memory, whichever groups of the form say it.

    Attributes:
        cpu_offloading: Idle models may be moved to CPU RAM.
        disk_swapping: Idle models may be stopped and loaded again from disk.
        max_cuda_gib: CUDA memory in GiB that the instance may use; None = what there is.
        manager_threshold_kb: Largest allocation in KB that is never moved; None = the default. Nothing
            reads it: models are moved as a whole.
        max_host_gib: CPU RAM in GiB that models put aside may hold; None = what is free.
    """

    cpu_offloading: bool = False
    disk_swapping: bool = False
    max_cuda_gib: float | None = None
    manager_threshold_kb: int | None = None
    max_host_gib: float | None = None

    @property
    def moves_models(self) -> bool:
        """Whether models may be put aside for others; without it all of them stay loaded."""
        return self.cpu_offloading or self.disk_swapping


@dataclass(frozen=True)
class ModelMemory:
    """How one model wants to be treated where models share the memory.

    Attributes:
        priority: Higher comes first, and is put aside last.
        pinned: Never put aside, neither for another model nor for being idle.
        preload: Loaded at the start; None: if it fits beside those before it.
        idle_offload_s: Put aside after so many seconds without a request; None: only for others.
        max_wait_s: How long a request waits, in seconds, before models with requests give way.
        saves_prompt_cache: The prompts that its engine has processed outlast its being put aside.
    """

    priority: int = 0
    pinned: bool = False
    preload: bool | None = None
    idle_offload_s: float | None = None
    max_wait_s: float = DEFAULT_MAX_WAIT_S
    saves_prompt_cache: bool = False


class OffloadOptions(OptionGroup):
    """Whether several models take turns on the GPUs."""

    enable_automatic_cpu_offloading: bool | None = option(
        "Enable Automatic CPU Offloading",
        help="Several models share the GPUs: idle ones are moved to CPU RAM. If Max CUDA Memory exceeds "
        "the GPUs, the surplus lives in CPU RAM.",
    )
    enable_disk_swapping: bool | None = option(
        "Enable Disk Swapping",
        help="Several models share the GPUs: idle ones are stopped and loaded again from disk. Not "
        "together with Enable Automatic CPU Offloading.",
    )

    def problems(self) -> list[Problem]:
        """The two ways to offload exclude each other."""
        found = super().problems()
        if self.enable_automatic_cpu_offloading and self.enable_disk_swapping:
            message = (
                'cannot be on together with "Enable Automatic CPU Offloading" '
                f"({self.section}/enable_automatic_cpu_offloading): switch this one off to keep idle "
                "models in CPU RAM, or the other one to keep them on disk"
            )
            found.append(Problem(message, path="enable_disk_swapping", value=True))
        return found


class MemoryBudgetOptions(OptionGroup):
    """How much memory there is to share."""

    max_cuda_memory_gib: float | None = option(
        "Max CUDA Memory (GiB)",
        gt=0,
        help="CUDA memory in GiB that the instance may use. It may exceed the hardware, on x86-64 only: "
        "the surplus lives in CPU RAM. Empty: what there is.",
    )
    cuda_memory_manager_minimum_threshold: int | None = option(
        "CUDA Memory Manager Minimum Threshold",
        ge=-1,
        help="Largest allocation in KB that is never moved to CPU RAM. Default -1 on one GPU, 66000 on "
        "several. Models are moved as a whole: reported as without effect.",
    )
    max_host_memory_gib: float | None = option(
        "Max Host Memory (GiB)",
        gt=0,
        help="CPU RAM in GiB that models moved there may hold, with Enable Automatic CPU Offloading. "
        "Empty: what is free.",
    )


class MemoryOptions(OptionGroup):
    """How one model wants to be treated where models share the memory."""

    priority: int | None = option(
        "Priority",
        ge=-100,
        le=100,
        help="Of models that share the GPUs, the one with the higher number is loaded first, and put aside "
        "last. Default 0.",
    )
    pinned: bool | None = option(
        "Pinned",
        help="The model is never put aside once it is loaded, whichever other one waits.",
    )
    preload: bool | None = option(
        "Preload",
        help="Load the model at the start. Off: at its first request. Empty: at the start if it fits "
        "beside the models before it.",
        placeholder="If it fits",
    )
    idle_offload_minutes: float | None = option(
        "Idle Offload (Minutes)",
        gt=0,
        help="Put the model aside after so many minutes without a request, also if no other one needs the "
        "memory. Empty: only for another model.",
    )
    max_wait_seconds: float | None = option(
        "Max Wait (Seconds)",
        gt=0,
        help="A request that has waited so long for this model to be loaded makes busy models give way: "
        "they finish the requests they have and are put aside. Default 30.",
    )
    save_prompt_cache: bool | None = option(
        "Save Prompt Cache",
        help="Keep what the engine knows of earlier prompts while the model is put aside, so that a "
        "conversation goes on without its prompt being processed anew.",
    )


def model_memory(given: Mapping[str, Any]) -> ModelMemory:
    """How a model wants to be treated.

    Args:
        given: Its options that were set, by name; those of `MemoryOptions` are read.
    """
    minutes = given.get("idle_offload_minutes")
    return ModelMemory(
        priority=given.get("priority", 0),
        pinned=bool(given.get("pinned")),
        preload=given.get("preload"),
        idle_offload_s=None if minutes is None else minutes * 60.0,
        max_wait_s=given.get("max_wait_seconds", DEFAULT_MAX_WAIT_S),
        saves_prompt_cache=bool(given.get("save_prompt_cache")),
    )


def model_memory_problems(given: Mapping[str, Any]) -> list[Problem]:
    """What is wrong between the memory options of one model.

    Args:
        given: As for `model_memory`.
    """
    minutes = given.get("idle_offload_minutes")
    if minutes is None or not given.get("pinned"):
        return []
    message = (
        'contradicts "Pinned" (Model/pinned): a pinned model is never put aside; set one of them'
    )
    return [Problem(message, path="idle_offload_minutes", value=minutes)]


def cuda_budget_problem(budget_gib: float, machine: str, total_gib: float) -> Problem | None:
    """What is wrong with Max CUDA Memory on this machine.

    Args:
        budget_gib: The option, in GiB.
        machine: The processor's architecture, as `platform.machine()` names it.
        total_gib: Memory of the GPUs that the instance may use, together, in GiB.

    Returns:
        None if the budget is within the hardware, or the machine is one on which it may exceed it.
    """
    if budget_gib <= total_gib or machine.lower() in _X86_64:
        return None
    # Rounded down: what is suggested must be right.
    most = int(total_gib * 100) / 100
    remedy = f"set at most {most:g}, or leave it empty" if most > 0 else "leave it empty"
    message = (
        f"is more than the GPUs of this machine have ({most:g} GiB), which is possible on x86-64 only; "
        f"this machine is {machine or 'of an unknown kind'}: {remedy}"
    )
    return Problem(
        message,
        title=MemoryBudgetOptions.model_fields["max_cuda_memory_gib"].title or "",
        path="General/max_cuda_memory_gib",
        value=budget_gib,
    )
