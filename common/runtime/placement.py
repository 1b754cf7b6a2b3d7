"""Whether the models of an instance fit into this machine's memory: together, or each by itself.

Models that stay loaded have to fit beside each other, so each is inspected against what those before it
leave. Models that take turns are inspected against all that the instance may have: who is loaded with
whom is decided while it runs, and only what can never be loaded is refused.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from common.errors import CapacityError, ConfigurationError
from common.models.fetch import ModelFiles
from common.models.memory import AvailableMemory, MemoryNeed, available_memory, without
from common.models.progress import render_gib
from common.options.memory import OFFLOADING
from common.runtime.app import AnySettings, App, Inspection, ModelPlan
from common.runtime.background import in_background
from common.runtime.memory_capacity import Capacity, as_whole, capacity

Measure = Callable[[Mapping[str, str]], AvailableMemory]


@dataclass(frozen=True)
class Placed:
    """A model that fits.

    Attributes:
        plan: Its plan, with what the engine has to be told so that it fits.
        files: Its files.
        found: What was found in them.
    """

    plan: ModelPlan
    files: ModelFiles
    found: Inspection

    @property
    def lines(self) -> tuple[str, ...]:
        """For the console."""
        return self.found.lines


class Placement:
    """Inspects the models of one instance, each when its files are there.

    Args:
        app: The app.
        settings: The instance's settings.
        environ: Its ``CUDA_VISIBLE_DEVICES`` names the instance's GPUs.
        measure: Reads what memory is free; once, before any engine was started.
        machine: The processor's architecture.
    """

    def __init__(
        self,
        app: App,
        settings: AnySettings,
        environ: Mapping[str, str],
        *,
        measure: Measure = available_memory,
        machine: str | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._environ = environ
        self._measure = measure
        self._machine = platform.machine() if machine is None else machine
        self._lock = asyncio.Lock()
        self._capacity = Capacity({})
        self._whole: AvailableMemory | None = None
        self._left = AvailableMemory(0)
        self.placed: dict[str, Placed] = {}

    async def check(self) -> None:
        """Refuse settings that this machine cannot follow, before anything is fetched.

        Raises:
            ConfigurationError: The budget exceeds the GPUs where it must not.
        """
        async with self._lock:
            await self._find_whole()
        if self._capacity.problems:
            raise ConfigurationError(self._capacity.problems)

    async def place(self, plan: ModelPlan, files: ModelFiles) -> Placed:
        """Inspect a model and, unless models take turns, take its memory from what is left.

        Raises:
            ModelFormatError: Not what the engine can load.
            CapacityError: It fits neither by itself nor, where all stay loaded, beside the others.
        """
        async with self._lock:
            whole = await self._find_whole()
            moves = self._settings.memory.moves_models
            try:
                found = await self._inspect(plan, files, whole if moves else self._left)
            except CapacityError as error:
                if moves or not self.placed:
                    raise self._with_budget(error) from error
                await self._refuse_together(plan, files, whole, error)
                raise
            self._left = without(self._left, found.need)
            placed = Placed(replace(plan, fitted=found.fitted), files, found)
            self.placed[plan.name] = placed
            return placed

    async def _find_whole(self) -> AvailableMemory:
        """What there is for one model that has all of it."""
        if self._whole is None:
            shared = self._settings.memory
            measured = await in_background(self._measure, self._environ)
            self._capacity = capacity(shared, measured, {}, self._machine)
            whole = as_whole(measured, self._capacity)
            if not shared.moves_models and (measured.gpus or shared.max_cuda_gib is None):
                # Nothing comes and goes: there is no need of a reserve.
                whole = replace(whole, host_bytes=measured.host_bytes)
            self._whole = self._left = whole
        return self._whole

    async def _inspect(
        self, plan: ModelPlan, files: ModelFiles, memory: AvailableMemory
    ) -> Inspection:
        return await in_background(self._app.inspect, plan, files, self._settings, memory)

    async def _refuse_together(
        self, plan: ModelPlan, files: ModelFiles, whole: AvailableMemory, error: CapacityError
    ) -> None:
        """Refuse a model that does not fit beside the others, with what all of them need."""
        try:
            alone = await self._inspect(plan, files, whole)
        except CapacityError as also_alone:
            raise self._with_budget(also_alone) from error
        needs = {name: placed.found.need for name, placed in self.placed.items()}
        raise CapacityError(
            "\n".join(
                [
                    *together(needs | {plan.name: alone.need}, whole),
                    *self._unknown(len(needs) + 1),
                    self._advice(),
                ]
            )
        ) from error

    def _unknown(self, known: int) -> list[str]:
        count = len(self._settings.models) - known
        if count < 1:
            return []
        return [f"  not known yet: {count} more model{'s' if count > 1 else ''}"]

    def _advice(self) -> str:
        switches = [
            f'"{option.title}" ({option.path})'
            for option in self._settings.options()
            if option.name in OFFLOADING
        ]
        turns = (
            f"Switch on {' or '.join(switches)} so that they take turns, or use"
            if switches
            else "Use"
        )
        return f"{turns} fewer or smaller models, shorter contexts, or a larger machine."

    def _with_budget(self, error: CapacityError) -> CapacityError:
        budget = self._settings.memory.max_cuda_gib
        if budget is None:
            return error
        return CapacityError(f'{error} "Max CUDA Memory (GiB)" is {budget:g}.')


def together(needs: Mapping[str, MemoryNeed], whole: AvailableMemory) -> list[str]:
    """Lines on what models need together, of each GPU and of the host, and what there is. Pure.

    Args:
        needs: By model.
        whole: What there is for all of them.
    """
    gpus = len(whole.gpus)
    by_gpu = [sum(_of_gpu(need, index, gpus) for need in needs.values()) for index in range(gpus)]
    host = sum(need.host_bytes for need in needs.values())
    free = [gpu.free_bytes for gpu in whole.gpus]
    return [
        "The models do not fit into memory together, and all of them stay loaded:",
        *(
            f"  {name} needs {_words([_of_gpu(need, i, gpus) for i in range(gpus)], need.host_bytes)}"
            for name, need in needs.items()
        ),
        f"  together they need {_words(by_gpu, host)}",
        f"  there is {_words(free, whole.host_bytes)}",
    ]


def _of_gpu(need: MemoryNeed, index: int, gpus: int) -> int:
    if need.by_gpu:
        return need.by_gpu[index] if index < len(need.by_gpu) else 0
    return need.gpu_bytes // gpus


def _words(by_gpu: list[int], host: int) -> str:
    if len(by_gpu) == 1:
        parts = [f"{render_gib(by_gpu[0])} of GPU memory"]
    else:
        parts = [f"{render_gib(size)} of GPU {i}" for i, size in enumerate(by_gpu) if size]
    return " and ".join([", ".join(parts)] * bool(parts) + [f"{render_gib(host)} of host memory"])
