"""What to do with an engine, decided from facts alone: states, back-off, when to give up.

Pure: nothing here waits, logs or asks the time.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from common.engines.contract import Diagnosis, EngineState
from common.errors import InternalError

_STOPPED, _STARTING, _READY = EngineState.STOPPED, EngineState.STARTING, EngineState.READY
_PARKED = EngineState.PARKED
_STOPPING, _BACKOFF, _FATAL = EngineState.STOPPING, EngineState.BACKOFF, EngineState.FATAL

TRANSITIONS: dict[EngineState, frozenset[EngineState]] = {
    _STOPPED: frozenset({_STARTING}),
    # An engine that hangs or is late is stopped before its restart is waited for.
    _STARTING: frozenset({_READY, _STOPPING, _BACKOFF, _FATAL}),
    _READY: frozenset({_PARKED, _STOPPING, _BACKOFF, _FATAL}),
    _PARKED: frozenset({_READY, _STOPPING}),
    _STOPPING: frozenset({_STOPPED, _BACKOFF, _FATAL}),
    _BACKOFF: frozenset({_STARTING, _STOPPED}),
    _FATAL: frozenset({_STARTING}),
}


def check_transition(old: EngineState, new: EngineState) -> None:
    """Refuse a change of state that the machine does not have.

    Raises:
        InternalError: The supervisor's loop has a mistake.
    """
    if new not in TRANSITIONS[old]:
        raise InternalError(f"an engine cannot go from {old.value} to {new.value}")


@dataclass(frozen=True)
class BackoffPolicy:
    """How long to wait before each restart, and when to stop trying.

    Attributes:
        first_s: Wait before the first restart, in seconds; doubled for each further one.
        max_s: Longest wait in seconds.
        reset_after_s: An engine that was ready for so long starts the count afresh.
        max_quick_crashes: So many failures, none after `reset_after_s` of readiness, are the end.
    """

    first_s: float = 1.0
    max_s: float = 60.0
    reset_after_s: float = 180.0
    max_quick_crashes: int = 6

    def delay_s(self, crashes: int) -> float:
        """Wait before the restart that follows the given number of failures in a row (from 1)."""
        # The exponent is bounded, since a float has no room for 2**1100.
        return min(self.max_s, self.first_s * 2.0 ** min(max(crashes, 1) - 1, 32))


class Cause(enum.Enum):
    """Why a run of the engine ended although it was wanted."""

    EXITED = "exited"
    TOO_SLOW = "too_slow"
    HUNG = "hung"
    NOT_STARTED = "not_started"
    """The system could not make the process now (memory, processes, files)."""
    NOT_EXECUTABLE = "not_executable"
    """There is no such program, or it may not be executed."""


@dataclass(frozen=True)
class Ending:
    """The facts of one run that ended unwanted.

    Attributes:
        cause: What ended it.
        ran_s: From start to end, in seconds.
        ready_s: How long it was ready; None when it never was.
        exit_code: As a shell gives it (128 + n for signal n); None when we ended it.
        signal: The signal that killed it, not ours; None when it exited.
        detail: What was waited for in vain, or why it cannot be executed.
        is_address_taken: Another program holds the port that it was to listen on.
        was_parked: Nobody was to use it.
    """

    cause: Cause
    ran_s: float
    ready_s: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    detail: str = ""
    is_address_taken: bool = False
    was_parked: bool = False


@dataclass(frozen=True)
class Restart:
    """Start it again after `delay_s`; `crashes` is the count to hand in next time."""

    delay_s: float
    crashes: int


@dataclass(frozen=True)
class GiveUp:
    """Do not start it again: `is_configuration` as restarting cannot help, else after `crashes`."""

    is_configuration: bool
    crashes: int


@dataclass(frozen=True)
class Rest:
    """Do not start it again by itself: its memory is another's by now, or may be."""


