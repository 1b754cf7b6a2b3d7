"""Reads the memory that the machine has, and what of it the instance's own engines hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from common.engines.process_tree import read_tree
from common.memory.contract import HOST, Bytes
from common.memory.freed import MemoryUse
from common.models.memory import AvailableMemory, available_memory
from common.runtime.background import in_background
from common.runtime.engine_memory import pool_bytes
from common.runtime.memory_capacity import gpu_pool
from common.telemetry.machine import MachineReader


class MemoryReadings:
    """Measures for one instance; every call reads anew, beside the event loop.

    Args:
        environ: Its ``CUDA_VISIBLE_DEVICES`` names the instance's GPUs.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._reader: MachineReader | None = None
        self.gpus: Sequence[str] = ()
        """UUIDs of the instance's GPUs, in the order of its pools; known after the first `available`."""
        self.gpu_names: Sequence[str] = ()
        """What the driver calls them."""

    async def available(self) -> AvailableMemory:
        """What can be had now."""
        found = await in_background(available_memory, self._environ)
        self.gpus = [gpu.uuid for gpu in found.gpus]
        self.gpu_names = [gpu.name for gpu in found.gpus]
        return found

    def available_host(self) -> int:
        """Bytes of host RAM that can be had now. Blocks for milliseconds."""
        return available_memory(self._environ).host_bytes

    async def use(self, pids: frozenset[int]) -> MemoryUse:
        """What is in use of each GPU, by everybody and by these processes."""
        return await asyncio.to_thread(self._use, pids)

    async def held(self, roots: Mapping[str, int], locked: Iterable[int]) -> dict[str, Bytes]:
        """What the models hold that nobody else can have, by model and pool.

        Args:
            roots: The engines' processes, by model.
            locked: Bytes of files that are kept in host RAM; counted under the name "".
        """
        measured: dict[str, Bytes] = await asyncio.to_thread(self._held, roots)
        measured[""] = {HOST: sum(locked)}
        return measured

    def _use(self, pids: frozenset[int]) -> MemoryUse:
        machine = self._machine().read()
        by_uuid = {gpu.uuid: gpu for gpu in machine.gpus}
        total = {
            gpu_pool(index): by_uuid[uuid].used_bytes
            for index, uuid in enumerate(self.gpus)
            if uuid in by_uuid
        }
        is_told = any(gpu.by_pid for gpu in machine.gpus)
        return MemoryUse(total, pool_bytes(machine, pids, self.gpus) if is_told else None)

    def _held(self, roots: Mapping[str, int]) -> dict[str, Bytes]:
        machine = self._machine().read() if self.gpus else None
        held: dict[str, Bytes] = {}
        for name, root in roots.items():
            tree = read_tree(root)
            pools = {HOST: tree.own_bytes}
            if machine is not None:
                pools |= pool_bytes(machine, tree.pids, self.gpus)
            held[name] = pools
        return held

    def _machine(self) -> MachineReader:
        if self._reader is None:
            self._reader = MachineReader(self.gpus)
        return self._reader
