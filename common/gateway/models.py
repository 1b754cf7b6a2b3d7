"""The types that the gateway shares with whoever wires it."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from common.engines.contract import EngineAddress
from common.gateway.http.serving import Timeouts

ModelStatus = Literal["loading", "ready", "sleeping", "offloaded", "failed"]
MemoryTier = Literal["gpu", "cpu", "disk"]
"""Where a model is: it can answer, it is asleep in host RAM, or it is stopped."""


@dataclass(frozen=True)
class MemoryView:
    """Where one model is and what it takes, in an instance that moves its models.

    Attributes:
        tier: Where it is, or was before the move that is under way.
        moving_to: Where it is on its way to; None: it rests.
        waiting: Requests that wait for it to be loaded.
        bytes_by_pool: What it takes now, by pool: ``gpu0`` and further, ``resident``, ``host``.
        reason: Why it moves, or what it waits for; empty otherwise.
        priority: From its options; a higher one is put aside last.
        is_pinned: It is never put aside for another model or for being idle.
        can_sleep: The instance may put it to sleep; else it can only be stopped.
    """

    tier: MemoryTier
    moving_to: MemoryTier | None = None
    waiting: int = 0
    bytes_by_pool: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    priority: int = 0
    is_pinned: bool = False
    can_sleep: bool = True


class Upstream(Protocol):
    """A model's engine as the gateway sees it."""

    @property
    def name(self) -> str:
        """Served model name."""

    @property
    def address(self) -> EngineAddress:
        """Where the engine listens; read after `ensure_ready`, anew for each request, as it may change.

        Raises:
            EngineError: It never listened anywhere.
        """

    @property
    def status(self) -> ModelStatus:
        """State as clients see it. While it is ``ready``, `ensure_ready` would return at once."""

    @property
    def failure(self) -> str | None:
        """Why the model cannot be served, in words for the user; None when it can."""

    @property
    def memory(self) -> MemoryView | None:
        """Where it is and what it takes; None where the instance does not move its models."""

    async def ensure_ready(self, timeout_s: float | None) -> None:
        """Return when the engine can answer; start or wake it if it must be.

        Several callers may wait at once, and a cancelled one gives up its own wait only.

        Raises:
            EngineError: It failed and waiting cannot help.
            CapacityError: It was not ready within `timeout_s`.
        """


class AdminOperations(Protocol):
    """What ``/admin/models`` may ask for, by served model name."""

    async def load(self, name: str) -> None:
        """Bring the model to its ready state and return when it is."""

    async def sleep(self, name: str) -> None:
        """Put the model into the CPU tier."""

    async def unload(self, name: str) -> None:
        """Put the model into the disk tier."""


class InstanceView(Protocol):
    """What the gateway's own pages show of the instance around it."""

    async def metrics(self) -> tuple[bytes, str]:
        """Return the Prometheus exposition and its content type."""

    def state(self) -> dict[str, Any]:
        """Return what the page shows of the instance, ready for JSON; cheap, never blocks.

        ``instance`` (title, engine, status, idle time and limit, links) and per model name in
        ``models`` what the gateway itself does not know (progress, tokens, memory, kind);
        ``charts`` as `common.telemetry.history.History.series` makes them; ``memory`` the pools
        and the last moves, None where models are not moved: ``pools`` (name, capacity_bytes,
        held_bytes) and ``moves`` (model, from, to, seconds, reason, at), the newest last.
        """

    def console(self, after: int) -> dict[str, Any]:
        """Return the console lines after the one numbered `after`.

        ``{"lines": [...], "next": number}``, the number to ask with the next time.
        """


@dataclass(frozen=True)
class ServedModel:
    """One endpoint of the instance.

    Attributes:
        name: Endpoint name, as clients write it in the path and in `model`.
        upstream: Its engine.
        max_concurrent_requests: More at once wait or are refused with 429; None: no limit.
        max_input_tokens: A longer prompt is refused; None: no limit.
        max_total_tokens: Prompt plus requested output above it is refused; None: no limit.
        created: Unix time for the model list.
        owned_by: For the model list.
        adapters: Further names that its engine serves (LoRA); limits and counts are the model's.
        max_waiting_requests: So many of those over the limit wait for a place; None: none does.
        max_queue_s: Longest wait for a place in seconds; None: no limit.
        cancel_on_disconnect: A client that leaves cancels its generation.
    """

    name: str
    upstream: Upstream
    max_concurrent_requests: int | None
    max_input_tokens: int | None
    max_total_tokens: int | None
    created: int
    owned_by: str = "clearml-deploy"
    adapters: tuple[str, ...] = ()
    max_waiting_requests: int | None = None
    max_queue_s: float | None = None
    cancel_on_disconnect: bool = True


@dataclass
class GatewaySettings:
    """How the gateway serves.

    Attributes:
        host: Address to listen on; None: all interfaces.
        ports: Candidates in order; the first free one is taken.
        max_body_bytes: A larger request body is answered with 413.
        load_wait_s: How long a request waits for its model to load or wake.
        public_url: What clients should use instead of this machine's address and port. The only one
            that changes while the gateway serves, by `Gateway.publish`: nobody may keep it.
        task_id: ClearML task, for the page.
        instance_name: Name of the instance, for the page.
        heartbeat_after_s: A waiting stream gets its first SSE comment after so long.
        heartbeat_every_s: And a further one at this interval.
        tls: Serve HTTPS with it; None: plain HTTP.
        cors_origins: Pages of these origins may use the instance; ``*``: all.
        timeouts: What clients may take their time for.
    """

    host: str | None
    ports: Sequence[int]
    max_body_bytes: int
    load_wait_s: float
    public_url: str | None
    task_id: str | None
    instance_name: str
    heartbeat_after_s: float = 5.0
    heartbeat_every_s: float = 5.0
    tls: ssl.SSLContext | None = None
    cors_origins: Sequence[str] = ()
    timeouts: Timeouts = field(default_factory=Timeouts)
