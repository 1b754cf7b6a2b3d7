"""One model's turns on the devices, as its requests, clients and operators see them."""

from __future__ import annotations

from common.gateway.models import MemoryView, ModelStatus
from common.memory.contract import MemoryPolicy, Tier
from common.memory.scheduler import MemoryScheduler
from common.runtime.memory_view import model_memory


class ModelTurns:
    """Implements `common.runtime.hosted_model.Turns`.

    Args:
        scheduler: Decides.
        name: Served name of the model.
        policy: Its options.
        can_sleep: Models may be put into host RAM.
    """

    def __init__(
        self, scheduler: MemoryScheduler, name: str, policy: MemoryPolicy, *, can_sleep: bool
    ) -> None:
        self._scheduler = scheduler
        self._name = name
        self._policy = policy
        self._can_sleep = can_sleep

    @property
    def is_open(self) -> bool:
        """Whether a request may go to the engine now, as far as the memory is concerned."""
        return self._scheduler.is_open(self._name)

    @property
    def closed_status(self) -> ModelStatus:
        """What clients see while it is not open."""
        seen = self._scheduler.view(self._name)
        if seen.moving_to is Tier.GPU:
            return "loading"
        # One that gives way is told from where it goes to.
        goes_to = seen.moving_to or (Tier.CPU if self._can_sleep else Tier.DISK)
        where = goes_to if seen.tier is Tier.GPU else (seen.moving_to or seen.tier)
        return "sleeping" if where is Tier.CPU else "offloaded"

    @property
    def view(self) -> MemoryView:
        """Where it is and what it takes."""
        seen = self._scheduler.view(self._name)
        return model_memory(
            seen.tier,
            seen.moving_to,
            seen.footprint,
            self._policy,
            waiting=seen.waiting,
            reason=seen.reason,
            can_sleep=self._can_sleep,
        )

    async def ensure_open(self, timeout_s: float | None) -> None:
        """Have it loaded; returns when it is open.

        Raises:
            DeployError: It failed to load.
            CapacityError: Not in time, or there is no memory for it.
        """
        await self._scheduler.ensure_ready(self._name, timeout_s)

    async def load(self) -> None:
        """The same as an operator's wish, also for one that was given up."""
        await self._scheduler.load(self._name)

    async def sleep(self) -> None:
        """Put it into host RAM when its requests are answered."""
        await self._scheduler.sleep(self._name)

    async def unload(self) -> None:
        """Stop it when its requests are answered."""
        await self._scheduler.unload(self._name)
