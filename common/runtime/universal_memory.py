"""Universal Memory of one instance: puts the scheduler, the movers and the numbers together.

`common.memory` decides and moves; what it is told comes from here: what the machine has
(`memory_capacity`), what each model takes (`model_footprint`), and how often both are measured again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from common.engines.contract import EngineState
from common.errors import ConfigurationError, DeployError
from common.gateway.served_engine import ServedEngine
from common.memory.contract import Bytes, Footprint, MemoryPolicy, Tier
from common.memory.cuda_checkpoint import CudaCheckpoint
from common.memory.engine_mover import EngineMover
from common.memory.engine_ways import CacheHooks, EngineOffloads, MachineFacts
from common.memory.freed import FreedCheck
from common.memory.held_files import HeldFiles
from common.memory.machine_facts import read_machine_facts
from common.memory.offload import RunningEngine
from common.memory.pools import gib, place_label
from common.memory.scheduler import MemoryScheduler
from common.models.memory import AvailableMemory
from common.runtime.app import AnySettings, InstalledEngine
from common.runtime.background import in_background
from common.runtime.console import Console
from common.runtime.footprint_learning import FootprintLearning, has_changed, learning
from common.runtime.hosted_model import HostedModel
from common.runtime.limits import InstanceLimits
from common.runtime.memory_capacity import Capacity, capacity, held_now, host_reserve, is_gpu
from common.runtime.memory_readings import MemoryReadings
from common.runtime.memory_view import FinishedMove, MoveLog, SharedMemory, move_kind
from common.runtime.model_footprint import Aside, footprint
from common.runtime.model_turns import ModelTurns
from common.runtime.placement import Placed
from common.telemetry.recorder import Recorder

READ_EVERY_S = 5.0
"""Between two measurements of what others leave of the memory."""
_ORDER_WAIT_S = 2.0


@dataclasses.dataclass(frozen=True)
class _Moved:
    """What belongs to one model.

    Attributes:
        model: The model.
        held: Its files in host RAM; None: they are never kept.
        hooks: Keep what its engine has computed; None: nothing is kept.
        learning: What it takes.
        has_process_asleep: Its engine's process stays when it is put to sleep.
    """

    model: HostedModel
    held: HeldFiles | None
    hooks: CacheHooks | None
    learning: FootprintLearning
    has_process_asleep: bool


class UniversalMemory:
    """Has the models of an instance share its memory.

    Args:
        settings: The instance's.
        environ: The worker's environment.
        console: Gets what happens.
        recorder: Counts the moves.
        before_stop: Called before a ready engine is stopped: the last chance to ask it anything.
        on_change: Called when a model is elsewhere or about to be.
        limits: Times.
    """

    def __init__(
        self,
        settings: AnySettings,
        environ: Mapping[str, str],
        console: Console,
        recorder: Recorder,
        before_stop: Callable[[HostedModel], Awaitable[None]],
        on_change: Callable[[], None],
        limits: InstanceLimits,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._console = console
        self._recorder = recorder
        self._before_stop = before_stop
        self._on_change = on_change
        self._limits = limits
        self._readings = MemoryReadings(environ)
        self._moves = MoveLog()
        self._models: tuple[HostedModel, ...] = ()
        self._moved: dict[str, _Moved] = {}
        self._loads: set[asyncio.Task[None]] = set()
        self._scheduler: MemoryScheduler | None = None
        self._capacity = Capacity({})
        self._machine = MachineFacts("")
        self._next_reading = 0.0
        # What was chosen for the start takes of the pools.
        self._planned: list[Bytes] = []

    async def open(self, models: Sequence[HostedModel]) -> Capacity:
        """Measure the machine, before any model is loaded.

        Args:
            models: All that will be taken, in the order of the configuration.

        Raises:
            ConfigurationError: The settings ask for what this machine cannot do.
        """
        memory = await self._readings.available()
        self._machine = await read_machine_facts(self._environ, self._readings.gpus)
        found = capacity(self._settings.memory, memory, {}, self._machine.architecture)
        if found.problems:
            raise ConfigurationError(list(found.problems))
        self._capacity = found
        self._models = tuple(models)
        self._scheduler = MemoryScheduler(
            found.pools,
            found.away,
            say=self._console.line,
            on_move=self._moved_on,
            on_change=self._on_change,
        )
        self._console.line(f"memory: {capacity_text(found)}")
        return found

    async def take(
        self, model: HostedModel, placed: Placed, engine: InstalledEngine, demand: ServedEngine
    ) -> None:
        """Let a model take its turns; its engine is started when it is its turn.

        Args:
            model: Its supervisor is there, and its engine was not started.
            placed: What was found of it.
            engine: The engine.
            demand: Its requests.
        """
        assert self._scheduler is not None
        assert model.supervisor is not None
        name = model.name
        can_sleep = Tier.CPU in self._capacity.away
        ways = engine.offloads(placed.plan, self._settings, self._machine)
        for note in ways.notes if can_sleep else ():
            self._console.line(f"{name}: {note}")
        estimated = self._footprint(placed, ways, can_sleep=can_sleep)
        learned = await in_background(
            learning,
            estimated,
            model.options.reference,
            placed,
            engine,
            model.supervisor.spec,
            self._readings.gpu_names,
        )
        known = await in_background(learned.known)
        held = self._files(placed) if can_sleep else None
        hooks = engine.cache_hooks(
            placed.plan, self._settings, lambda line: self._console.line(f"{name}: {line}")
        )

        async def leaving(running: RunningEngine) -> None:
            await self._before_stop(model)
            if hooks is not None:
                await hooks.save(running)

        scheduler = self._scheduler
        mover = EngineMover(
            model.supervisor,
            FreedCheck(
                self._readings.use if self._readings.gpus else None,
                lambda: _freed_by_leaving(scheduler.view(name).footprint),
                settle_s=self._limits.settle_s,
            ),
            offloads=ways.asleep if can_sleep else (),
            files=held,
            keep_held=estimated.is_shared,
            before_leaving=leaving,
            after_coming=hooks.restore if hooks is not None else None,
            limits=self._limits.mover,
            say=lambda line: self._console.line(f"{name}: {line}"),
        )
        self._moved[name] = _Moved(model, held, hooks, learned, can_sleep and bool(ways.asleep))
        wanted = model.options.memory_policy
        policy = MemoryPolicy(
            priority=wanted.priority,
            pinned=wanted.pinned,
            preload=wanted.preload,
            idle_offload_s=wanted.idle_offload_s,
            max_wait_s=wanted.max_wait_s,
        )
        scheduler.add(name, known, mover, policy, demand)
        demand.on_left = functools.partial(scheduler.left, name)
        await model.start(ModelTurns(scheduler, name, policy, can_sleep=can_sleep))
        if policy.preload is not False:
            load = asyncio.ensure_future(self._preload(name, known, is_asked=bool(policy.preload)))
            self._loads.add(load)
            load.add_done_callback(self._loads.discard)

    def changed(self, model: HostedModel) -> None:
        """Take a new state of a model's engine, which may have changed by itself."""
        if self._scheduler is None or model.name not in self._moved:
            return
        supervisor = model.supervisor
        is_given_up = supervisor is not None and supervisor.state is EngineState.FATAL
        failure = supervisor.failure if supervisor is not None and is_given_up else None
        self._scheduler.changed(model.name, failure)

    async def tick(self) -> None:
        """Measure again, if that is due, what others leave of the memory and what the models hold."""
        now = time.monotonic()
        if self._scheduler is None or now < self._next_reading:
            return
        self._next_reading = now + READ_EVERY_S
        resting = self._resting()
        if resting is None:
            return  # what a model takes in the middle of a move says nothing
        memory = await self._readings.available()
        measured = await self._readings.held(
            {
                name: pid
                for name, moved in self._moved.items()
                if moved.model.supervisor is not None
                and (pid := moved.model.supervisor.pid) is not None
            },
            [moved.held.held_bytes for moved in self._moved.values() if moved.held is not None],
        )
        if self._resting() != resting:
            return
        self._follow(memory, measured, resting)
        for name, moved in self._moved.items():
            tier = resting.get(name)
            if (tier is Tier.GPU and moved.model.answers) or (
                tier is Tier.CPU and moved.has_process_asleep
            ):
                await self._learn(moved, tier, measured.get(name, {}))

    async def close(self) -> None:
        """Move nothing any more, from the first step on; returns when nothing moves.

        The engines are left to whoever stops them: a move that waits for the end of one ends with it.
        """
        for load in self._loads:
            load.cancel()
        if self._scheduler is not None:
            await self._scheduler.close()
        if self._loads:
            await asyncio.wait(self._loads)

    def release(self) -> None:
        """Give back what is kept for engines, when none runs any more."""
        for moved in self._moved.values():
            if moved.held is not None:
                moved.held.release()
            if moved.hooks is not None:
                moved.hooks.discard()

    def shared(self) -> SharedMemory | None:
        """What the page shows beside the models; None: no model is there yet."""
        return SharedMemory(self._capacity.pools, self._moves) if self._scheduler else None

    # Numbers.

    def _footprint(self, placed: Placed, ways: EngineOffloads, *, can_sleep: bool) -> Footprint:
        found = placed.found
        aside = Aside.FILES
        if can_sleep and ways.asleep:
            is_checkpoint = isinstance(ways.asleep[0], CudaCheckpoint)
            aside = Aside.EVERYTHING if is_checkpoint else Aside.WEIGHTS
        return footprint(
            found.need,
            file_bytes=placed.files.size_bytes,
            gpus=len(self._readings.gpus),
            aside=aside,
            weights_bytes=found.weights_bytes,
            maps_files=found.maps_files,
            counts_held=self._capacity.counts_held,
        )

    def _files(self, placed: Placed) -> HeldFiles:
        return HeldFiles(
            placed.files.all,
            available=self._readings.available_host,
            reserve_bytes=host_reserve(self._readings.available_host()),
        )

    async def _learn(self, moved: _Moved, tier: Tier, measured: Bytes) -> None:
        assert self._scheduler is not None
        known = await in_background(moved.learning.learn, tier, measured)
        if known is not None:
            self._scheduler.set_footprint(moved.model.name, known)

    def _resting(self) -> dict[str, Tier] | None:
        """The tier of each model; None while one moves."""
        assert self._scheduler is not None
        views = {name: self._scheduler.view(name) for name in self._moved}
        if any(view.moving_to is not None for view in views.values()):
            return None
        return {name: view.tier for name, view in views.items()}

    def _follow(
        self, memory: AvailableMemory, measured: Mapping[str, Bytes], resting: Mapping[str, Tier]
    ) -> None:
        """Have the scheduler know what others leave now."""
        assert self._scheduler is not None
        counted = {
            name: self._scheduler.view(name).footprint.gpu
            for name, tier in resting.items()
            if tier is Tier.GPU
        }
        found = capacity(
            self._settings.memory, memory, held_now(measured, counted), self._machine.architecture
        )
        if has_changed(self._capacity.pools, found.pools):
            self._capacity = dataclasses.replace(self._capacity, pools=found.pools)
            self._scheduler.set_capacity(found.pools)

    # Moves.

    async def _preload(self, name: str, known: Footprint, *, is_asked: bool) -> None:
        """Have a model loaded at the start; one that was not asked for if it fits beside others."""
        assert self._scheduler is not None
        await self._wait_for_those_before(name)
        planned = [*self._planned, known.gpu]
        fits = all(
            sum(taken.get(pool, 0) for taken in planned) <= size
            for pool, size in self._capacity.pools.items()
        )
        if fits or is_asked:
            self._planned.append(known.gpu)
            # Whoever asks for the model is told the same; the console has it from the moves.
            with contextlib.suppress(DeployError):
                await self._scheduler.load(name)

    async def _wait_for_those_before(self, name: str) -> None:
        """Let those that come first in the configuration choose first, but not for a long download."""
        until = time.monotonic() + _ORDER_WAIT_S
        for model in self._models:
            if model.name == name:
                return
            while model.error is None and model.name not in self._moved:
                if time.monotonic() >= until:
                    return
                await asyncio.sleep(_ORDER_WAIT_S / 40)

    def _moved_on(self, name: str, source: Tier, target: Tier, seconds: float, reason: str) -> None:
        self._recorder.observe_move(name, move_kind(source, target), seconds)
        self._moves.add(FinishedMove(name, source, target, seconds, reason, time.time()))


def _freed_by_leaving(takes: Footprint) -> Bytes:
    """What comes back of the GPUs when a model is put to sleep."""
    return {pool: size - takes.cpu.get(pool, 0) for pool, size in takes.gpu.items() if is_gpu(pool)}


def capacity_text(found: Capacity) -> str:
    """What the instance may take, in words for the console."""
    places = {place_label(pool, found.pools): size for pool, size in found.pools.items()}
    parts = [f"{gib(size)} of {place}" for place, size in places.items()]
    where = "CPU RAM" if Tier.CPU in found.away else "disk"
    return f"the models share {', '.join(parts)}; idle ones go to {where}"
