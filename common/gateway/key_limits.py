"""What a key may use: its models, and how many requests and tokens in a minute and at once.

Deterministic: time comes from an injected clock, nothing is awaited. A key without limits costs two
comparisons. The limits are one instance's; keys of one name share them, so that a key that takes
another one's place goes on where that one was.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from common.errors import RequestError
from common.gateway.auth import Identity, refuse_use
from common.gateway.keys import KeyLimits, Role

WINDOW_S = 60.0

STEP_S = 0.05
"""What comes within so long is kept as one entry, with the time of its last part: at most 1,201
entries a window. It expires up to so much later, never earlier."""

BUSY_RETRY_S = 1.0
"""When a key's own requests will end is not known."""


class SlidingWindow:
    """A sum over the last `WINDOW_S` seconds.

    `add` and `total` take constant time on average, `wait_s` at most the number of entries.
    """

    __slots__ = ("_begins", "_entries", "_total")

    def __init__(self) -> None:
        self._entries: deque[tuple[float, int]] = deque()
        self._begins = 0.0
        self._total = 0

    def add(self, now: float, amount: int) -> None:
        """Count `amount` at the time `now`, in seconds."""
        self._expire(now)
        if self._entries and now - self._begins < STEP_S:
            amount_before = self._entries.pop()[1]
            self._entries.append((now, amount_before + amount))
        else:
            self._begins = now
            self._entries.append((now, amount))
        self._total += amount

    def total(self, now: float) -> int:
        """Return the sum at the time `now`."""
        self._expire(now)
        return self._total

    def wait_s(self, now: float, limit: int) -> float:
        """Return how many seconds from `now` the sum takes to fall below `limit`; 0: it is."""
        rest = self.total(now)
        if rest < limit:
            return 0.0
        for at, amount in self._entries:
            rest -= amount
            if rest < limit:
                return at + WINDOW_S - now
        return WINDOW_S  # a limit of 0: never

    def _expire(self, now: float) -> None:
        entries = self._entries
        if entries and now < entries[-1][0]:
            # A clock that went back would keep these for as long as it went back.
            entries.clear()
            self._total = 0
        while entries and entries[0][0] + WINDOW_S <= now:
            self._total -= entries.popleft()[1]


class _Usage:
    """What the keys of one name have used."""

    __slots__ = ("in_flight", "requests", "tokens")

    def __init__(self) -> None:
        self.in_flight = 0
        self.requests = SlidingWindow()
        self.tokens = SlidingWindow()


class KeyLimiter:
    """Counts what the keys of one instance use, and refuses what is too much.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._usage: dict[str, _Usage] = {}

    def enter(self, identity: Identity, model: str) -> None:
        """Count a request that begins. Each one that entered has to `leave`.

        Args:
            identity: Who asks.
            model: Endpoint name of the model, not of an adapter.

        Raises:
            RequestError: 403: the key may not use this model, or none; 429: it has used what it may,
                with the time until it may go on. A request that is refused does not count.
        """
        if identity.role is Role.METRICS:
            raise refuse_use(identity)
        if identity.models is not None and model not in identity.models:
            raise refuse_model(identity, model)
        limits = identity.limits
        if limits is None:
            return
        usage = self._usage.get(identity.name)
        if usage is None:
            usage = self._usage[identity.name] = _Usage()
        now = self._clock()
        _check(identity.name, limits, usage, now)
        usage.in_flight += 1
        if limits.requests_per_minute is not None:
            usage.requests.add(now, 1)

    def leave(self, identity: Identity, tokens: int) -> None:
        """Count the end of a request that entered.

        Args:
            identity: The same as at its beginning.
            tokens: Of its prompt and its answer.
        """
        if identity.limits is None:
            return
        usage = self._usage[identity.name]
        usage.in_flight -= 1
        if tokens > 0 and identity.limits.tokens_per_minute is not None:
            usage.tokens.add(self._clock(), tokens)


def refuse_model(identity: Identity, model: str) -> RequestError:
    """Return the 403 for a model that a key may not use."""
    models = ", ".join(sorted(identity.models or ())) or "none"
    return RequestError(
        f"The key {identity.name!r} may not use the model {model!r}; it may use: {models}.",
        status=403,
        error_type="permission_error",
        code="model_not_allowed",
        param="model",
    )


def _check(name: str, limits: KeyLimits, usage: _Usage, now: float) -> None:
    """Refuse one more request; of several reasons the one that lasts longest."""
    found: list[tuple[float, str]] = []
    if limits.concurrent is not None and usage.in_flight >= limits.concurrent:
        found.append((BUSY_RETRY_S, f"{limits.concurrent} at the same time"))
    if limits.requests_per_minute is not None:
        wait_s = usage.requests.wait_s(now, limits.requests_per_minute)
        found.append((wait_s, f"{limits.requests_per_minute} requests a minute"))
    if limits.tokens_per_minute is not None:
        wait_s = usage.tokens.wait_s(now, limits.tokens_per_minute)
        found.append((wait_s, f"{limits.tokens_per_minute} tokens a minute"))
    wait_s, what = max(found, default=(0.0, ""))
    if wait_s > 0:
        raise RequestError(
            f"The key {name!r} is at its limit: {what}. Try again in {wait_s:.1f} s.",
            status=429,
            error_type="rate_limit_error",
            code="rate_limit_exceeded",
            retry_after_s=wait_s,
        )
