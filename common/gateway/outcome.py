"""How a failed request is counted (pure)."""

from __future__ import annotations

from common.errors import CapacityError, DeployError, EngineError, RequestError
from common.telemetry.recorder import Outcome


def outcome_of(error: Exception) -> Outcome:
    """Return how a request ends that fails with this error."""
    if isinstance(error, RequestError):
        return Outcome.REFUSED
    if isinstance(error, CapacityError):
        return Outcome.TIMEOUT
    if isinstance(error, EngineError):
        return Outcome.ENGINE_DIED
    return Outcome.REFUSED if isinstance(error, DeployError) else Outcome.INTERNAL
