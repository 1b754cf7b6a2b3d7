"""Why and when an instance stops: signals, an abort on the server, idleness, failure."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

StopKind = Literal["idle", "signal", "abort", "failed"]


@dataclass(frozen=True)
class StopReason:
    """Why the instance stops; the first reason counts."""

    kind: StopKind
    text: str


class StopRequest:
    """Asked for from any thread, waited for by the instance's loop; only the first reason is kept."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()
        self._lock = threading.Lock()
        self.reason: StopReason | None = None
        # Set when the instance has drained and reported: the abort callback returns then.
        self.finished = threading.Event()

    @property
    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        return self.reason is not None

    def request(self, kind: StopKind, text: str) -> None:
        """Ask the instance to stop; safe from any thread."""
        with self._lock:
            if self.reason is not None:
                return
            self.reason = StopReason(kind, text)
        with contextlib.suppress(RuntimeError):  # the loop has ended already, for another reason
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout_s: float | None) -> bool:
        """Wait for a stop for at most `timeout_s` seconds (None: any time); True when there is one."""
        try:
            await asyncio.wait_for(self._event.wait(), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True

    async def unless_asked(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do `work`, but give it up when a stop is asked for; True when it was finished.

        Raises:
            BaseException: What `work` raised.
        """
        working = asyncio.ensure_future(work)
        asked = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({working, asked}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
                return True
            return False
        finally:
            for future in (working, asked):
                future.cancel()
            await asyncio.gather(working, asked, return_exceptions=True)

    def on_signals(self, say: Callable[[str], None], leave: Callable[[int], None]) -> None:
        """SIGTERM and SIGINT drain; one that comes during a stop ends the process at once.

        Args:
            say: Gets a line for the user.
            leave: Ends the process with an exit code. The engines' guards see our end of their pipe
                close and end their process groups.
        """

        def handle(number: int) -> None:
            name = signal.Signals(number).name
            if self.reason is not None:
                say(f"{name} while stopping ({self.reason.text}): ending at once.")
                leave(128 + number)
                return
            say(f"{name}: finishing the requests in flight. A second one ends at once.")
            self.request("signal", f"received {name}")

        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, handle, number)

    def on_abort(self, say: Callable[[str], None], timeout_s: float) -> Callable[[], None]:
        """The SDK's abort callback: runs in its thread, returns when the instance has drained."""

        def callback() -> None:
            say("The task was aborted: finishing the requests in flight.")
            self.request("abort", "aborted by a user")
            self.finished.wait(timeout_s)

        return callback
