"""Memory that the models' engines hold, and the machine that they run on: read beside the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from common.engines.process_tree import read_tree
from common.memory.contract import HOST
from common.models.memory import read_gpus, visible_gpus
from common.runtime.background import in_background
from common.runtime.hosted_model import HostedModel
from common.telemetry.machine import MachineReader, MachineUsage

# A driver that hangs holds up no report: the figures of the last reading stand.
_TIMEOUT_S = 2.0


class EngineMemory:
    """Reads the machine and the engines' memory; one loop calls `read`.

    Args:
        environ: Its ``CUDA_VISIBLE_DEVICES`` names the instance's GPUs.
        reader: Reads the machine; None makes one at the first reading.
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        reader: Callable[[], MachineUsage] | None = None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._read = reader
        self._is_reading = False
        self._visible: Sequence[str] | None = None
        self.machine = MachineUsage()
        self.models: Mapping[str, int] = {}
        # By model and pool (`host`, `gpu0`, ...): of models whose GPU memory the driver tells.
        self.by_pool: Mapping[str, Mapping[str, int]] = {}

    async def read(self, models: Sequence[HostedModel]) -> None:
        """Measure `machine`, `models` (bytes on the host and on GPUs by name) and `by_pool` of the
        engines that run.

        The host's part is the resident memory of the engine's process tree. The GPUs' is what the
        driver tells by process, which in a container may be nothing.
        """
        if self._is_reading:
            return  # the last reading still hangs
        roots = {
            model.name: model.supervisor.pid
            for model in models
            if model.supervisor is not None and model.supervisor.pid is not None
        }
        self._is_reading = True
        reading = asyncio.ensure_future(in_background(self._measure, roots))
        reading.add_done_callback(self._take)
        await asyncio.wait({reading}, timeout=_TIMEOUT_S)

    def _take(self, reading: asyncio.Future[_Measured]) -> None:
        self._is_reading = False
        if not reading.cancelled() and reading.exception() is None:
            self.machine, self.models, self.by_pool = reading.result()

    def _measure(self, roots: Mapping[str, int]) -> _Measured:
        if self._read is None:
            self._visible = visible_uuids(self._environ)
            self._read = MachineReader(self._visible).read
        machine = self._read()
        held, by_pool = {}, {}
        for name, root in roots.items():
            tree = read_tree(root)
            on_gpus = pool_bytes(machine, tree.pids, self._visible)
            if size := tree.rss_bytes + sum(on_gpus.values()):
                held[name] = size
            if on_gpus:
                by_pool[name] = {HOST: tree.rss_bytes, **on_gpus}
        return _Measured(machine, held, by_pool)


class _Measured(NamedTuple):
    machine: MachineUsage
    models: Mapping[str, int]
    by_pool: Mapping[str, Mapping[str, int]]


def pool_bytes(
    machine: MachineUsage, pids: Iterable[int], visible: Sequence[str] | None
) -> dict[str, int]:
    """GPU memory that processes hold, by pool; those pools only in which they hold any.

    Args:
        machine: A reading.
        pids: The processes.
        visible: UUIDs in the order in which the instance counts its GPUs; None: as they are read.
    """
    wanted = frozenset(pids)
    order = [gpu.uuid for gpu in machine.gpus] if visible is None else list(visible)
    sizes = {gpu.uuid: gpu.bytes_of(wanted) for gpu in machine.gpus}
    return {f"gpu{i}": size for i, uuid in enumerate(order) if (size := sizes.get(uuid, 0))}


def visible_uuids(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """UUIDs of the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves, in its order; None: all.

    Blocks for milliseconds.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return None
    if not visible.strip():
        return ()
    gpus = read_gpus()
    # Without NVML nothing tells which are meant: better all than none.
    return tuple(gpu.uuid for gpu in visible_gpus(visible, gpus)) if gpus else None
