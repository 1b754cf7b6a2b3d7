"""An engine's end in words: what happened, why, what to do."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from common.engines.child_process import ExitStatus
from common.engines.contract import Diagnosis, EngineSpec
from common.engines.state import Cause, Ending, GiveUp, Rest, Restart
from common.errors import (
    EngineConfigurationError,
    EngineCrashError,
    EngineError,
    EngineMissingError,
)

# Lines of output that an error's text shows; `EngineError.tail` has more of them.
SHOWN_LINES = 6
KEPT_LINES = 40

# How the C library, Python and the usual HTTP servers word EADDRINUSE.
_ADDRESS_TAKEN = re.compile(
    r"address already in use|EADDRINUSE|errno 98\b|couldn't bind|could not bind|failed to bind",
    re.IGNORECASE,
)


def says_address_taken(tail: Sequence[str]) -> bool:
    """Tell from an engine's last lines that its port was taken."""
    return any(_ADDRESS_TAKEN.search(line) for line in tail)


def build_failure(
    spec: EngineSpec,
    ending: Ending,
    diagnosis: Diagnosis,
    decision: Restart | GiveUp | Rest,
    tail: Sequence[str],
) -> EngineError:
    """Make the error that a user gets for an engine that ended unwanted."""
    sentences = [_what_happened(spec, ending)]
    if summary := diagnosis.summary.strip():
        sentences.append(summary if summary.endswith((".", "!", "?")) else f"{summary}.")
    if ending.signal == signal.SIGKILL and "memory" not in diagnosis.summary.lower():
        sentences.append(
            "Something outside killed it, usually the system because memory ran out: use a smaller "
            "model, a stronger quantisation, a smaller context, or a worker with more memory."
        )
    error_type: type[EngineError] = EngineCrashError
    if ending.cause is Cause.NOT_EXECUTABLE:
        error_type = EngineMissingError
    elif isinstance(decision, GiveUp) and decision.is_configuration:
        error_type = EngineConfigurationError
        sentences.append("It would fail again in the same way, so it is not restarted.")
    elif isinstance(decision, GiveUp):
        sentences.append(f"It failed {decision.crashes} times in a row, so it is not restarted.")
    text = " ".join(sentences)
    shown = [line for line in tail if line.strip()][-SHOWN_LINES:]
    if shown:
        text = "\n".join([f"{text}\nIts last lines:", *(f"  {line}" for line in shown)])
    error = error_type(text, exit_code=ending.exit_code, tail=tail[-KEPT_LINES:])
    error.lacks_memory = diagnosis.lacks_memory
    return error


def _what_happened(spec: EngineSpec, ending: Ending) -> str:
    name = f'The engine of "{spec.name}" ({spec.program.label})'
    if ending.cause in (Cause.NOT_EXECUTABLE, Cause.NOT_STARTED):
        return f"{name} cannot be started: {ending.detail}."
    if ending.cause is Cause.TOO_SLOW:
        return f"{name} did not become ready: {ending.detail}."
    if ending.cause is Cause.HUNG:
        return f"{name} hung: {ending.detail}."
    status = ExitStatus(code=None if ending.signal else ending.exit_code, signal=ending.signal)
    when = "before it was ready" if ending.ready_s is None else "while it served"
    if ending.was_parked:
        when = "while it was asleep"
    return f"{name} ended with {status}, {ending.ran_s:.0f} s after its start, {when}."
