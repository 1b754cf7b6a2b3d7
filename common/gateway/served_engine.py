"""One model of the instance on the data path: its limits, its places, its engine's connections."""

from __future__ import annotations

from collections.abc import Callable

from common.engines.contract import EngineAddress
from common.gateway.admission import Admission
from common.gateway.http.engine_pool import EnginePool, EnginePools
from common.gateway.models import ServedModel
from common.gateway.token_limits import TokenLimits


class ServedEngine:
    """A served model as requests see it.

    Args:
        model: The model.
        pools: Of all engines of the instance.

    Attributes:
        name: Endpoint name.
        model: The model.
        admission: Its places.
        upstream: Its engine.
        limits: On the tokens of a request.
        has_token_limits: Whether there are any: a request has to be looked at then.
        cancels: Whether a client that leaves cancels its generation.
        last_used: When its last request ended, as `time.monotonic` tells; 0: it had none.
        on_left: Called when a request ended, before anything else happens; None: nobody wants to know.
    """

    __slots__ = (
        "_address",
        "_pool",
        "_pools",
        "admission",
        "cancels",
        "has_token_limits",
        "last_used",
        "limits",
        "model",
        "name",
        "on_left",
        "upstream",
    )

    def __init__(self, model: ServedModel, pools: EnginePools) -> None:
        self.name = model.name
        self.model = model
        self.cancels = model.cancel_on_disconnect
        self.limits = TokenLimits(model.max_input_tokens, model.max_total_tokens)
        self.admission = Admission(
            model.name,
            model.max_concurrent_requests,
            max_waiting=model.max_waiting_requests or 0,
            max_wait_s=model.max_queue_s,
        )
        self.has_token_limits = self.limits.are_set
        self.upstream = model.upstream
        self.last_used = 0.0
        self.on_left: Callable[[], None] | None = None
        self._pools = pools
        self._address: EngineAddress | None = None
        self._pool: EnginePool | None = None

    @property
    def in_flight(self) -> int:
        """Requests that hold a place: at the engine, or waiting for it to be able to answer."""
        return self.admission.in_flight

    @property
    def queued(self) -> int:
        """Requests in line for a place."""
        return self.admission.waiting

    def left(self, entered: float, now: float, key: str) -> None:
        """A request gives its place back.

        Args:
            entered: When it got the place, in monotonic seconds.
            now: The present.
            key: Name of its API key.
        """
        self.last_used = now
        self.admission.leave(now - entered, key)
        if self.on_left is not None:
            self.on_left()

    def pool(self) -> EnginePool:
        """Return the connections to its engine, which may be another one after a restart.

        Raises:
            EngineError: It never listened anywhere.
        """
        address = self.upstream.address
        pool = self._pool
        if pool is None or address is not self._address or pool.is_closed:
            self._address = address
            pool = self._pool = self._pools.of(address)
        return pool
