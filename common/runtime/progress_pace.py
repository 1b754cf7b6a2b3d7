"""Which of a download's events are worth a line of the console: fewer the longer it takes."""

from __future__ import annotations

from common.models.progress import ProgressEvent

# The status shows each event; a log of a download of an hour should fit on a page or two.
SHORTEST_S = 5.0
LONGEST_S = 60.0
# What passes until the next line, as a share of what has passed since the first.
_SHARE = 0.25


class ProgressPace:
    """Decides for the events of one fetch, in their order; without a clock of its own."""

    def __init__(self) -> None:
        self._stage: tuple[str, str] | None = None
        self._since = 0.0
        self._told = 0.0

    def is_due(self, event: ProgressEvent, now: float) -> bool:
        """Whether an event at `now` (seconds, of one clock) is worth a line.

        The first and the last of each stage always are; the others every five seconds at first, every
        minute after some minutes.
        """
        stage = (event.stage, event.model)
        if stage != self._stage:
            self._stage, self._since, self._told = stage, now, now
            return True
        interval = min(LONGEST_S, max(SHORTEST_S, _SHARE * (now - self._since)))
        is_last = event.total_bytes is not None and event.done_bytes >= event.total_bytes
        if not is_last and now - self._told < interval:
            return False
        self._told = now
        return True
