"""The record of one request: where it is on its way, and what it adds to the totals at its end."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from common.telemetry.totals import KeyCounts, ModelTotals
from common.telemetry.usage import EVENT, NO_USAGE, RequestUsage, estimate_usage, read_usage

if TYPE_CHECKING:
    from common.telemetry.recorder import Recorder

CLIENT_CLOSED_STATUS = 499

# Phases. Plain numbers: they are compared several times per request.
_OPEN, _QUEUED, _WAKING, _IN_FLIGHT, _CLOSED = range(5)


class Outcome(str, enum.Enum):
    """How a request ended."""

    OK = "ok"  # the engine's whole answer was passed on, whatever its status
    REFUSED = "refused"  # the gateway said no: key, size, limits, unknown model, draining
    CLIENT_CLOSED = "client_closed"
    ENGINE_DIED = "engine_died"  # before its answer or in the middle of it
    TIMEOUT = "timeout"  # the model was not ready in time
    STOPPED = "stopped"  # cut off by the end of the instance
    INTERNAL = "internal"  # our own mistake


_OK = Outcome.OK


class RequestRecord:
    """One request from its arrival to its end. `close` must be called once; then nothing counts.

    The way: `assign` a model, `queue` while it has no place for the request, `wake` while it loads
    (both only if it must), `start` when the engine gets it, `first_token` at the first byte of a
    streamed answer, `saw` with each piece of it, `close`. Assigned and not closed is what makes an
    instance active; a request refused before `assign` never counts as activity.

    Attributes:
        arrived: The recorder's clock at its arrival.
        model: The model's name; empty before `assign`.
    """

    __slots__ = (
        *("_before", "_before_that", "_first", "_first_at", "_key", "_last"),
        *("_events", "_phase", "_recorder", "_totals", "_waited_from"),
        *("arrived", "model"),
    )

    # Set when a request has to wait, which most never do.
    _waited_from: float

    def __init__(self, recorder: Recorder, arrived: float) -> None:
        self._recorder = recorder
        self.arrived = arrived
        self.model = ""
        self._totals: ModelTotals | None = None
        self._key: KeyCounts | None = None
        self._phase = _OPEN
        self._first_at = 0.0
        self._events = 0
        self._first = self._last = self._before = self._before_that = b""

    def assign(self, model: str, key: str = "") -> None:
        """Say which model the request is for: from now on it keeps the instance active.

        Args:
            model: The served model's name.
            key: Name of the API key that it came with; empty: not counted by key.
        """
        if self._totals is None and self._phase == _OPEN:
            recorder = self._recorder
            self.model = model
            totals = self._totals = recorder.models.get(model) or recorder.totals_of(model)
            recorder.open_requests += 1
            if key:
                self._key = totals.keys.get(key) or totals.counts_of(key)

    def queue(self) -> None:
        """All places at the model are taken: the request waits for one."""
        self._wait(_QUEUED)

    def wake(self) -> None:
        """The model is not ready: the request waits for it to load or wake."""
        self._wait(_WAKING)

    def start(self) -> None:
        """The engine gets the request."""
        totals = self._totals
        if totals is None or self._phase > _WAKING:
            return
        if self._phase:
            self._leave(totals, self._recorder.now())
        self._phase = _IN_FLIGHT
        totals.in_flight += 1

    def first_token(self) -> None:
        """The first byte of a streamed answer came; later calls do nothing."""
        if not self._first_at and self._phase != _CLOSED:
            self._first_at = self._recorder.now()

    def saw(self, data: bytes) -> None:
        """A piece of an answer passed that may tell its tokens: an event stream, or JSON.

        It is kept until two further ones came (the first until the end), and not looked into.
        """
        if self._phase == _CLOSED:
            return
        if self._last:
            # Those that are still kept at the end are counted then, if they have to be.
            if self._before_that:
                self._events += self._before_that.count(EVENT)
            self._before_that = self._before
            self._before = self._last
        else:
            self._first = data
        self._last = data

    def close(self, outcome: Outcome, status: int) -> RequestUsage:
        """End the record: takes it out of the gauges and adds it to the totals.

        Args:
            outcome: How it ended.
            status: HTTP status that the client got, 499 when it was gone.

        Returns:
            The tokens of the request, as far as its answer tells; none when it was closed before.
        """
        phase = self._phase
        if phase == _CLOSED:
            return NO_USAGE
        recorder = self._recorder
        now = recorder.now()
        totals = self._totals
        if totals is None:
            totals = recorder.totals_of("")
        else:
            if phase == _IN_FLIGHT:
                totals.in_flight -= 1
            elif phase:
                self._leave(totals, now)
            recorder.open_requests -= 1
            recorder.last_activity = now
        self._phase = _CLOSED
        if outcome is _OK and status == 200:
            totals.answered += 1
            totals.latency.observe(now - self.arrived)
        else:
            result = (outcome.value, status)
            totals.failures[result] = totals.failures.get(result, 0) + 1
            if outcome is _OK and status < 400:  # a quick "no" of the engine is no latency
                totals.latency.observe(now - self.arrived)
        is_stream = bool(self._before)  # of several pieces: a single one tells no time per token
        usage = NO_USAGE if not self._last else self._read_usage(totals)
        prompt, completion, _ = usage
        if self._first_at:
            totals.first_token.observe(self._first_at - self.arrived)
            if is_stream and completion > 1 and outcome is _OK:
                totals.per_token.observe((now - self._first_at) / (completion - 1))
        key = self._key
        if key is not None:
            key.requests += 1
            key.prompt += prompt
            key.completion += completion
        return usage

    @property
    def is_closed(self) -> bool:
        """Whether the end has been recorded."""
        return self._phase == _CLOSED

    def _wait(self, phase: int) -> None:
        totals = self._totals
        if totals is None or self._phase in (phase, _CLOSED):
            return
        now = self._recorder.now()
        if self._phase == _IN_FLIGHT:  # the engine refused the connection: it is about to restart
            totals.in_flight -= 1
        elif self._phase:
            self._leave(totals, now)
        self._phase = phase
        self._waited_from = now
        totals.waiting += 1

    def _leave(self, totals: ModelTotals, now: float) -> None:
        waits = totals.queue if self._phase == _QUEUED else totals.wake
        waits.observe(now - self._waited_from)
        totals.waiting -= 1

    def _read_usage(self, totals: ModelTotals) -> RequestUsage:
        first = self._first
        tail = self._before_that + self._before + self._last
        # A connection may keep its last handler for long; the pieces need not be kept with it.
        self._first = self._last = self._before = self._before_that = b""
        usage = read_usage(first, tail)
        if usage is None:
            if not self._first_at:
                return NO_USAGE
            usage = estimate_usage(first, tail, self._events + tail.count(EVENT))
            totals.prompt += usage.prompt
            totals.estimated += usage.completion
            return usage
        prompt, completion, _ = usage
        totals.prompt += prompt
        totals.completion += completion
        engine = totals.engine
        if self.arrived >= engine.read_at:
            engine.since_prompt += prompt
            engine.since_generated += completion
        return usage
