"""Progress of a fetch in bytes and rate, throttled, and its line for the console."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import DeployError

_RATE_WINDOW_S = 10.0
# Less than this tells nothing of a rate: what lay there already would seem to fly.
_RATE_SHORTEST_S = 0.1


class FetchCancelledError(DeployError):
    """The caller asked for the fetch to stop; what was received stays, to be resumed."""

    code = "cancelled"
    http_status = 503


@dataclass(frozen=True)
class ProgressEvent:
    """How far one stage of a fetch is.

    Attributes:
        stage: ``downloading``, ``waiting`` (another instance downloads it), ``unpacking``.
        model: The model as the user named it.
        done_bytes: Bytes present, those of an earlier attempt included.
        total_bytes: Bytes in all; None when the source does not say.
        rate_bytes_s: Rate over the last seconds; 0.0 until a tenth of a second was measured.
    """

    stage: str
    model: str
    done_bytes: int
    total_bytes: int | None
    rate_bytes_s: float = 0.0

    def __str__(self) -> str:
        """Render such as ``downloading SmolLM2: 45.1 of 94.0 MB, 12.3 MB/s``."""
        head = "another instance is downloading" if self.stage == "waiting" else self.stage
        if self.total_bytes is None:
            amount = render_bytes(self.done_bytes)
        else:
            number, unit = _scaled(self.total_bytes)
            done = self.done_bytes / _UNITS[unit]
            amount = f"{_number(done, unit)} of {_number(number, unit)} {unit}"
        rate = f", {render_bytes(round(self.rate_bytes_s))}/s" if self.rate_bytes_s > 0 else ""
        return f"{head} {self.model}: {amount}{rate}"


Progress = Callable[[ProgressEvent], None]

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _scaled(count: int) -> tuple[float, str]:
    unit = next((name for name, size in reversed(_UNITS.items()) if count >= size), "B")
    return count / _UNITS[unit], unit


def _number(value: float, unit: str) -> str:
    return f"{value:.0f}" if unit == "B" else f"{value:.1f}"


def render_bytes(count: int) -> str:
    """Render a size as downloads and disks are counted: powers of 1000, such as ``94.0 MB``."""
    value, unit = _scaled(count)
    return f"{_number(value, unit)} {unit}"


def render_gib(count: int) -> str:
    """Render a size as memory is counted: powers of 1024, such as ``4.58 GiB``."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def ignore_progress(_: ProgressEvent) -> None:
    """Be the callback of a caller that wants no progress."""


def check_cancelled(cancel: threading.Event | None) -> None:
    """Raise `FetchCancelledError` once `cancel` is set."""
    if cancel is not None and cancel.is_set():
        raise FetchCancelledError("The download was cancelled")


class ProgressMeter:
    """Turns byte counts into events: the first, at most one per interval, and the last.

    One meter belongs to one thread. The rate is that of the last ten seconds, so that it neither
    jumps with every chunk nor hides a stall behind a good start.
    """

    def __init__(
        self,
        report: Progress,
        stage: str,
        model: str,
        total_bytes: int | None,
        *,
        interval_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report = report
        self._stage = stage
        self._model = model
        self._total_bytes = total_bytes
        self._interval_s = interval_s
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()
        self._reported_at: float | None = None
        self._reported_bytes = -1

    def update(self, done_bytes: int) -> None:
        """Note that `done_bytes` are present; may report."""
        now = self._clock()
        self._samples.append((now, done_bytes))
        while len(self._samples) > 2 and now - self._samples[0][0] > _RATE_WINDOW_S:
            self._samples.popleft()
        if self._reported_at is None or now - self._reported_at >= self._interval_s:
            self._emit(now, done_bytes)

    def finish(self, done_bytes: int) -> None:
        """Report the last count, if it was not just reported."""
        now = self._clock()
        self._samples.append((now, done_bytes))
        if done_bytes != self._reported_bytes:
            self._emit(now, done_bytes)

    def _emit(self, now: float, done_bytes: int) -> None:
        self._reported_at = now
        self._reported_bytes = done_bytes
        (start, first), (end, last) = self._samples[0], self._samples[-1]
        rate = (last - first) / (end - start) if end - start >= _RATE_SHORTEST_S else 0.0
        self._report(
            ProgressEvent(self._stage, self._model, done_bytes, self._total_bytes, max(rate, 0.0))
        )
