"""The end of a run: what the console and the ClearML server are told, and when the process leaves."""

from __future__ import annotations

import socket
import time

from common.clearml.instance import Ending, InstanceTask
from common.errors import DeployError
from common.runtime.console import Console
from common.runtime.exit_codes import exit_code_of
from common.runtime.offline_keys import forget_key
from common.runtime.process_exit import CONSOLE_FLUSH_S, exit_now
from common.runtime.stopping import StopReason, StopRequest

# The contract: gone within ten seconds of the drain, server or no server.
_GONE_AFTER_S = 9.0
_REPORT_TIMEOUT_S = 6.0


class RunEnd:
    """Ends one run; nothing here raises or waits for the server beyond its time.

    Args:
        report: The instance's task.
        console: Gets the last line.

    Attributes:
        stop: The request that is ended; None before there is one.
    """

    def __init__(self, report: InstanceTask, console: Console) -> None:
        self._report = report
        self._console = console
        self._since: float | None = None
        self.stop: StopRequest | None = None

    def begin(self) -> None:
        """The drain is over: from now on the time is counted. Later calls do nothing."""
        if self._since is None:
            self._since = time.monotonic()

    def stopped(self, reason: StopReason) -> int:
        """End a run that was asked to stop; returns the exit code."""
        self._console.line(f"Stopped: {reason.text}.")
        # An agent writes texts of its own into the task's reason.
        self._report.set_status({"stop_reason": reason.text})
        ending: Ending = "completed" if reason.kind == "idle" else "stopped"
        self._finish(ending, reason.text)
        if reason.kind == "abort" or (ending == "stopped" and self._is_agents):
            # The SDK or the agent ends us now; leaving first would look like success.
            self._wait_to_be_ended()
        return 0

    def failed(self, error: DeployError) -> int:
        """End a run that failed; returns the exit code."""
        text = str(error)
        self._console.line(f"FAILED: {text}")
        self._report.set_status({"status": "failed", "error": text})
        self._finish("failed", text)
        if not self._is_agents:
            return exit_code_of(error)
        # The agent ends us because of the status and keeps our reason, which its own would replace
        # if we left first.
        self._wait_to_be_ended()
        return 1

    def at_once(self, code: int) -> None:
        """End this process without an orderly end."""
        forget_key(self._report.id)
        self._console.flush(CONSOLE_FLUSH_S)
        exit_now(code)

    @property
    def _is_agents(self) -> bool:
        return self._report.mode == "agent"

    def _finish(self, ending: Ending, reason: str) -> None:
        """Send what is left to the server, for as long as there is time."""
        self.begin()
        forget_key(self._report.id)
        # A thread of its own writes it, and the SDK sends what was written.
        self._console.flush(CONSOLE_FLUSH_S)
        # With "worker" in the task's message the SDK leaves this process alone.
        message = f"{ending} on worker {socket.gethostname()}"
        if not self._report.finish(ending, reason, message, _REPORT_TIMEOUT_S):
            self._console.line("The ClearML server did not take the last reports in time.")
        if self.stop is not None:
            self.stop.finished.set()

    def _wait_to_be_ended(self) -> None:
        assert self._since is not None
        time.sleep(max(0.0, self._since + _GONE_AFTER_S - time.monotonic()))
