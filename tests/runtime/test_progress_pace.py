"""How often a download is told on the console."""

from __future__ import annotations

from common.models.progress import ProgressEvent
from common.runtime.progress_pace import ProgressPace


def told(
    seconds: int, *, stage: str = "downloading", pace: ProgressPace | None = None
) -> list[int]:
    """When a download that reports each second, and ends, is told."""
    pace = pace or ProgressPace()
    return [
        second
        for second in range(seconds + 1)
        if pace.is_due(ProgressEvent(stage, "m", second, seconds), float(second))
    ]


def test_a_short_download_is_told_at_its_start_and_its_end() -> None:
    assert told(3) == [0, 3]


def test_the_longer_it_takes_the_rarer_are_its_lines() -> None:
    lines = told(3600)
    gaps = [after - before for before, after in zip(lines, lines[1:], strict=False)]
    assert gaps[0] == 5
    assert gaps[-2] == 60
    assert len(lines) < 90
    assert lines[-1] == 3600


def test_each_stage_is_told_at_its_start() -> None:
    pace = ProgressPace()
    assert told(2, stage="waiting", pace=pace) == [0, 2]
    assert told(2, pace=pace) == [0, 2]


def test_a_download_of_unknown_size_goes_on_being_told() -> None:
    pace = ProgressPace()
    events = [pace.is_due(ProgressEvent("downloading", "m", n, None), float(n)) for n in range(11)]
    assert [n for n, is_due in enumerate(events) if is_due] == [0, 5, 10]
