"""The console: whole lines, no secrets, and no harm when its reader is gone."""

from __future__ import annotations

import io
import os

from common.runtime.console import Console
from common.runtime.line_limit import ACCESS_BURST_LINES


def test_secrets_are_masked_wherever_they_appear() -> None:
    out = io.StringIO()
    console = Console(out)
    console.hide(["sk-secret-1", None, "", "on"])
    console.line("key sk-secret-1 is on")
    console.engine("m", "echo sk-secret-1")
    assert console.flush(5)
    assert out.getvalue() == "key ****** is on\n[m] echo ******\n"


def test_engine_lines_can_be_turned_off_but_not_what_happens_to_the_engine() -> None:
    out = io.StringIO()
    console = Console(out)
    console.show_engine = False
    console.engine("m", "llama_model_loader: loaded")
    console.engine("m", "[engine] restarting in 1 s")
    assert console.flush(5)
    assert out.getvalue() == "m: restarting in 1 s\n"


def test_engine_lines_that_are_turned_off_still_tell_of_errors() -> None:
    out = io.StringIO()
    console = Console(out)
    console.show_engine = False
    for line in (
        "0.00.001.000 I srv load_model: loading",
        "0.00.002.000 E srv load_model: failed",
        "Traceback (most recent call last):",
        '  File "x.py", line 1',
        "KeyError: 1",
        "goes on",
    ):
        console.engine("m", line)
    assert console.flush(5)
    assert out.getvalue().splitlines() == [
        "[m] E srv load_model: failed",
        "[m] Traceback (most recent call last):",
        '[m]   File "x.py", line 1',
        "[m] KeyError: 1",
    ]


def test_requests_have_a_line_each_until_there_are_too_many() -> None:
    console = Console(io.StringIO(), lambda: 0.0)
    for number in range(ACCESS_BURST_LINES + 3):
        console.access(f"GET /{number} m 200 in 1 ms")
    assert console.flush(5)
    lines, number = console.recent(0)
    assert number == ACCESS_BURST_LINES + 1
    assert lines[-1] == "3 lines of requests were left out, more than 20 a second"


def test_an_event_that_happens_a_hundred_times_is_told_a_few_times_and_counted() -> None:
    console = Console(io.StringIO(), lambda: 0.0)
    console.hide(["secret-key"])
    for _ in range(100):
        console.event("A request for '{m}' failed: secret-key")
    console.event("something else")
    assert console.flush(5)
    assert console.recent(0)[0] == [
        *["A request for '{m}' failed: ******"] * 3,
        "something else",
        "97 lines like \"A request for '{m}' failed: ******\" were left out, more than 0.1 a second",
    ]


def test_events_in_ever_new_words_are_all_told_and_not_all_remembered() -> None:
    console = Console(io.StringIO(), lambda: 0.0)
    for number in range(300):
        console.event(f"event {number}")
    assert console.recent(0)[1] == 300
    assert len(console._events) == 100


def test_debug_lines_need_debug_mode() -> None:
    out = io.StringIO()
    console = Console(out)
    console.debug("hidden")
    console.is_debug = True
    console.debug("shown")
    assert console.flush(5)
    assert out.getvalue() == "shown\n"


def test_a_reader_that_is_gone_ends_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    console = Console(stream)
    console.line("nobody reads this")
    console.line("nor this")
    assert console.flush(5)
    try:
        stream.close()
    except BrokenPipeError:
        pass


def test_a_reader_that_has_stopped_holds_nobody_up() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader:
        stream = os.fdopen(writing, "w")
        console = Console(stream)
        for number in range(20_000):  # more than a pipe and the waiting lines hold
            console.line(f"line {number} {'x' * 100}")
        assert not console.flush(0.1)
        text = b""
        while b"line 19999" not in text:
            text += reader.read1(1 << 20)
        assert console.flush(5)
        assert b"lines were dropped: nobody read them" in text
        stream.close()
