"""What a key may use: models, and sliding windows that are checked against their definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import RequestError
from common.gateway.auth import Identity
from common.gateway.key_limits import STEP_S, WINDOW_S, KeyLimiter, SlidingWindow
from common.gateway.keys import KeyLimits, Role

# Multiples of 1/64 s add up exactly; steps above STEP_S are never merged.
EXACT_STEPS = st.lists(st.integers(4, 64 * 40).map(lambda n: n / 64), max_size=60)
ANY_STEPS = st.lists(st.integers(0, 64 * 20).map(lambda n: n / 64), max_size=80)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def identity(
    name: str = "ci", role: Role = Role.USE, models: object = None, **limits: int
) -> Identity:
    allowed = None if models is None else frozenset(models)
    return Identity(name, role, allowed, 0, KeyLimits(**limits) if limits else None)


def refusal(limiter: KeyLimiter, who: Identity, model: str = "m") -> RequestError | None:
    try:
        limiter.enter(who, model)
    except RequestError as error:
        return error
    return None


@given(EXACT_STEPS, st.integers(1, 5))
def test_a_request_begins_exactly_when_fewer_than_the_limit_did_within_a_minute(
    steps: list[float], limit: int
) -> None:
    clock = Clock()
    limiter = KeyLimiter(clock)
    who = identity(requests_per_minute=limit)
    begun: list[float] = []
    for step in steps:
        clock.now += step
        recent = [at for at in begun if at > clock.now - WINDOW_S]
        error = refusal(limiter, who)
        assert (error is None) == (len(recent) < limit)
        if error is None:
            begun.append(clock.now)
        else:
            assert error.http_status == 429
            assert error.retry_after_s == recent[-limit] + WINDOW_S - clock.now


@given(ANY_STEPS, st.integers(1, 5))
def test_bursts_are_never_let_over_the_limit(steps: list[float], limit: int) -> None:
    clock = Clock()
    limiter = KeyLimiter(clock)
    who = identity(requests_per_minute=limit)
    begun: list[float] = []
    for step in steps:
        clock.now += step
        if refusal(limiter, who) is None:
            begun.append(clock.now)
    for at in begun:
        assert sum(at - WINDOW_S < other <= at for other in begun) <= limit


@given(ANY_STEPS, st.integers(1, 5), st.integers(1, 40))
def test_who_waits_as_told_gets_in_and_not_earlier(
    steps: list[float], requests: int, tokens: int
) -> None:
    clock = Clock()
    limiter = KeyLimiter(clock)
    who = identity(requests_per_minute=requests, tokens_per_minute=tokens)
    for step in steps:
        clock.now += step
        error = refusal(limiter, who)
        if error is None:
            limiter.leave(who, 7)
            continue
        assert error.retry_after_s is not None
        assert 0 < error.retry_after_s <= WINDOW_S
        clock.now += error.retry_after_s - 1 / 64
        assert refusal(limiter, who) is not None
        clock.now += 1 / 64
        assert refusal(limiter, who) is None
        limiter.leave(who, 7)


@given(
    st.lists(st.tuples(st.integers(4, 64 * 40), st.integers(0, 50)), max_size=60),
    st.integers(1, 200),
)
def test_tokens_count_when_a_request_ends_and_for_a_minute(
    steps: list[tuple[int, int]], limit: int
) -> None:
    clock = Clock()
    limiter = KeyLimiter(clock)
    who = identity(tokens_per_minute=limit)
    used: list[tuple[float, int]] = []
    for step, tokens in steps:
        clock.now += step / 64
        within = sum(count for at, count in used if at > clock.now - WINDOW_S)
        error = refusal(limiter, who)
        assert (error is None) == (within < limit)
        if error is None:
            limiter.leave(who, tokens)
            used.append((clock.now, tokens))


@given(st.lists(st.tuples(st.integers(0, 20).map(lambda n: n / 256), st.integers(1, 9))))
def test_a_window_stays_small_and_loses_nothing(steps: list[tuple[float, int]]) -> None:
    window = SlidingWindow()
    now = 5.0
    for step, amount in steps:
        now += step
        window.add(now, amount)
        assert len(window._entries) <= WINDOW_S / STEP_S + 2
    assert window.total(now) == sum(amount for _, amount in steps)
    assert window.total(now + WINDOW_S) == 0


def test_a_steady_flood_is_kept_in_few_entries() -> None:
    window = SlidingWindow()
    for tick in range(20_000):
        window.add(tick * 0.005, 1)
    assert len(window._entries) <= WINDOW_S / STEP_S + 2
    assert window.total(20_000 * 0.005) == pytest.approx(WINDOW_S / 0.005, rel=0.01)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4))
def test_no_more_than_the_limit_run_at_the_same_time(begins: list[bool], limit: int) -> None:
    limiter = KeyLimiter(Clock())
    who = identity(concurrent=limit)
    running = 0
    for begin in begins:
        if begin:
            error = refusal(limiter, who)
            assert (error is None) == (running < limit)
            running += error is None
        elif running:
            limiter.leave(who, 3)
            running -= 1


@pytest.mark.parametrize("jump", [-1e6, -30.0, 1e6])
def test_a_clock_that_jumps_locks_nobody_out_for_longer_than_a_minute(jump: float) -> None:
    clock = Clock()
    limiter = KeyLimiter(clock)
    who = identity(requests_per_minute=1, tokens_per_minute=1)
    limiter.enter(who, "m")
    limiter.leave(who, 10)
    assert refusal(limiter, who) is not None
    clock.now += jump
    refusal(limiter, who)
    clock.now += WINDOW_S
    assert refusal(limiter, who) is None


def test_the_longest_of_several_reasons_is_told() -> None:
    clock = Clock()
    limiter = KeyLimiter(clock)
    who = identity(requests_per_minute=1, tokens_per_minute=5, concurrent=1)
    limiter.enter(who, "m")
    clock.now += 10
    limiter.leave(who, 5)
    error = refusal(limiter, who)
    assert error is not None
    assert error.retry_after_s == 60
    assert "tokens a minute" in str(error)
    assert "'ci'" in str(error)


def test_keys_of_other_names_are_not_slowed_down() -> None:
    limiter = KeyLimiter(Clock())
    limiter.enter(identity("a", concurrent=1), "m")
    assert refusal(limiter, identity("a", concurrent=1)) is not None
    assert refusal(limiter, identity("b", concurrent=1)) is None
    assert refusal(limiter, identity("a")) is None


def test_a_limit_that_changes_applies_to_what_was_used_before() -> None:
    clock = Clock()
    limiter = KeyLimiter(clock)
    for _ in range(5):
        limiter.enter(identity(requests_per_minute=10), "m")
    assert refusal(limiter, identity(requests_per_minute=5)) is not None
    assert refusal(limiter, identity(requests_per_minute=6)) is None


def test_a_model_that_a_key_may_not_use_is_refused_and_does_not_count() -> None:
    limiter = KeyLimiter(Clock())
    who = identity(models=["a", "b"], requests_per_minute=1)
    error = refusal(limiter, who, "c")
    assert error is not None
    assert (error.http_status, error.code) == (403, "model_not_allowed")
    assert "a, b" in str(error)
    assert refusal(limiter, who, "a") is None


def test_a_key_for_the_metrics_uses_no_model() -> None:
    error = refusal(KeyLimiter(Clock()), identity(role=Role.METRICS))
    assert error is not None
    assert (error.http_status, error.code) == (403, "use_required")
