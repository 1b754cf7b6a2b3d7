"""The end of an instance's process, without what could hold it up."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

# For what the user still has to read, if somebody reads at all.
CONSOLE_FLUSH_S = 0.5


def exit_now(code: int) -> None:
    """End the process without the SDK's exit hooks, which hang while the server is away."""
    # On a thread, as a reader that has stopped would hold it up for ever.
    flushing = threading.Thread(target=_flush_streams, daemon=True)
    flushing.start()
    flushing.join(CONSOLE_FLUSH_S)
    os._exit(code)


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader is gone
            stream.flush()
