"""Decisions about engines, without any engine."""

from __future__ import annotations

import pytest

from common.engines.contract import Diagnosis, EngineState
from common.engines.state import (
    TRANSITIONS,
    BackoffPolicy,
    Cause,
    Ending,
    GiveUp,
    LivenessCount,
    LivenessLimits,
    Rest,
    Restart,
    StallClock,
    check_transition,
    decide_after_exit,
    judge_liveness,
)
from common.errors import InternalError

POLICY = BackoffPolicy(first_s=1.0, max_s=60.0, reset_after_s=180.0, max_quick_crashes=6)
CRASH = Diagnosis(is_configuration=False, summary="")
REFUSAL = Diagnosis(is_configuration=True, summary="It refuses.")
MIB = 1 << 20


def test_every_state_has_transitions_and_can_be_left() -> None:
    assert set(TRANSITIONS) == set(EngineState)
    assert all(targets for targets in TRANSITIONS.values())
    reachable = set().union(*TRANSITIONS.values())
    assert reachable == set(EngineState)


@pytest.mark.parametrize("old", EngineState)
@pytest.mark.parametrize("new", EngineState)
def test_transitions_outside_the_table_are_refused(old: EngineState, new: EngineState) -> None:
    if new in TRANSITIONS[old]:
        check_transition(old, new)
    else:
        with pytest.raises(InternalError, match=f"from {old.value} to {new.value}"):
            check_transition(old, new)


def test_only_a_starting_or_a_parked_engine_becomes_ready() -> None:
    assert [old for old, new in TRANSITIONS.items() if EngineState.READY in new] == [
        EngineState.STARTING,
        EngineState.PARKED,
    ]


def test_a_parked_engine_that_ends_is_left_alone_whatever_it_says() -> None:
    for cause in Cause:
        ending = Ending(cause, ran_s=1.0, ready_s=1.0, was_parked=True)
        for diagnosis in (CRASH, REFUSAL):
            assert decide_after_exit(ending, diagnosis, 5, POLICY) == Rest()


def test_backoff_doubles_up_to_its_limit() -> None:
    delays = [POLICY.delay_s(crashes) for crashes in range(1, 9)]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    assert POLICY.delay_s(100_000) == 60


def test_crashes_in_a_row_end_in_giving_up() -> None:
    crashes, delays = 0, []
    ending = Ending(Cause.EXITED, ran_s=3.0, exit_code=1)
    while isinstance(decision := decide_after_exit(ending, CRASH, crashes, POLICY), Restart):
        crashes = decision.crashes
        delays.append(decision.delay_s)
    assert delays == [1, 2, 4, 8, 16]
    assert decision == GiveUp(is_configuration=False, crashes=6)


def test_long_readiness_starts_the_count_afresh() -> None:
    long = Ending(Cause.EXITED, ran_s=200.0, ready_s=180.0, exit_code=1)
    assert decide_after_exit(long, CRASH, 5, POLICY) == Restart(1.0, 1)
    short = Ending(Cause.EXITED, ran_s=200.0, ready_s=179.0, exit_code=1)
    assert decide_after_exit(short, CRASH, 4, POLICY) == Restart(16.0, 5)


@pytest.mark.parametrize("cause", [Cause.TOO_SLOW, Cause.HUNG, Cause.NOT_STARTED, Cause.EXITED])
def test_failures_of_the_moment_are_retried(cause: Cause) -> None:
    assert decide_after_exit(Ending(cause, ran_s=1.0), CRASH, 0, POLICY) == Restart(1.0, 1)


def test_configuration_error_is_not_retried() -> None:
    ending = Ending(Cause.EXITED, ran_s=1.0, exit_code=1)
    assert decide_after_exit(ending, REFUSAL, 0, POLICY) == GiveUp(True, 1)


def test_configuration_that_once_worked_is_retried() -> None:
    ending = Ending(Cause.EXITED, ran_s=9.0, ready_s=1.0, exit_code=1)
    assert decide_after_exit(ending, REFUSAL, 0, POLICY) == Restart(1.0, 1)


