"""The server goes away in the middle of a load: late points with their own times, and nothing lost."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from common.local_server import RunningServer, start_background, stop
from tests.e2e.load_client import answered
from tests.e2e.loaded import Loaded, loaded, stub_setting

# A report every eighth of a second is one every 15 s on a clock that is 120 times as fast, and half a
# minute an hour.
EVERY_S = 0.125
SPEED = 120.0
HOUR_MS = 3_600_000

Curve = list[tuple[int, int, float]]
"""Iteration, time in milliseconds and value of each point."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Loaded]:
    server = start_background(tmp_path / "server", agent_queue=None)
    try:
        setting = stub_setting(tmp_path)
        with loaded(setting, server, tmp_path, every_s=EVERY_S, speed=SPEED) as it:
            it.open()
            yield it
    finally:
        stop(tmp_path / "server")


def made(folder: Path) -> dict[tuple[str, str], Curve]:
    """The points by title and series, as the instance wrote them down when it measured them."""
    curves: dict[tuple[str, str], Curve] = defaultdict(list)
    for line in (folder / "points").read_text().splitlines():
        iteration, at_ms, points = json.loads(line)
        for title, series, value in points:
            curves[title, series].append((iteration, at_ms, value))
    return curves


def kept(server: RunningServer, task: str) -> dict[tuple[str, str], Curve]:
    """The points as the server has them, in its order; those of the SDK's monitor are not ours."""
    curves: dict[tuple[str, str], Curve] = defaultdict(list)
    with server.client() as client:
        scroll: str | None = None
        while True:
            answer = client.call(
                "events.get_task_events",
                task=task,
                event_type="training_stats_scalar",
                batch_size=10_000,
                order="asc",
                scroll_id=scroll,
            )
            scroll = answer["scroll_id"]
            if not answer["events"]:
                return curves
            for event in answer["events"]:
                if not event["metric"].startswith(":monitor:"):
                    point = (event["iter"], event["timestamp"], event["value"])
                    curves[event["metric"], event["variant"]].append(point)


def last_ms(folder: Path) -> int:
    """When the last points were made, on their clock."""
    return max(curve[-1][1] for curve in made(folder).values())


def go_away(it: Loaded) -> None:
    stop(it.server.data_dir)
    it.wait(lambda: "delayed" in it.instance.console, "a word about the server on the console")


def test_an_outage_in_the_middle_of_a_load_loses_nothing(it: Loaded, tmp_path: Path) -> None:
    setting = it.setting
    it.make(setting.loading)
    it.make(setting.first[:40])
    go_away(it)
    away_ms = last_ms(tmp_path)
    it.make(setting.first[40:])
    it.make(setting.burst, len(setting.burst))
    it.make(setting.second[:40])
    it.wait(lambda: last_ms(tmp_path) - away_ms > HOUR_MS, "an hour on the fast clock")
    start_background(it.server.data_dir, agent_queue=None)
    it.make(setting.second[40:])
    it.wait(lambda: "answers again" in it.instance.console, "the server's return on the console")
    reports = it.reports
    assert it.stop() == 0, it.instance.console
    assert len(it.load.seen) == 200
    wanted, found = made(tmp_path), kept(it.server, reports.task)
    assert set(found) == set(wanted)
    for name, curve in wanted.items():
        assert found[name] == curve, name
        assert curve == sorted(curve)
    for model in ("a", "b"):
        totals = found["Total Number of Requests", model]
        assert totals[-1][2] == sum(one.model == model for one in it.load.seen)
        # About one every 15 s over the hour: those of the outage are there.
        assert sum(away_ms <= at_ms <= away_ms + HOUR_MS for _, at_ms, _ in totals) > 100
    (table,) = reports.plot("Models")["data"]
    cells = dict(zip(table["header"]["values"], table["cells"]["values"], strict=True))
    assert cells["Requests"] == [found["Total Number of Requests", m][-1][2] for m in ("a", "b")]
    for bars in reports.plot("Latency Histogram")["data"]:
        assert list(accumulate(bars["y"]))[-1] == len(answered(it.load.seen, bars["name"]))
    assert "lost" not in it.instance.console


def test_an_end_while_the_server_is_away_is_in_time_and_leaves_what_came_before(
    it: Loaded, tmp_path: Path
) -> None:
    it.make(it.setting.first[:40])
    it.wait(lambda: len(made(tmp_path)["Latency (ms)", "a"]) > 2, "points")
    go_away(it)
    sent_ms = last_ms(tmp_path)
    it.make(it.setting.first[40:60])
    reports = it.reports
    # Well within what an agent or Kubernetes allows for it.
    assert it.stop() == 0, it.instance.console
    assert "did not take the last reports in time" in it.instance.console
    start_background(it.server.data_dir, agent_queue=None)
    wanted, found = made(tmp_path), kept(it.server, reports.task)
    for name, curve in found.items():
        assert curve == wanted[name][: len(curve)], name
    assert 0 < found["Total Number of Requests", "a"][-1][1] <= sent_ms


def test_an_end_right_after_an_outage_brings_everything(it: Loaded, tmp_path: Path) -> None:
    it.make(it.setting.first[:20])
    go_away(it)
    it.make(it.setting.first[20:50])
    start_background(it.server.data_dir, agent_queue=None)
    reports = it.reports
    assert it.stop() == 0, it.instance.console
    assert kept(it.server, reports.task) == made(tmp_path)
    total = sum(one.model != "" for one in it.load.seen)
    assert reports.hyperparameter("properties", "requests") == str(total)
    assert reports.hyperparameter("Status", "status") == "stopped"
