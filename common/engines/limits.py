"""Times and counts of one engine's supervision."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.engines.state import BackoffPolicy


@dataclass(frozen=True)
class SupervisorLimits:
    """Times and counts of one supervisor; seconds.

    Attributes:
        start_timeout_s: A start may take so long in all; not counted while bytes move.
        no_progress_timeout_s: A start may stand still so long.
        start_probe_s: One question to a starting engine.
        health_interval_s: Between two questions to a ready engine.
        health_timeout_s: One question.
        health_failures: So many unanswered in a row, with the engine doing nothing: it hangs.
        busy_health_failures: The same with the engine using the processor.
        stop_grace_s: Between asking an engine to end and killing it.
        parked_grace_s: The same at most for a parked engine, which may be unable to hear.
        measure_interval_s: Between two looks at the bytes that a starting engine moved.
        backoff: Waits between restarts, and when to give up.
    """

    start_timeout_s: float = 600.0
    no_progress_timeout_s: float = 120.0
    start_probe_s: float = 5.0
    health_interval_s: float = 15.0
    health_timeout_s: float = 10.0
    health_failures: int = 4
    busy_health_failures: int = 40
    stop_grace_s: float = 10.0
    parked_grace_s: float = 2.0
    measure_interval_s: float = 2.0
    backoff: BackoffPolicy = field(default_factory=BackoffPolicy)
