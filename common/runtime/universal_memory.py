"""Universal Memory of one instance: puts the scheduler, the movers and the numbers together.

`common.memory` decides and moves; what it is told comes from here: what the machine has
(`memory_capacity`), what each model takes (`model_footprint`), what of both changes (`memory_following`),
and what is loaded first (`preloading`).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from common.engines.contract import EngineState
from common.errors import ConfigurationError
from common.gateway.served_engine import ServedEngine
from common.memory.contract import Bytes, Footprint, MemoryPolicy, Tier
from common.memory.cuda_checkpoint import CudaCheckpoint
from common.memory.engine_mover import EngineMover
from common.memory.engine_ways import EngineOffloads, MachineFacts
from common.memory.freed import FreedCheck
from common.memory.held_files import HeldFiles
from common.memory.machine_facts import read_machine_facts
from common.memory.offload import RunningEngine
from common.memory.pools import gib, place_label
from common.memory.scheduler import MemoryScheduler
from common.runtime.app import AnySettings, InstalledEngine
from common.runtime.background import in_background
from common.runtime.console import Console
from common.runtime.footprint_learning import learning
from common.runtime.hosted_model import HostedModel
from common.runtime.limits import InstanceLimits
from common.runtime.memory_capacity import Capacity, capacity, host_reserve
from common.runtime.memory_following import MemoryFollowing, freed_by_leaving
from common.runtime.memory_readings import MemoryReadings
from common.runtime.memory_view import FinishedMove, MoveLog, SharedMemory, move_kind
from common.runtime.model_footprint import Aside, footprint, kept_when_emptied
from common.runtime.model_turns import ModelTurns
from common.runtime.moved_model import MovedModel
from common.runtime.placement import Placed
from common.runtime.preloading import Preloading
from common.telemetry.recorder import Recorder


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
        self._moved: dict[str, MovedModel] = {}
        self._capacity = Capacity({})
        self._machine = MachineFacts("")
        # From `open` on.
        self._scheduler: MemoryScheduler | None = None
        self._following: MemoryFollowing | None = None
        self._preloading: Preloading | None = None

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
        scheduler = self._scheduler = MemoryScheduler(
            found.pools,
            found.away,
            say=self._console.line,
            on_move=self._moved_on,
            on_change=self._on_change,
        )
        following = self._following = MemoryFollowing(
            self._settings.memory, self._machine, self._readings, scheduler, found, self._moved
        )
        self._preloading = Preloading(models, lambda: following.pools, scheduler.load)
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
        assert self._following is not None
        assert self._preloading is not None
        assert model.supervisor is not None
        name = model.name
        can_sleep = Tier.CPU in self._capacity.away
        ways = engine.offloads(placed.plan, self._settings, self._machine)
        for note in ways.notes:
            self._console.line(f"{name}: {note}")
        estimated = self._footprint(placed, ways, can_sleep=can_sleep)
        kept: Bytes = {}
        if ways.emptied and not can_sleep:
            kept = kept_when_emptied(placed.found.need, counts_held=self._capacity.counts_held)
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

        scheduler, following = self._scheduler, self._following

        def freed() -> Bytes:
            takes = scheduler.view(name).footprint
            return freed_by_leaving(takes.gpu, takes.cpu if can_sleep else kept)

        mover = EngineMover(
            model.supervisor,
            FreedCheck(
                self._readings.use if self._readings.gpus else None,
                freed,
                settle_s=self._limits.settle_s,
            ),
            offloads=ways.asleep if can_sleep else (),
            emptied=ways.emptied if kept else (),
            may_empty=lambda: following.may_empty(name),
            files=held,
            keep_held=estimated.is_shared,
            before_leaving=leaving,
            after_coming=hooks.restore if hooks is not None else None,
            limits=self._limits.mover,
            say=lambda line: self._console.line(f"{name}: {line}"),
        )
        wanted = model.options.memory_policy
        policy = MemoryPolicy(
            priority=wanted.priority,
            pinned=wanted.pinned,
            preload=wanted.preload,
            idle_offload_s=wanted.idle_offload_s,
            max_wait_s=wanted.max_wait_s,
        )
        self._moved[name] = MovedModel(
            model,
            mover,
            demand,
            held,
            hooks,
            learned,
            has_process_asleep=can_sleep and bool(ways.asleep),
            kept_when_emptied=kept,
            is_pinned=policy.pinned,
        )
        scheduler.add(name, known, mover, policy, demand)
        demand.on_left = functools.partial(scheduler.left, name)
        await model.start(ModelTurns(scheduler, name, policy, can_sleep=can_sleep))
        self._preloading.take(name, known.gpu, policy.preload)

    def changed(self, model: HostedModel) -> None:
        """Take a new state of a model's engine, which may have changed by itself."""
        if self._scheduler is None or model.name not in self._moved:
            return
        supervisor = model.supervisor
        is_given_up = supervisor is not None and supervisor.state is EngineState.FATAL
        failure = supervisor.failure if supervisor is not None and is_given_up else None
        self._scheduler.changed(model.name, failure)
        if self._following is not None:
            self._following.share_out()  # an engine that was emptied may have ended

    async def tick(self) -> None:
        """Measure again, if that is due, what others leave of the memory and what the models hold."""
        if self._following is not None:
            await self._following.tick()

    async def close(self) -> None:
        """Move nothing any more, from the first step on; returns when nothing moves.

        The engines are left to whoever stops them: a move that waits for the end of one ends with it.
        """
        if self._preloading is not None:
            self._preloading.cancel()
        if self._following is not None:
            self._following.cancel()
        if self._scheduler is not None:
            await self._scheduler.close()
        if self._preloading is not None:
            await self._preloading.wait()
        if self._following is not None:
            await self._following.wait()

    def release(self) -> None:
        """Give back what is kept for engines, when none runs any more."""
        for moved in self._moved.values():
            moved.release()

    def shared(self) -> SharedMemory | None:
        """What the page shows beside the models; None: no model is there yet."""
        return SharedMemory(self._following.pools, self._moves) if self._following else None

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

    def _moved_on(self, name: str, source: Tier, target: Tier, seconds: float, reason: str) -> None:
        self._recorder.observe_move(name, move_kind(source, target), seconds)
        self._moves.add(FinishedMove(name, source, target, seconds, reason, time.time()))
        if self._following is not None:
            self._following.share_out()  # before anything is decided: an engine may keep its process


def capacity_text(found: Capacity) -> str:
    """What the instance may take, in words for the console."""
    places = {place_label(pool, found.pools): size for pool, size in found.pools.items()}
    parts = [f"{gib(size)} of {place}" for place, size in places.items()]
    where = "CPU RAM" if Tier.CPU in found.away else "disk"
    return f"the models share {', '.join(parts)}; idle ones go to {where}"
