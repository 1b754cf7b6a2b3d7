"""The page of a real instance: its own process, a real engine, a real model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from common.demo.model import packaged_model
from tests.e2e.instances import KEY, Instance, running_instance
from tests.page.page_harness import browsing, log_in

pytestmark = pytest.mark.browser

SMALL = {"context_size": 1024, "parallel": 2}


@pytest.fixture(scope="module")
def real() -> Iterator[Instance]:
    file = str(packaged_model())
    listed = [
        {"model": file, "model_endpoint_name": "SmolLM2-135M", **SMALL},
        {"model": file, "model_endpoint_name": "vectors", "embedding": True, **SMALL},
    ]
    with running_instance({"Models/models": json.dumps(listed)}) as instance:
        yield instance


async def test_a_person_logs_in_asks_and_watches(real: Instance) -> None:
    async with browsing() as (page, watched):
        await log_in(page, real.url, KEY)
        assert "llama.cpp Model Deployment" in await page.locator("#subtitle").inner_text()
        await page.get_by_label("Prompt").fill("What is gravity?")
        await page.get_by_label("Longest answer").fill("48")
        await page.get_by_role("button", name="Send").click()
        usage = page.locator("#usage")
        await usage.get_by_text("in all").wait_for(timeout=60_000)
        told = re.search(r"(\d+) tokens in, (\d+) out", await usage.inner_text())
        assert told
        assert "ravity" in await page.locator("#answer").inner_text()

        await page.get_by_label("Select model").select_option("vectors")
        await page.get_by_role("button", name="Send").click()
        await page.get_by_text(re.compile(r"A vector of \d{3} numbers")).wait_for()

        # The engine's own counters, read by the instance, agree with the answer's usage.
        tokens = page.locator("#model-table tbody tr").first.locator("td[data-label^=Tokens]")
        await tokens.get_by_text(f"{told[1]} / {told[2]}").wait_for(timeout=30_000)
        charts = page.locator(".chart").filter(has_text="Tokens per second")
        await charts.locator("path.series").first.wait_for(state="attached", timeout=30_000)
        console = page.locator("#console")
        await console.get_by_text(re.compile("SmolLM2-135M: ready")).wait_for()
        assert KEY not in await console.inner_text()
        assert watched.complaints == []
        assert watched.hosts == {real.url.split("/")[2]}
