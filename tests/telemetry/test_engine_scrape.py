"""``/metrics`` of a running instance over real engine processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
from exposition_rules import check_exposition
from prometheus_client.parser import text_string_to_metric_families

from common.telemetry.recorder import Recorder
from tests.runtime.running_instance import HEADERS, Running, running, serving, until
from tests.runtime.stub_app import StubApp


async def scrape(it: Running) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{it.url}/metrics", headers=HEADERS) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return await answer.text()


def values(text: str, family: str) -> dict[str, float]:
    """The samples of a family without other labels, by model."""
    return {
        sample.labels["model"]: sample.value
        for found in text_string_to_metric_families(text)
        if found.name == family
        for sample in found.samples
    }


async def test_a_scrape_has_the_engines_metrics_and_their_tokens_of_now(tmp_path: Path) -> None:
    async with running(tmp_path, a=(), b=()) as it:
        await it.ready("a", "b")
        await it.chat("a")
        await it.chat("a", stream=True)
        text = await scrape(it)
        check_exposition(text)
        assert values(text, "clearml_deploy_engine_scrape_success") == {"a": 1, "b": 1}
        theirs = values(text, "llamacpp:tokens_predicted")
        assert theirs["a"] > 0
        assert theirs["b"] == 0
        assert values(text, "clearml_deploy_generated_tokens") == theirs
        recorder = it.instance.recorder
        named = recorder.snapshot().models["a"]
        assert named.usage_completion_tokens == named.generated_tokens == theirs["a"]


async def test_an_engine_that_hangs_holds_up_no_scrape(tmp_path: Path) -> None:
    async with running(tmp_path, a=(), b=()) as it:
        await it.ready("a", "b")
        os.kill(it.pid("a"), signal.SIGSTOP)
        try:
            text = await scrape(it)
        finally:
            os.kill(it.pid("a"), signal.SIGCONT)
        check_exposition(text)
        assert values(text, "clearml_deploy_engine_scrape_success") == {"a": 0, "b": 1}
        assert set(values(text, "llamacpp:tokens_predicted")) == {"b"}


async def test_scrapes_at_the_same_time_ask_each_engine_once(tmp_path: Path) -> None:
    async with running(tmp_path, a=()) as it:
        await it.ready("a")
        gateway = it.instance.gateway
        view = it.instance.view
        assert gateway is not None
        assert view is not None
        texts = await asyncio.gather(*(view.metrics() for _ in range(5)))
        assert len({body for body, _ in texts}) == 1
        stats = await gateway.engine_text("a", "/stub/stats")
        assert '"metrics_hits": 1' in stats


async def test_a_client_that_leaves_does_not_end_the_scrape_of_another(tmp_path: Path) -> None:
    async with running(tmp_path, a=()) as it:
        await it.ready("a")
        view = it.instance.view
        assert view is not None
        leaving = asyncio.create_task(view.metrics())
        staying = asyncio.create_task(view.metrics())
        await asyncio.sleep(0)
        leaving.cancel()
        body, _ = await staying
        check_exposition(body.decode())


async def test_an_engine_without_metrics_is_not_asked_and_its_tokens_are_those_of_the_requests(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 60)
    app = StubApp({}, installed={"metrics_path": None})
    async with serving(app, tmp_path, {"m": str(path)}) as it:
        await it.ready("m")
        await it.chat("m")
        text = await scrape(it)
        assert values(text, "clearml_deploy_engine_scrape_success") == {}
        assert values(text, "clearml_deploy_generated_tokens")["m"] > 0


async def test_loads_and_stops_are_counted_as_moves(tmp_path: Path) -> None:
    async with running(tmp_path, a=()) as it:
        await it.ready("a")
        recorder: Recorder = it.instance.recorder
        await until(lambda: "load" in recorder.snapshot().models["a"].moves)
        await it.instance.operations.unload("a")
        await it.instance.operations.load("a")
        await it.ready("a")
        moves = recorder.snapshot().models["a"].moves
        assert {kind: histogram.count for kind, histogram in moves.items()} == {
            "load": 2,
            "stop": 1,
        }


async def test_tokens_are_added_up_over_restarts(tmp_path: Path) -> None:
    async with running(tmp_path, a=()) as it:
        await it.ready("a")
        await it.chat("a")
        first = values(await scrape(it), "clearml_deploy_generated_tokens")["a"]
        await it.chat("a")  # in no reading: the engine ends before the next
        await it.instance.operations.unload("a")
        await it.instance.operations.load("a")
        await it.chat("a")
        await it.chat("a")
        await it.chat("a")
        total = values(await scrape(it), "clearml_deploy_generated_tokens")["a"]
        assert total == 5 * first
