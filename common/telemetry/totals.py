"""What the records of a model's requests add up to, and the immutable copies for the exporters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.telemetry.engine_metrics import EngineTokens
from common.telemetry.histogram import Histogram, HistogramSnapshot


@dataclass(frozen=True)
class KeyTotals:
    """What was asked for with one API key at one model; tokens by the requests' usage."""

    requests: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class ModelSnapshot:
    """Totals of one model since the start.

    Attributes:
        requests: Ended requests.
        results: The same by (outcome, status).
        in_flight: Requests that the engine works on.
        waiting: Requests that wait for a place, or for the model to load or wake.
        latency: From arrival to end of the answered requests.
        first_token: From arrival to the first byte of a streamed answer.
        per_token: Time per token after the first, of streamed answers.
        queue: Waits for a place; only of requests that had to.
        wake: Waits for the model; only of requests that had to.
        prompt_tokens: By the engine's own counter; where it has none, by the requests' usage.
        generated_tokens: As `prompt_tokens`, estimated ones included.
        usage_prompt_tokens: Sum over the requests whose answer named them.
        usage_completion_tokens: Sum over the requests whose answer named them.
        estimated_tokens: Generated tokens of the other streams, counted by their events.
        moves: Durations by kind: load, wake, sleep, stop.
    """

    requests: int
    results: Mapping[tuple[str, int], int]
    in_flight: int
    waiting: int
    latency: HistogramSnapshot
    first_token: HistogramSnapshot
    per_token: HistogramSnapshot
    queue: HistogramSnapshot
    wake: HistogramSnapshot
    prompt_tokens: int
    generated_tokens: int
    usage_prompt_tokens: int
    usage_completion_tokens: int
    estimated_tokens: int
    moves: Mapping[str, HistogramSnapshot]


@dataclass(frozen=True)
class Snapshot:
    """All models at one moment.

    Attributes:
        at: The recorder's clock in seconds.
        models: By name; ``""`` holds the requests that reached no model.
        last_activity: When the last request of a model ended, in the same clock.
        keys: By (key's name, model).
    """

    at: float
    models: Mapping[str, ModelSnapshot]
    last_activity: float | None = None
    keys: Mapping[tuple[str, str], KeyTotals] = field(default_factory=dict)


class KeyCounts:
    """`KeyTotals` while they are counted."""

    __slots__ = ("completion", "prompt", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.prompt = 0
        self.completion = 0


class ModelTotals:
    """`ModelSnapshot` while it is counted; written by the event loop alone."""

    __slots__ = (
        *("answered", "estimated", "failures", "in_flight", "keys", "moves", "waiting"),
        *("first_token", "latency", "per_token", "queue", "wake"),
        *("completion", "prompt", "engine"),
    )

    def __init__(self) -> None:
        self.answered = 0  # (ok, 200): nearly all, so it is counted without a dictionary
        self.failures: dict[tuple[str, int], int] = {}
        self.in_flight = 0
        self.waiting = 0
        self.latency = Histogram()
        self.first_token = Histogram()
        self.per_token = Histogram()
        self.queue = Histogram()
        self.wake = Histogram()
        self.moves: dict[str, Histogram] = {}
        self.prompt = 0
        self.completion = 0
        self.estimated = 0
        self.keys: dict[str, KeyCounts] = {}
        self.engine = EngineCounters()

    def counts_of(self, key: str) -> KeyCounts:
        """Return the counts of an API key's name, from the first request with it on."""
        counts = self.keys.get(key)
        if counts is None:
            counts = self.keys[key] = KeyCounts()
        return counts

    def move(self, kind: str) -> Histogram:
        """Return the durations of a kind of move."""
        found = self.moves.get(kind)
        if found is None:
            found = self.moves[kind] = Histogram()
        return found

    def snapshot(self, *, has_engine_counters: bool = True) -> ModelSnapshot:
        """Return an immutable copy.

        Args:
            has_engine_counters: False: the engine counts no tokens, so those of the requests stand in.
        """
        results = dict(self.failures)
        if self.answered:
            results["ok", 200] = self.answered
        return ModelSnapshot(
            requests=sum(results.values()),
            results=results,
            in_flight=self.in_flight,
            waiting=self.waiting,
            latency=self.latency.snapshot(),
            first_token=self.first_token.snapshot(),
            per_token=self.per_token.snapshot(),
            queue=self.queue.snapshot(),
            wake=self.wake.snapshot(),
            prompt_tokens=self.engine.prompt if has_engine_counters else self.prompt,
            generated_tokens=(
                self.engine.generated if has_engine_counters else self.completion + self.estimated
            ),
            usage_prompt_tokens=self.prompt,
            usage_completion_tokens=self.completion,
            estimated_tokens=self.estimated,
            moves={kind: found.snapshot() for kind, found in list(self.moves.items())},
        )

    def key_snapshots(self) -> dict[str, KeyTotals]:
        """Return an immutable copy of the counts by key."""
        return {
            key: KeyTotals(counts.requests, counts.prompt, counts.completion)
            for key, counts in list(self.keys.items())
        }


class EngineCounters:
    """An engine's own token totals over all its lives, which each begin at zero.

    What an engine generated between its last reading and its end is in no reading. It is made up
    for by the usage of the requests that arrived after that reading and were answered before the
    end; there a prompt counts with its cached tokens, which llama.cpp's counter leaves out. What
    cannot be had: the tokens of answers that the end cut off, and of requests that were
    running when the last reading was taken.
    """

    __slots__ = (
        *("ended_at", "generated", "prompt", "read_at"),
        *("seen", "since_generated", "since_prompt"),
    )

    def __init__(self) -> None:
        self.prompt = 0
        self.generated = 0
        self.seen = EngineTokens(0, 0)
        self.read_at = self.ended_at = float("-inf")
        self.since_prompt = 0
        self.since_generated = 0

    def observe(self, tokens: EngineTokens, asked_at: float, now: float) -> None:
        """Take over a reading, unless it is of an engine that has ended or a later one overtook it.

        A total that fell otherwise tells of a new life that nobody announced.
        """
        if asked_at < self.ended_at:
            return
        if tokens.prompt < self.seen.prompt or tokens.generated < self.seen.generated:
            if asked_at < self.read_at:
                return
            self.end(now)
        self.prompt += tokens.prompt - self.seen.prompt
        self.generated += tokens.generated - self.seen.generated
        self.seen = tokens
        self.read_at = now
        self.since_prompt = self.since_generated = 0

    def end(self, now: float) -> None:
        """The engine ended: its next reading begins at zero. May be called again."""
        self.prompt += self.since_prompt
        self.generated += self.since_generated
        self.since_prompt = self.since_generated = 0
        self.seen = EngineTokens(0, 0)
        self.ended_at = now
