"""Requests that are still running when an instance is asked to stop are in what is left of it."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.local_server import RunningServer
from tests.e2e.load_client import Asked
from tests.e2e.loaded import Loaded, loaded, stub_setting

RUNNING = 8


@pytest.mark.timeout(120)
def test_the_last_reports_have_the_requests_of_the_drain(
    clearml_server: RunningServer, tmp_path: Path
) -> None:
    setting = stub_setting(tmp_path)
    with loaded(setting, clearml_server, tmp_path, every_s=1.0) as it:
        it.open()
        it.make([Asked("chat", "a", 5, 0.1)] * 3)
        with ThreadPoolExecutor() as pool:
            streams = [Asked("stream", "a", 30, 3.0)] * RUNNING
            making = pool.submit(it.make, streams)
            it.wait(lambda: in_flight(it) == RUNNING, "all of them in flight")
            reports = it.reports
            it.instance.process.send_signal(signal.SIGTERM)
            making.result()
        assert it.instance.wait_end(30) == 0, it.instance.console
    assert [one.status for one in it.load.seen] == [200] * (3 + RUNNING)
    assert reports.curve("Total Number of Requests", "a")[-1][1] == 3 + RUNNING
    (table,) = reports.plot("Models")["data"]
    cells = dict(zip(table["header"]["values"], table["cells"]["values"], strict=True))
    assert cells["Generated Tokens"] == [3 * 5 + RUNNING * 30, 0]
    assert cells["Requests"] == [3 + RUNNING, 0]


def in_flight(it: Loaded) -> float:
    name = "clearml_deploy_requests_in_flight"
    return it.reports.exposition().value(name, model="a")
