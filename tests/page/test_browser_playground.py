"""The page's playground in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.page.page_harness import CHAT, VECTORS, PageInstance, browsing, log_in, serving
from tests.runtime.running_instance import until

pytestmark = pytest.mark.browser


async def test_an_answer_comes_as_it_is_generated(tmp_path: Path) -> None:
    flags = {CHAT: ("--tokens", "40", "--token-delay", "0.05")}
    async with serving(tmp_path, flags) as run, browsing() as (page, watched):
        await log_in(page, run.url)
        await page.get_by_label("Longest answer").fill("40")
        await page.get_by_role("button", name="Send").click()
        answer = page.locator("#answer")
        await answer.get_by_text("tok3").wait_for()
        assert "tok39" not in await answer.inner_text()
        assert await answer.get_attribute("aria-busy") == "true"
        await page.locator("#answer[aria-busy=false]").wait_for()
        assert await answer.inner_text() == "".join(f"tok{i} " for i in range(40))
        usage = await page.locator("#usage").inner_text()
        found = re.search(
            r"2 tokens in, 40 out · first after [\d.]+ s · ([\d.]+) tokens/s · ([\d.]+) s in all",
            usage,
        )
        assert found, usage
        # 40 tokens, at least 50 ms apart.
        assert 0 < float(found[1]) <= 20.5
        assert watched.complaints == []


async def test_stopping_ends_the_generation(tmp_path: Path) -> None:
    flags = {CHAT: ("--token-delay", "0.02")}
    async with serving(tmp_path, flags) as run, browsing() as (page, watched):
        await log_in(page, run.url)
        await page.get_by_label("Longest answer").fill("100000")
        await page.get_by_role("button", name="Send").click()
        await page.locator("#answer").get_by_text("tok5").wait_for()
        await page.get_by_role("button", name="Stop").click()
        await page.get_by_text(re.compile(r"Stopped after [\d.]+ s\.")).wait_for()
        totals = run.instance.recorder.snapshot
        await until(lambda: totals().models[CHAT].results == {("client_closed", 499): 1})
        assert totals().models[CHAT].in_flight == 0
        assert await page.get_by_role("button", name="Send").is_enabled()
        assert watched.complaints == []


async def test_a_refusal_is_shown_in_its_own_words(tmp_path: Path) -> None:
    limit = {"Model/max_total_tokens": "4", "Model/model_endpoint_name": CHAT}
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + b"\0" * 60)
    limit |= {"Model/model": str(file), "Models/models": ""}
    async with (
        serving(tmp_path, {CHAT: ()}, parameters=limit) as run,
        browsing() as (page, _),
    ):
        await log_in(page, run.url)
        await page.get_by_role("button", name="Send").click()
        failure = page.locator("#answer .failure")
        await failure.wait_for()
        assert "400" in await failure.inner_text()
        assert "tokens" in await failure.inner_text()
        assert await page.get_by_role("button", name="Send").is_enabled()


async def test_an_engine_that_dies_in_the_middle_is_told(tmp_path: Path) -> None:
    flags = {CHAT: ("--token-delay", "0.02", "--die-mid-stream")}
    async with serving(tmp_path, flags) as run, browsing() as (page, _):
        await log_in(page, run.url)
        await page.get_by_label("Longest answer").fill("20")
        await page.get_by_role("button", name="Send").click()
        await page.get_by_text("The answer broke off.").wait_for()
        assert "tok9" in await page.locator("#answer").inner_text()
        assert await page.locator("#answer .failure").inner_text()


async def test_an_embedding_model_shows_its_vector(tmp_path: Path) -> None:
    async with serving(tmp_path, {VECTORS: ()}) as run, browsing() as (page, watched):
        await log_in(page, run.url)
        await page.get_by_role("button", name="Send").click()
        await page.get_by_text("A vector of 2 numbers").wait_for()
        assert "[0.5000, 0.000]" in await page.locator("#answer").inner_text()
        assert watched.complaints == []


async def test_what_a_model_says_is_text_and_no_markup(run: PageInstance) -> None:
    async with browsing() as (page, watched):
        await log_in(page, run.url)
        await page.route(
            "**/chat/completions",
            lambda route: route.fulfill(
                content_type="text/event-stream",
                body=': waiting\n\ndata: {"choices":[{"delta":{"reasoning_content":"hm "}}]}\n\n'
                'data: {"choices":[{"delta":{"content":"<img src=x onerror=alert(1)>"}}]}\n\n'
                "data: [DONE]\n\n",
            ),
        )
        await page.get_by_role("button", name="Send").click()
        await page.get_by_text("<img src=x onerror=alert(1)>", exact=True).wait_for()
        assert await page.locator("#answer img").count() == 0
        assert await page.locator("#answer .thought").inner_text() == "hm "
        assert "about 2 tokens out" in await page.locator("#usage").inner_text()
        assert watched.complaints == []
