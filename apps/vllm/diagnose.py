"""Why a vLLM ended, from its exit code and its last lines. Pure.

A cause is looked for in what the engine's processes raised: `vllm serve` runs several, each failure
is told by all of them, and the last one only says that another failed. `failure_rules` has the causes.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence

from apps.vllm.failure_rules import RULES
from common.engines.contract import Diagnosis
from common.engines.diagnosis import diagnose_signal, signal_of

_SIGNALS: dict[int, str] = {
    signal.SIGBUS: "The engine could not use its memory (SIGBUS): usually /dev/shm is too small; in a "
    "container give it more (--shm-size).",
}
_SHOWN = 300

# "(EngineCore pid=7) ERROR 11-20 12:20:22 [core.py:1510] ValueError: ...", with or without its parts.
_PREFIX = re.compile(
    r"^(?:\([\w. -]+(?: pid=\d+)?(?:, [^)]*)?\) ?)?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL):? +"
    r"(?:\d\d-\d\d \d\d:\d\d:\d\d )?(?:\[[\w./]+:\d+\] ?)?)?"
)
_QUIET = {"DEBUG", "INFO", "WARNING"}
_EXCEPTION = re.compile(
    r"^(?:[\w.]+\.)?(?P<kind>\w*(?:Error|Exception|Interrupt))(?:: (?P<text>.+))?$"
)
# Exceptions that only tell of another one.
_SECONDHAND = re.compile(
    r"Engine core initialization failed|See root cause|EngineDeadError|Engine process failed|"
    r"See stack trace above|Failed core proc"
)
_DIED = re.compile(r"EngineDeadError|died unexpectedly")
_SERVING = re.compile(r"Application startup complete|Uvicorn running on")


def diagnose(exit_code: int | None, tail: Sequence[str]) -> Diagnosis:
    """Tell a configuration error, which would fail again, from a crash.

    Args:
        exit_code: Its exit code, 128 + n for signal n; None when it never became ready.
        tail: Its last lines, oldest first.

    Returns:
        The cause, with the engine's own line where that says more than the summary.
    """
    lines = list(_spoken(tail))
    number = signal_of(exit_code)
    by_signal = None if number is None else diagnose_signal(number, _SIGNALS)
    if by_signal is not None and number != signal.SIGABRT:
        return by_signal
    # What served once can serve again: then it was the requests, not the settings.
    has_served = any(_SERVING.search(line) for line in tail)
    for rule in RULES:
        for index, line in enumerate(lines):
            if match := rule.pattern.search(line):
                values = {name: value or "" for name, value in match.groupdict().items()}
                summary = f"{rule.summary.format(**values)} It says: {_said(lines, index)}"
                is_configuration = rule.is_configuration and not has_served
                return Diagnosis(is_configuration, summary, rule.lacks_memory)
    return by_signal or Diagnosis(False, _unexplained(lines))


def _spoken(tail: Sequence[str]) -> Iterator[str]:
    """The lines of errors, without their prefixes: what only informs quotes settings and advice."""
    for raw in tail:
        line = raw.rstrip()
        prefix = _PREFIX.match(line)
        assert prefix is not None  # all its parts are optional
        if prefix["level"] not in _QUIET and (text := line[prefix.end() :].strip()):
            yield text


def _said(lines: Sequence[str], number: int) -> str:
    """The engine's own words: the line, and the next where the line only announces it."""
    line = lines[number]
    if line.endswith(("Config", "Config:")) and number + 1 < len(lines):
        line = f"{line}: {' '.join(lines[number + 1 : number + 3])}"
    # pydantic quotes its input after the message.
    return re.sub(r" \[type=\w+, input_value=.*", "", line)[:_SHOWN]


def _unexplained(lines: Sequence[str]) -> str:
    """The first exception that does not only tell of another; else what there is."""
    raised = [line for line in lines if _EXCEPTION.match(line)]
    own = [line for line in raised if not _SECONDHAND.search(line)]
    if not own and any(_DIED.search(line) for line in lines):
        return "One of the engine's processes died without a word, perhaps for lack of memory."
    line = next(iter([*own, *raised[-1:], *reversed(lines)]), "")
    return f"It says: {line[:_SHOWN]}" if line else "It said nothing."
