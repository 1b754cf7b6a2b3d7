from __future__ import annotations

from common.models.progress import ProgressEvent, ProgressMeter, render_bytes, render_gib


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_line_has_bytes_and_rate() -> None:
    event = ProgressEvent("downloading", "SmolLM2", 45_100_000, 94_000_000, 12_300_000)
    assert str(event) == "downloading SmolLM2: 45.1 of 94.0 MB, 12.3 MB/s"
    waiting = ProgressEvent("waiting", "m", 500_000_000, 40_000_000_000)
    assert str(waiting) == "another instance is downloading m: 0.5 of 40.0 GB"
    assert str(ProgressEvent("downloading", "m", 999, None)) == "downloading m: 999 B"


def test_sizes() -> None:
    assert render_bytes(0) == "0 B"
    assert render_bytes(1000) == "1.0 kB"
    assert render_bytes(2_340_000_000_000) == "2.3 TB"
    assert render_gib(3 * 2**29) == "1.50 GiB"
    assert render_gib(2**20) == "1.0 MiB"


def test_meter_reports_first_at_most_one_a_second_and_last() -> None:
    clock, events = Clock(), []
    meter = ProgressMeter(events.append, "downloading", "m", 1000, clock=clock)
    for step in range(25):
        meter.update(step * 10)
        clock.now += 0.125
    meter.finish(250)
    assert [event.done_bytes for event in events] == [0, 80, 160, 240, 250]
    assert events[0].rate_bytes_s == 0
    assert round(events[1].rate_bytes_s) == 80
    meter.finish(250)
    assert len(events) == 5


def test_meter_rate_forgets_what_is_long_ago() -> None:
    clock, events = Clock(), []
    meter = ProgressMeter(events.append, "downloading", "m", None, clock=clock)
    meter.update(0)
    clock.now += 1
    meter.update(1_000_000)
    for _ in range(30):
        clock.now += 1
        meter.update(1_000_000)
    assert events[-1].rate_bytes_s == 0


def test_instant_has_no_rate() -> None:
    clock, events = Clock(), []
    meter = ProgressMeter(events.append, "downloading", "m", 98_000_000, clock=clock)
    meter.update(0)
    clock.now += 0.001
    meter.finish(98_000_000)
    assert str(events[-1]) == "downloading m: 98.0 of 98.0 MB"
