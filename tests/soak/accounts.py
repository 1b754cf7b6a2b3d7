"""Whether every request ended as its client saw it, and nothing was left behind (pure)."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Result = tuple[str, int]
"""Outcome and status as the telemetry counts them; outcome "": it does not count this one."""


@dataclass(frozen=True)
class Seen:
    """What a client saw of one request.

    Attributes:
        id: Its ``X-Request-Id``.
        what: Which kind of request, for people.
        end: ``answer`` (whole), ``event`` (a stream that ended with an error), ``broken`` (the
            connection broke in the answer), ``nothing`` (it closed before), ``left`` (the client).
        status: Of the answer's head; 0: none came.
        is_engines: Whether an engine made the answer.
        fault: What the client saw that must not be; empty: nothing.
        is_sent: Whether the whole request was sent, so that the gateway must know it.
    """

    id: str
    what: str
    end: str
    status: int = 0
    is_engines: bool = False
    fault: str = ""
    is_sent: bool = True


@dataclass(frozen=True)
class Ended:
    """What the gateway recorded of one request; `told` is the status in its access line."""

    id: str
    outcome: str
    status: int
    model: str
    told: int

    @property
    def result(self) -> Result:
        """As the telemetry counts it."""
        return self.outcome, self.status


def explains(seen: Seen, ended: Ended) -> bool:
    """Whether what a client saw can be the end that was recorded."""
    outcome, status = ended.result
    if outcome == "internal" or ended.told != status:
        return False
    if seen.end == "answer":
        if seen.is_engines:
            return (outcome, status) == ("ok", seen.status)
        return status == seen.status and outcome in ("", "refused", "timeout", "engine_died")
    if seen.end == "event":  # an engine's refusal behind heartbeats is an answer as well
        return status == 200 and outcome in ("engine_died", "timeout", "refused", "ok")
    if seen.end == "broken":
        return (outcome, status) == ("engine_died", seen.status)
    if seen.end == "left":  # or it was over when the client left
        return outcome == "client_closed" or seen.status in (0, status)
    return False


@dataclass
class Ledger:
    """All requests of a run: the clients' side, the gateway's, and what does not fit."""

    faults: list[str] = field(default_factory=list)
    counts: collections.Counter[Result] = field(default_factory=collections.Counter)
    kinds: collections.Counter[str] = field(default_factory=collections.Counter)
    assigned: int = 0
    total: int = 0
    _seen: dict[str, Seen] = field(default_factory=dict)
    _ended: dict[str, list[Ended]] = field(default_factory=dict)

    def saw(self, seen: Seen) -> None:
        """A client ended a request."""
        self.total += 1
        self.kinds[f"{seen.what}: {seen.end}{f' {seen.status}' if seen.status else ''}"] += 1
        if seen.fault:
            self.faults.append(f"{seen.id} ({seen.what}): {seen.fault}")
        self._seen[seen.id] = seen

    def recorded(self, ended: Ended) -> None:
        """The gateway ended a request."""
        if ended.outcome:
            self.counts[ended.result] += 1
            self.assigned += ended.model != ""
        self._ended.setdefault(ended.id, []).append(ended)

    def settle(self) -> None:
        """Compare what is there; to be called when no request is in flight."""
        for name, seen in self._seen.items():
            found = self._ended.pop(name, [])
            if len(found) > 1:
                self.faults.append(f"{name} ({seen.what}) ended {len(found)} times: {found}")
            elif not found and seen.is_sent:
                self.faults.append(f"{name} ({seen.what}) was never recorded; client: {seen}")
            elif found and not explains(seen, found[0]):
                self.faults.append(f"{name} ({seen.what}): client saw {seen}, recorded {found[0]}")
        # Whose head was not read have an ID of the gateway's making, and do not count.
        self.faults += [
            f"recorded, but nobody asked: {ended}"
            for many in self._ended.values()
            for ended in many
            if ended.outcome
        ]
        self._seen.clear()
        self._ended.clear()

    def compare(self, results: Iterable[Sequence[Any]], key_requests: int) -> None:
        """Compare the totals with the telemetry's."""
        telemetry: collections.Counter[Result] = collections.Counter()
        for outcome, status, count in results:
            telemetry[(outcome, status)] += count
        if telemetry != self.counts:
            self.faults.append(f"the telemetry counted {telemetry}, the requests are {self.counts}")
        if key_requests != self.assigned:
            self.faults.append(f"by key {key_requests} requests, for models {self.assigned}")


def left_behind(state: Mapping[str, Any]) -> list[str]:
    """What is not free although no request is in flight; empty: all is."""
    found = []
    zero = ("in_flight", "connections", "busy_engine_connections", "open_requests")
    found += [f"{name}: {state[name]}" for name in zero if state[name]]
    for name in ("places", "gauges"):
        found += [f"{name} of {m or '-'}: {held}" for m, held in state[name].items() if any(held)]
    found += [f"requests of the key {name}: {n}" for name, n in state["by_key"].items() if n]
    pooled = state["engine_connections"]
    # Each model's admission and pool stay, a pool of an engine that is gone for a second.
    allowed = {"EngineConnection": pooled, "EnginePool": 6, "Admission": len(state["places"])}
    found += [
        f"{count} objects {name}"
        for name, count in state.get("objects", {}).items()
        if count > allowed.get(name, 0)
    ]
    return found


def grown(first: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What there is more of than at the beginning, apart from pooled connections to engines."""
    found = []
    # One descriptor is opened when first needed: what watches clients that are not read from.
    for name, spare in (("fds", 1), ("tasks", 0)):
        more = now[name] - first[name]
        if name == "fds":
            more -= now["engine_connections"] - first["engine_connections"]
        if more > spare:
            found.append(f"{name}: {first[name]}, now {now[name]}")
    return found


def memory_trend(rss: Sequence[int], spare_bytes: int = 12 * 2**20) -> str:
    """Say whether memory keeps growing; empty: no.

    Args:
        rss: Resident bytes at the calm points of the run, in their order. The first third is the
            time in which pools and caches fill.
        spare_bytes: What the last third may have over the middle one: pages do not all come back.
    """
    if len(rss) < 3:
        return ""
    third = len(rss) // 3
    middle, last = rss[third:-third], rss[-third:]
    more = min(last) - min(middle)
    if more <= spare_bytes:
        return ""
    return f"memory grew by {more / 2**20:.1f} MiB from the middle of the run to its end"