def test_one_without_memory_rests_where_others_share_it_but_not_for_ever() -> None:
    short = Diagnosis(is_configuration=True, summary="No memory.", lacks_memory=True)
    ending = Ending(Cause.EXITED, ran_s=1.0, exit_code=1)
    assert decide_after_exit(ending, short, 0, POLICY) == GiveUp(True, 1)
    for starts in range(6):
        assert decide_after_exit(ending, short, 0, POLICY, short_starts=starts) == Rest()
    assert decide_after_exit(ending, short, 0, POLICY, short_starts=6) == GiveUp(False, 6)
    # One that had its memory has it still.
    served = Ending(Cause.EXITED, ran_s=9.0, ready_s=1.0, exit_code=1)
    assert decide_after_exit(served, short, 0, POLICY, short_starts=0) == Restart(1.0, 1)
    assert decide_after_exit(ending, CRASH, 0, POLICY, short_starts=0) == Restart(1.0, 1)


def test_missing_program_is_not_retried() -> None:
    ending = Ending(Cause.NOT_EXECUTABLE, ran_s=0.0)
    assert decide_after_exit(ending, CRASH, 0, POLICY) == GiveUp(True, 1)


def test_taken_address_is_retried_at_once_but_not_for_ever() -> None:
    ending = Ending(Cause.EXITED, ran_s=1.0, exit_code=1, is_address_taken=True)
    assert decide_after_exit(ending, REFUSAL, 0, POLICY) == Restart(0.0, 1)
    assert decide_after_exit(ending, REFUSAL, 5, POLICY) == GiveUp(False, 6)


def test_stall_clock_runs_only_while_nothing_moves() -> None:
    clock = StallClock(0.0)
    clock.tick(1.0, 5 * MIB)
    assert (clock.stalled_s, clock.total_stalled_s) == (0, 0)
    clock.tick(3.0, 5 * MIB)
    assert (clock.stalled_s, clock.total_stalled_s) == (2, 2)
    clock.tick(4.0, 9 * MIB)
    assert (clock.stalled_s, clock.total_stalled_s) == (0, 2)
    clock.tick(5.0, 9 * MIB + 1000)  # a log line
    assert (clock.stalled_s, clock.total_stalled_s) == (1, 3)


def test_stall_clock_adds_small_steps_up() -> None:
    clock = StallClock(0.0)
    clock.tick(0.0, 0)
    clock.tick(1.0, MIB // 2)
    clock.tick(2.0, MIB)
    assert clock.stalled_s == 0


def test_stall_clock_goes_on_from_a_smaller_figure() -> None:
    clock = StallClock(0.0)
    clock.tick(1.0, 100 * MIB)
    clock.tick(2.0, 10 * MIB)
    assert clock.stalled_s == 1
    clock.tick(3.0, 11 * MIB)
    assert clock.stalled_s == 0


LIMITS = LivenessLimits(failures=3, busy_failures=5)


def judge(count: LivenessCount, word: str) -> bool:
    return judge_liveness(
        count,
        answered=word == "answer",
        moved=word == "moved",
        is_busy=word == "busy",
        limits=LIMITS,
    )


@pytest.mark.parametrize(
    ("probes", "is_hung"),
    [
        (["idle"] * 2, False),
        (["idle"] * 3, True),
        (["idle", "idle", "answer", "idle", "idle"], False),
        (["idle", "idle", "moved", "idle", "idle"], False),
        (["busy"] * 4, False),
        (["busy"] * 5, True),
        (["idle", "busy", "busy", "busy"], False),
        (["idle", "busy", "idle", "busy", "idle"], True),
    ],
)
def test_liveness_tells_hung_from_busy(probes: list[str], is_hung: bool) -> None:
    count = LivenessCount()
    assert [judge(count, probe) for probe in probes][-1] is is_hung
