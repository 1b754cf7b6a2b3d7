"""The Model Endpoints table of a ClearML server: a row per model, from loading to gone.

The service `serving` (API 2.31) has three calls. ``register_container`` announces a row; without an
address it is listed as loading. ``container_status_report`` needs an address and replaces the whole
row, so every field is sent each time. ``unregister_container`` removes it. A row expires 600 s after
its last call of any of them; a report of one that the server no longer has brings it back, or is
refused where the server is set up to refuse it, and then the row is registered again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.clearml.api import ClearMLApi
from common.errors import ControlPlaneError, RefusedError, ServerAwayError

REPORT_EVERY_S = 30.0
"""How often a row is reported; the server's charts have a point every 40 s at most."""

# Subcodes of a 400 by which a server says that it does not have the call: not supported, no such
# path, no such version, no such service.
_UNKNOWN_CALL = frozenset({0, 1, 2, 3, 4})


@dataclass(frozen=True)
class EndpointEntry:
    """One row.

    Attributes:
        container_id: Unique per instance and model.
        endpoint_name: The endpoint's name.
        model_name: What it serves.
        info: Further fields of ``register_container``: source, version, input, reference.
        endpoint_url: Where clients reach it; empty while it loads.
        stats: Further fields of ``container_status_report``: requests, latency, uptime, machine.
    """

    container_id: str
    endpoint_name: str
    model_name: str
    info: Mapping[str, Any] = field(default_factory=dict)
    endpoint_url: str = ""
    stats: Mapping[str, Any] = field(default_factory=dict)

    def registration(self) -> dict[str, Any]:
        """The body of ``register_container``."""
        return {
            "container_id": self.container_id,
            "endpoint_name": self.endpoint_name,
            "model_name": self.model_name,
            **self.info,
        }

    def report(self) -> dict[str, Any]:
        """The body of ``container_status_report``."""
        return {**self.registration(), "endpoint_url": self.endpoint_url, **self.stats}


class ModelEndpoints:
    """Makes the server's table show the rows that are wanted; `send` runs on the outbox's thread.

    Args:
        api: The server.
        debug: Told once when the server has no such table.
    """

    def __init__(self, api: ClearMLApi, debug: Callable[[str], None]) -> None:
        self._api = api
        self._debug = debug
        self._lock = threading.Lock()
        self._wanted: tuple[EndpointEntry, ...] = ()
        self._known: set[str] = set()
        self.is_supported = True

    def want(self, entries: Iterable[EndpointEntry]) -> None:
        """Say which rows there are to be from now on."""
        with self._lock:
            self._wanted = tuple(entries)

    def send(self) -> None:
        """Register, report and unregister what is due.

        Raises:
            ServerAwayError: The server cannot be reached now.
            ControlPlaneError: It refuses a row; with its own words.
        """
        if not self.is_supported:
            return
        with self._lock:
            wanted = self._wanted
        try:
            for gone in sorted(self._known - {entry.container_id for entry in wanted}):
                self._call("unregister_container", container_id=gone)
                self._known.discard(gone)
            for entry in wanted:
                self._show(entry)
        except ServerAwayError:
            raise
        except ControlPlaneError as error:
            if not _is_unknown_call(error):
                raise
            self.is_supported = False
            self._debug(f"This ClearML server has no table of model endpoints: {error}")

    def _show(self, entry: EndpointEntry) -> None:
        if not entry.endpoint_url or entry.container_id not in self._known:
            # Also what keeps a row alive that loads for longer than it may be silent.
            self._call("register_container", **entry.registration())
            self._known.add(entry.container_id)
        if not entry.endpoint_url:
            return
        try:
            self._call("container_status_report", **entry.report())
        except RefusedError as error:
            if _is_unknown_call(error):
                raise
            self._call("register_container", **entry.registration())
            self._call("container_status_report", **entry.report())

    def _call(self, action: str, **body: Any) -> None:
        self._api.call("serving", action, **body)


def _is_unknown_call(error: ControlPlaneError) -> bool:
    if isinstance(error, RefusedError):
        return error.status == 404 or (error.status == 400 and error.subcode in _UNKNOWN_CALL)
    return "status 404" in str(error)
