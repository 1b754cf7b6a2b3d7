"""Devices with so much memory, and a mover that takes its time and fails as told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from common.memory.contract import Bytes, Footprint, Tier


class Devices:
    """Memory by pool.

    Attributes:
        broken: Rules that were broken: more taken than there is, a model moved that has requests.
    """

    def __init__(self, capacity: Bytes) -> None:
        self.capacity = dict(capacity)
        self.broken: list[str] = []
        self._held: dict[str, dict[str, int]] = {}

    def hold(self, model: str, amounts: Bytes) -> None:
        self._held[model] = dict(amounts)
        for pool in amounts:
            total = sum(held.get(pool, 0) for held in self._held.values())
            self.check(total <= self.capacity.get(pool, 0), f"too much of {pool}: {self._held}")

    def check(self, is_kept: bool, rule: str) -> None:
        """Note a rule that was broken: an exception would be taken for the mover's failure."""
        if not is_kept:
            self.broken.append(rule)


@dataclass
class Step:
    """How one move goes.

    Attributes:
        seconds: How long it takes.
        error: What it raises.
        ends_in: Where the model is afterwards; None: in the target, or in the source if it raised.
        clearing_s: How long it goes on after it was cancelled.
        ignores_cancel: It is carried out although it was cancelled.
    """

    seconds: float | None = None
    error: Exception | None = None
    ends_in: Tier | None = None
    clearing_s: float = 0.0
    ignores_cancel: bool = False


class FakeMover:
    """Moves a model that exists only here.

    Args:
        name: Of the model.
        footprint: What it really takes.
        devices: Where.
        seconds: How long a move takes, by its target.
        tier: Where it is first.
        users: Requests that its engine has: no move may begin while it has any.

    Attributes:
        steps: How the next moves go; afterwards all succeed.
        begun: The targets of all moves, as they began.
        keeps_process: What the property says, until a move ends the process.
        ended: Moves that were to end the process.
    """

    def __init__(
        self,
        name: str,
        footprint: Footprint,
        devices: Devices,
        *,
        seconds: dict[Tier, float] | None = None,
        tier: Tier = Tier.DISK,
        users: Callable[[], int] = lambda: 0,
    ) -> None:
        self.name = name
        self.footprint = footprint
        self.devices = devices
        self.seconds = seconds or {Tier.GPU: 2.0, Tier.CPU: 1.0, Tier.DISK: 0.5}
        self.steps: deque[Step] = deque()
        self.begun: list[Tier] = []
        self.is_moving = False
        self.keeps_process = False
        self.ended = 0
        self._users = users
        self._tier = tier
        devices.hold(name, footprint.of(tier))

    @property
    def tier(self) -> Tier:
        return self._tier

    def fall(self, tier: Tier) -> None:
        """The engine is elsewhere by itself."""
        self._tier = tier
        self.devices.hold(self.name, self.footprint.of(tier))

    async def move(self, to: Tier, *, ends_process: bool = False) -> Tier:
        check = self.devices.check
        if ends_process:
            self.ended += 1
            if self.keeps_process:
                self.keeps_process = False
                return self._tier
        check(not self.is_moving, f"{self.name}: two moves at once")
        check(not self._users(), f"{self.name} moves to {to} with {self._users()} requests")
        check(to is not self._tier, f"{self.name} is in {to} already")
        self.is_moving = True
        self.begun.append(to)
        step = self.steps.popleft() if self.steps else Step()
        source, ends_in = self._tier, step.ends_in or (self._tier if step.error else to)
        self.devices.hold(self.name, self._both(source, to))
        seconds = self.seconds[to] if step.seconds is None else step.seconds
        try:
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                await asyncio.sleep(step.clearing_s)
                if not step.ignores_cancel:
                    ends_in = source
                    raise
        finally:
            self.fall(ends_in)
            self.is_moving = False
        if step.error is not None:
            raise step.error
        return ends_in

    def _both(self, source: Tier, to: Tier) -> Bytes:
        a, b = self.footprint.of(source), self.footprint.of(to)
        join = max if self.footprint.is_shared else lambda x, y: x + y
        return {pool: join(a.get(pool, 0), b.get(pool, 0)) for pool in {*a, *b}}
