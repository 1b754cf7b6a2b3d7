"""Options of a model that the gateway carries out, the same whatever engine serves it."""

from __future__ import annotations

from common.options.declaration import OptionGroup, option


class RequestOptions(OptionGroup):
    """How many requests a model takes at once, and what becomes of the others."""

    max_concurrent_requests: int | None = option(
        "Max Concurrent Requests",
        ge=1,
        help="Requests beyond this number are denied with status 429 instead of waiting, unless Max Waiting "
        "Requests lets some wait. Empty: no limit.",
    )
    max_waiting_requests: int | None = option(
        "Max Waiting Requests",
        ge=1,
        help="So many of the requests beyond Max Concurrent Requests wait for a place; those beyond that are "
        "denied with status 429. Empty: none waits.",
    )
    max_queue_seconds: float | None = option(
        "Max Queue (Seconds)",
        gt=0,
        help="A request that has waited so long for a place is denied with status 503. Empty: it waits until "
        "there is one. Only with Max Waiting Requests.",
    )
    cancel_on_disconnect: bool | None = option(
        "Cancel On Disconnect",
        help="A client that hangs up cancels its generation, unless this is off: then the engine finishes "
        "it. Default on.",
        placeholder="On",
    )
