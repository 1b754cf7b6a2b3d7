"""Times of a whole instance that no user sets; tests shorten them."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.engines.limits import SupervisorLimits
from common.memory.engine_sleep import MoverLimits


@dataclass(frozen=True)
class InstanceLimits:
    """What the parts of an instance may take their time for.

    Attributes:
        supervisor: Starts, health and restarts of the engines.
        mover: The parts of a move.
        settle_s: Memory may come back so many seconds after an engine gave it back.
        load_wait_s: How long a request waits, in seconds, for its model to be loaded.
        heartbeat_after_s: A waiting stream gets its first SSE comment after so many seconds.
        heartbeat_every_s: And a further one at this interval.
    """

    supervisor: SupervisorLimits = field(default_factory=SupervisorLimits)
    mover: MoverLimits = field(default_factory=MoverLimits)
    settle_s: float = 5.0
    load_wait_s: float = 600.0
    heartbeat_after_s: float = 5.0
    heartbeat_every_s: float = 5.0
