"""Memory that the models' engines hold, and the machine that they run on: read beside the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence

from common.engines.process_tree import read_tree
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
        self.machine = MachineUsage()
        self.models: Mapping[str, int] = {}

    async def read(self, models: Sequence[HostedModel]) -> None:
        """Measure `machine`, and `models`: bytes on the host and on GPUs by name, engines that run.

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

    def _take(self, reading: asyncio.Future[tuple[MachineUsage, dict[str, int]]]) -> None:
        self._is_reading = False
        if not reading.cancelled() and reading.exception() is None:
            self.machine, self.models = reading.result()

    def _measure(self, roots: Mapping[str, int]) -> tuple[MachineUsage, dict[str, int]]:
        if self._read is None:
            self._read = MachineReader(visible_uuids(self._environ)).read
        machine = self._read()
        held = {}
        for name, root in roots.items():
            tree = read_tree(root)
            if size := tree.rss_bytes + machine.gpu_bytes(tree.pids):
                held[name] = size
        return machine, held


def visible_uuids(environ: Mapping[str, str]) -> frozenset[str] | None:
    """UUIDs of the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves; None: all. Blocks for milliseconds."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return None
    if not visible.strip():
        return frozenset()
    gpus = read_gpus()
    # Without NVML nothing tells which are meant: better all than none.
    return frozenset(gpu.uuid for gpu in visible_gpus(visible, gpus)) if gpus else None
