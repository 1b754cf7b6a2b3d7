"""A real gateway whose models are moved by the test: what the page shows of shared memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from common.engines.contract import EngineAddress
from common.errors import CapacityError
from common.gateway.app import Gateway
from common.gateway.auth import ApiKeyAuthenticator
from common.gateway.models import (
    GatewaySettings,
    MemoryTier,
    MemoryView,
    ModelStatus,
    ServedModel,
)
from common.memory.contract import Tier
from common.runtime.memory_view import FinishedMove, MoveLog, SharedMemory, memory_state
from common.telemetry.recorder import Recorder
from tests.page.page_harness import KEY

GIB = 2**30
BIG, SMALL, RESTING = "org/repo/Big-8B.gguf", "small", "resting"
CAPACITY = {"gpu0": 24 * GIB, "host": 64 * GIB, "held": 32 * GIB}
AT = 1_800_000_000.0

_STATUSES: Mapping[MemoryTier, ModelStatus] = {
    "gpu": "ready",
    "cpu": "sleeping",
    "disk": "offloaded",
}


@dataclass
class MovedUpstream:
    """A model without an engine; what it takes is a fixed part of a pool for each tier."""

    name: str
    size: int
    address: EngineAddress = field(default_factory=lambda: EngineAddress(port=1))
    failure: str | None = None
    memory: MemoryView | None = None
    status: ModelStatus = "ready"

    def place(self, tier: MemoryTier, moving_to: MemoryTier | None = None, **more: Any) -> None:
        """Have the model be there."""
        pools = {
            "gpu": {"gpu0": self.size},
            "cpu": {"host": self.size, "held": self.size},
            "disk": {},
        }
        held = pools[tier] | (pools[moving_to] if moving_to else {})
        self.memory = MemoryView(tier, moving_to, bytes_by_pool=held, **more)
        self.status = "loading" if moving_to == "gpu" else _STATUSES[moving_to or tier]

    async def ensure_ready(self, timeout_s: float | None) -> None:
        raise CapacityError(f"{self.name} has no engine.")


class MovingView:
    """An instance's view and operations; a move takes as long as the test lets it."""

    def __init__(self, upstreams: Sequence[MovedUpstream]) -> None:
        self.upstreams = {upstream.name: upstream for upstream in upstreams}
        self.log = MoveLog()
        self.capacity: dict[str, int] | None = dict(CAPACITY)
        self.asked: list[tuple[str, str]] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    def moved(self, model: str, source: Tier, target: Tier, seconds: float, reason: str) -> None:
        """Have a move be one of the last ones."""
        self.log.add(FinishedMove(model, source, target, seconds, reason, AT))

    async def metrics(self) -> tuple[bytes, str]:
        return b"", "text/plain"

    def state(self) -> dict[str, Any]:
        shared = SharedMemory(self.capacity, self.log) if self.capacity else None
        return {
            "instance": {"app": "Test", "status": "active", "idle_s": 0},
            "memory": memory_state(shared, (each.memory for each in self.upstreams.values())),
        }

    def console(self, after: int) -> dict[str, Any]:
        return {"lines": [], "next": after}

    async def load(self, name: str) -> None:
        await self._move("load", name, "gpu")

    async def sleep(self, name: str) -> None:
        await self._move("sleep", name, "cpu")

    async def unload(self, name: str) -> None:
        await self._move("unload", name, "disk")

    async def _move(self, operation: str, name: str, to: MemoryTier) -> None:
        self.asked.append((operation, name))
        upstream = self.upstreams[name]
        assert upstream.memory is not None
        upstream.place(upstream.memory.tier, to, reason="an operator asked for it")
        await self.may_go_on.wait()
        upstream.place(to)


def three_models() -> list[MovedUpstream]:
    """One that answers, one asleep, one on disk."""
    big, small, resting = (
        MovedUpstream(BIG, 16 * GIB),
        MovedUpstream(SMALL, 6 * GIB),
        MovedUpstream(RESTING, GIB),
    )
    big.place("gpu")
    small.place("cpu")
    resting.place("disk")
    return [big, small, resting]


@asynccontextmanager
async def moving(
    upstreams: Sequence[MovedUpstream] | None = None, authenticator: Any = None
) -> AsyncIterator[tuple[str, MovingView]]:
    """Run a gateway over models that are moved; yields its address and what the test moves."""
    view = MovingView(three_models() if upstreams is None else upstreams)
    names = list(view.upstreams)
    gateway = Gateway(
        GatewaySettings("127.0.0.1", (0,), 2**20, 1.0, None, None, "shared-memory"),
        [
            ServedModel(name, upstream, 4, None, None, int(AT))
            for name, upstream in view.upstreams.items()
        ],
        authenticator or ApiKeyAuthenticator(KEY),
        Recorder(names),
        view,
        lambda _: None,
        view,
    )
    await gateway.start()
    try:
        yield gateway.base_url, view
    finally:
        await gateway.stop()


def without_sleep(upstream: MovedUpstream) -> None:
    """Have a model that can only be stopped."""
    assert upstream.memory is not None
    upstream.memory = replace(upstream.memory, can_sleep=False)
