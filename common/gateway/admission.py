"""Whether a model takes one more request (pure: no clock, no I/O)."""

from __future__ import annotations

import math

from common.errors import RequestError

# Weight of the newest request in the moving mean of the service time: about the last ten count.
MEAN_WEIGHT = 0.2
MAX_RETRY_AFTER_S = 30.0
DRAIN_RETRY_AFTER_S = 10.0
"""A drained instance does not come back itself; another one behind the same route may."""


class Admission:
    """The places of one model.

    Args:
        model: Served model name.
        limit: Places (*Max Concurrent Requests*); None: no limit.
    """

    def __init__(self, model: str, limit: int | None) -> None:
        self.model = model
        self.limit = limit
        self.in_flight = 0
        self._mean_service_s = 1.0

    def enter(self) -> None:
        """Take a place; `leave` must follow exactly once.

        Raises:
            RequestError: 429 with the time after which a place should be free.
        """
        if self.limit is not None and self.in_flight >= self.limit:
            raise RequestError(
                f"The model {self.model!r} is at its limit of {self.limit} concurrent "
                f"request{'s' if self.limit != 1 else ''} (Max Concurrent Requests); "
                "try again shortly.",
                status=429,
                error_type="rate_limit_error",
                code="too_many_requests",
                retry_after_s=self.retry_after_s(),
            )
        self.in_flight += 1

    def leave(self, service_s: float) -> None:
        """Give the place back; `service_s` is how long it was held."""
        self.in_flight -= 1
        self._mean_service_s += MEAN_WEIGHT * (service_s - self._mean_service_s)

    def retry_after_s(self) -> float:
        """Return when the next place should be free: the mean service time over the places."""
        places = self.limit or 1
        return float(min(MAX_RETRY_AFTER_S, max(1, math.ceil(self._mean_service_s / places))))


def refuse_draining() -> RequestError:
    """Return the 503 of an instance that finishes its last requests."""
    return RequestError(
        "This instance is shutting down and takes no new requests.",
        status=503,
        error_type="server_error",
        code="draining",
        retry_after_s=DRAIN_RETRY_AFTER_S,
    )
