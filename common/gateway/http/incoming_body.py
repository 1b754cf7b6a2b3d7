"""A request's body as it comes from the wire, with back-pressure to the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

HELD_BYTES = 256 * 1024
"""More than this is not read from a client before somebody has taken what there is."""


class Wire(Protocol):
    """The connection that a body comes from."""

    def hold_reading(self) -> None:
        """Read no further for now."""

    def go_on_reading(self) -> None:
        """Read again."""

    def send_continue(self) -> None:
        """Let the client send the body (100), if it waits for that."""


class IncomingBody:
    """What has come of a body and was not taken yet. One reader, one event loop.

    Args:
        wire: Where it comes from.
        max_bytes: A larger body fails.
        too_large: Makes the failure.

    Attributes:
        size: Bytes that have come.
        is_complete: Whether all of it has come.
        failure: Why it never will; None while it may.
    """

    # What most bodies never have stands in the class, and in an instance's own dictionary when set.
    __slots__ = (
        "__dict__",
        "_held",
        "_parts",
        "_too_large",
        "_wire",
        "is_complete",
        "max_bytes",
        "size",
    )

    _discards = False
    _waiter: asyncio.Future[None] | None = None
    failure: Exception | None = None

    def __init__(self, wire: Wire, max_bytes: int, too_large: Callable[[], Exception]) -> None:
        self._wire = wire
        self._too_large = too_large
        self._parts: list[bytes] = []
        self._held = 0
        self.max_bytes = max_bytes
        self.size = 0
        self.is_complete = False

    @property
    def is_discarded(self) -> bool:
        """Whether nobody wants what still comes."""
        return self._discards

    def feed(self, data: bytes) -> None:
        """Take a piece from the wire."""
        if self._discards:
            return
        self.size += len(data)
        if self.size > self.max_bytes:
            self.fail(self._too_large())
            return
        self._parts.append(data)
        self._held += len(data)
        if self._waiter is not None:
            self._wake()
        elif self._held > HELD_BYTES:
            self._wire.hold_reading()

    def put(self, data: bytes) -> None:
        """Take all of it at once; nobody waits for it yet, and it is no larger than it may be."""
        if data:
            self._parts.append(data)
            self._held = self.size = len(data)
        self.is_complete = True

    def end(self) -> None:
        """All of it has come."""
        self.is_complete = True
        if self._waiter is not None:
            self._wake()

    def fail(self, error: Exception) -> None:
        """No more of it will be of use; the reader is told."""
        if self.failure is None and not self.is_complete:
            self.failure = error
        self.discard()
        if self._waiter is not None:
            self._wake()

    def discard(self) -> None:
        """Throw away what there is and what still comes."""
        self._discards = True
        self._parts = []
        self._held = 0
        self._wire.go_on_reading()

    def take(self) -> bytes:
        """Return what has come and was not taken.

        Raises:
            Exception: The failure.
        """
        if self.failure is not None:
            raise self.failure
        parts = self._parts
        if not parts:
            return b""
        if self._held > HELD_BYTES:
            self._wire.go_on_reading()
        self._parts = []
        self._held = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read(self) -> bytes:
        """Return the next piece, ``b""`` at the end.

        Raises:
            Exception: The failure.
        """
        while not self._parts and not self.is_complete and self.failure is None:
            if self.size == 0:
                self._wire.send_continue()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.take()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
