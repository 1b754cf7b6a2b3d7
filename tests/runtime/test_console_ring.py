"""The last lines of the console, for the instance's page."""

from __future__ import annotations

import io
import threading

from hypothesis import given
from hypothesis import strategies as st

from common.runtime.console import Console
from common.runtime.console_ring import RING_LINE_CHARS, RING_LINES, ConsoleRing


def test_each_line_is_given_once_to_whoever_asks_with_the_last_number() -> None:
    console = Console(io.StringIO())
    assert console.recent(0) == ([], 0)
    console.line("one")
    console.engine("m", "two")
    lines, number = console.recent(0)
    assert (lines, number) == (["one", "[m] two"], 2)
    assert console.recent(number) == ([], 2)
    console.line("three")
    assert console.recent(number) == (["three"], 3)


def test_secrets_are_masked_before_they_are_kept() -> None:
    console = Console(io.StringIO())
    console.hide(["the-secret-key"])
    console.line("a the-secret-key b")
    console.engine("m", "the-secret-key")
    assert console.recent(0)[0] == ["a ****** b", "[m] ******"]


def test_a_text_of_several_lines_counts_as_these() -> None:
    ring = ConsoleRing()
    ring.add("Traceback\n  one\ntwo")
    assert ring.recent(1) == (["  one", "two"], 3)


def test_long_lines_are_cut_and_say_so() -> None:
    ring = ConsoleRing()
    ring.add("x" * (RING_LINE_CHARS + 7))
    [line], _ = ring.recent(0)
    assert line == "x" * RING_LINE_CHARS + " ... (7 more characters)"


def test_a_number_of_an_earlier_instance_gets_everything() -> None:
    ring = ConsoleRing()
    ring.add("first")
    assert ring.recent(900) == (["first"], 1)
    assert ring.recent(-1) == (["first"], 1)


@given(counts=st.lists(st.integers(0, 9), max_size=30), size=st.integers(1, 20))
def test_nothing_is_given_twice_and_only_the_oldest_are_lost(counts: list[int], size: int) -> None:
    ring = ConsoleRing(lines=size)
    number = added = 0
    for count in counts:
        for _ in range(count):
            added += 1
            ring.add(str(added))
        lines, newest = ring.recent(number)
        assert lines == [str(n) for n in range(max(number, added - size) + 1, added + 1)]
        number = newest
    assert number == added


def test_lines_of_many_threads_are_all_counted() -> None:
    console = Console(io.StringIO())
    threads = [
        threading.Thread(target=lambda: [console.line("x") for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines, number = console.recent(0)
    assert (len(lines), number) == (RING_LINES, 2000)
