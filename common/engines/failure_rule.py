"""One cause of an engine's end, told by a line that it printed."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class FailureRule:
    """Found when a line matches.

    Attributes:
        pattern: What the engine says.
        summary: One sentence for the user; gets the groups of the match.
        is_configuration: The same start would fail again.
    """

    pattern: re.Pattern[str]
    summary: str
    is_configuration: bool = True


def failure_rule(pattern: str, summary: str, *, is_configuration: bool = True) -> FailureRule:
    """Make a rule whose pattern is looked for in any case of letters."""
    return FailureRule(re.compile(pattern, re.IGNORECASE), summary, is_configuration)