def decide_after_exit(
    ending: Ending,
    diagnosis: Diagnosis,
    crashes: int,
    policy: BackoffPolicy,
    *,
    short_starts: int | None = None,
) -> Restart | GiveUp | Rest:
    """Decide whether an engine that ended unwanted is started again, and when.

    Args:
        ending: The facts of the run.
        diagnosis: What the engine's kind reads from its last lines.
        crashes: Failures in a row before this one, as the last `Restart` gave it; 0 at first.
        policy: The waits and the limit.
        short_starts: So many starts in a row did not get their memory, this one included; 0: it once
            did. It rests then: somebody else decides when there is some. None: nobody else does.
    """
    if ending.was_parked:
        return Rest()
    if short_starts is not None and diagnosis.lacks_memory and ending.ready_s is None:
        if short_starts < policy.max_quick_crashes:
            return Rest()
        return GiveUp(is_configuration=False, crashes=short_starts)
    if ending.cause is Cause.NOT_EXECUTABLE:
        return GiveUp(is_configuration=True, crashes=crashes + 1)
    # With settings that once worked, a restart may help whatever the last lines look like; and a
    # taken port is no fault of the settings.
    if diagnosis.is_configuration and ending.ready_s is None and not ending.is_address_taken:
        return GiveUp(is_configuration=True, crashes=crashes + 1)
    if ending.ready_s is not None and ending.ready_s >= policy.reset_after_s:
        crashes = 0
    crashes += 1
    if crashes >= policy.max_quick_crashes:
        return GiveUp(is_configuration=False, crashes=crashes)
    if ending.is_address_taken:
        return Restart(0.0, crashes)  # it gets another port: nothing to wait for
    return Restart(policy.delay_s(crashes), crashes)


class StallClock:
    """Measures the time in which no bytes move; what moves must grow by `step_bytes` to count.

    Args:
        now: The present, on the clock that `tick` is given, in seconds.
        step_bytes: Less than this is housekeeping (log lines, heartbeats), not loading.
    """

    def __init__(self, now: float, step_bytes: int = 1 << 20) -> None:
        self._step_bytes = step_bytes
        self._mark: int | None = None
        self._last = now
        self.stalled_s = 0.0
        self.total_stalled_s = 0.0

    def tick(self, now: float, moved_bytes: int) -> None:
        """Take a measurement of the ever growing figure `moved_bytes`."""
        elapsed = now - self._last
        self._last = now
        if self._mark is None or moved_bytes >= self._mark + self._step_bytes:
            self._mark = moved_bytes
            self.stalled_s = 0.0
            return
        # It shrinks when a helper process ends or pages are given back: count from there.
        self._mark = min(self._mark, moved_bytes)
        self.stalled_s += elapsed
        self.total_stalled_s += elapsed


@dataclass(frozen=True)
class LivenessLimits:
    """When an engine that does not answer is held to be hung.

    Attributes:
        failures: So many probes in a row without an answer, while it does nothing at all.
        busy_failures: The same while it uses the processor: a long prompt keeps some engines from
            answering for minutes, and killing those would lose work.
    """

    failures: int = 4
    busy_failures: int = 40


@dataclass
class LivenessCount:
    """Failed probes in a row, as `judge_liveness` counts them."""

    idle: int = 0
    busy: int = 0


def judge_liveness(
    count: LivenessCount, *, answered: bool, moved: bool, is_busy: bool, limits: LivenessLimits
) -> bool:
    """Take in one liveness probe; True when the engine is to be held hung.

    Args:
        count: Updated in place.
        answered: The engine answered, with any HTTP status.
        moved: It read, wrote or sent something substantial since the last probe.
        is_busy: It used the processor since then.
        limits: How many failures are too many.
    """
    if answered or moved:
        count.idle = count.busy = 0
        return False
    if is_busy:
        count.busy += 1
    else:
        count.idle += 1
    return count.idle >= limits.failures or count.idle + count.busy >= limits.busy_failures
