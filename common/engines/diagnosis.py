"""What the diagnoses of all engines have in common: causes told by a printed line, and by a signal."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from common.engines.contract import Diagnosis

_SIGNALLED = 128


@dataclass(frozen=True)
class FailureRule:
    """Found when a line matches.

    Attributes:
        pattern: What the engine says.
        summary: One sentence for the user; gets the groups of the match.
        is_configuration: The same start would fail again.
        lacks_memory: It did not get the memory that it asked for.
    """

    pattern: re.Pattern[str]
    summary: str
    is_configuration: bool = True
    lacks_memory: bool = False


def failure_rule(
    pattern: str, summary: str, *, is_configuration: bool = True, lacks_memory: bool = False
) -> FailureRule:
    """Make a rule whose pattern is looked for in any case of letters."""
    compiled = re.compile(pattern, re.IGNORECASE)
    return FailureRule(compiled, summary, is_configuration, lacks_memory)


def signal_of(exit_code: int | None) -> int | None:
    """The number of the signal that ended a process, from its exit code 128 + n; None where none did."""
    if exit_code is None or not _SIGNALLED <= exit_code <= _SIGNALLED + 64:
        return None
    return exit_code - _SIGNALLED


def diagnose_signal(number: int, words: Mapping[int, str] | None = None) -> Diagnosis:
    """Tell what a signal says of an engine's end.

    Args:
        number: The signal.
        words: What this engine's own signals mean, by their numbers.
    """
    if number == signal.SIGILL:
        return Diagnosis(
            True,
            "The engine was built for another kind of processor (illegal instruction): install a "
            "build for this machine.",
        )
    meanings = {
        signal.SIGKILL: "Something outside killed the engine (SIGKILL), usually for lack of memory.",
        signal.SIGSEGV: "The engine crashed (SIGSEGV).",
        signal.SIGABRT: "The engine gave up on an error of its own (SIGABRT).",
        **(words or {}),
    }
    return Diagnosis(False, meanings.get(number, f"The engine was ended by signal {number}."))
