"""What all phases of the memory soak did, for people."""

from __future__ import annotations

import collections
import time
from typing import Any

from tests.soak.__main__ import say
from tests.soak.accounts import Ledger
from tests.soak.memory_clients import Waits
from tests.soak.memory_faults import FaultLog


class Totals:
    """Of all phases.

    Args:
        log: File that gets all that the instances say; "": none does.
    """

    def __init__(self, log: str) -> None:
        self.log = log
        self.began = time.monotonic()
        self.faults = FaultLog()
        self.waits = Waits()
        self.requests = 0
        self.kinds: collections.Counter[str] = collections.Counter()
        self.results: collections.Counter[str] = collections.Counter()
        self.moves: collections.Counter[str] = collections.Counter()
        self.samples = 0
        self.rss: list[list[int]] = []

    def add(self, ledger: Ledger, state: dict[str, Any]) -> None:
        """Take in a phase."""
        self.requests += ledger.total
        self.kinds += ledger.kinds
        for (outcome, status), count in ledger.counts.items():
            self.results[f"{outcome} {status}"] += count
        for name, count in state["moves"].items():
            self.moves[name.split(" ")[1]] += count
        self.samples += state["samples"]

    def show(self, ledger: Ledger, state: dict[str, Any]) -> None:
        """Print where a phase stands."""
        moves = sum(state["moves"].values())
        say(
            f"{time.monotonic() - self.began:5.0f} s  {ledger.total:6d} requests, {moves:4d} moves, "
            f"{state['in_flight']} in flight, waiting {state['waiters']}, "
            f"{state['tiers']}, {state['rss'] / 2**20:.0f} MiB, {state['fds']} descriptors"
        )

    def summarize(self) -> None:
        """Print what was done."""
        for title, counts in (
            ("", self.results),
            ("", self.kinds),
            ("faults", self.faults.made),
            ("moves", self.moves),
        ):
            say(f"\n{title}".rstrip(" "))
            for name, count in sorted(counts.items()):
                say(f"{count:8d}  {name}")
        waits = ", ".join(f"{name} {s:.1f} s" for name, s in sorted(self.waits.longest.items()))
        say(f"\nLongest wait for the first word: {waits}; {self.waits.comments} heartbeats")
        say(f"Engines were counted {self.samples} times.")
        for rss in self.rss:
            say(f"Memory when calm (MiB): {', '.join(f'{n / 2**20:.1f}' for n in rss)}")
