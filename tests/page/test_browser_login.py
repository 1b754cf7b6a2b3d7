"""Logging in and out in a real browser, behind prefixes and from other origins."""

from __future__ import annotations

from typing import Any

import pytest

from tests.page.page_harness import (
    CHAT,
    KEY,
    PageInstance,
    browsing,
    log_in,
    stripping_proxy,
)

pytestmark = pytest.mark.browser


async def shows_models(page: Any) -> None:
    await page.get_by_role("cell", name=CHAT).first.wait_for()


async def test_a_wrong_key_is_told_plainly(run: PageInstance) -> None:
    async with browsing() as (page, _):
        await log_in(page, run.url, "not-the-key")
        alert = page.get_by_role("alert")
        assert "not valid for this instance" in await alert.inner_text()
        assert CHAT not in await page.content()
        assert not await page.context.cookies()


async def test_the_right_key_opens_the_page_and_stays_out_of_reach_of_scripts(
    run: PageInstance,
) -> None:
    async with browsing() as (page, watched):
        await log_in(page, run.url)
        await shows_models(page)
        (cookie,) = await page.context.cookies()
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert KEY not in str(cookie)
        assert KEY not in await page.content()
        assert await page.evaluate("document.cookie") == ""
        await page.reload()
        await shows_models(page)
        assert watched.complaints == []


async def test_logging_out_ends_the_session(run: PageInstance) -> None:
    async with browsing() as (page, _):
        await log_in(page, run.url)
        cookies = await page.context.cookies()
        await page.get_by_role("button", name="Log out").click()
        await page.get_by_label("API key").wait_for()
        assert not await page.context.cookies()
        await page.context.add_cookies(cookies)
        await page.reload()
        await page.get_by_label("API key").wait_for()


async def test_a_session_that_ended_shows_the_form_again(run: PageInstance) -> None:
    async with browsing() as (page, _):
        await log_in(page, run.url)
        await shows_models(page)
        await page.context.clear_cookies()
        await page.get_by_label("API key").wait_for()


@pytest.mark.parametrize("slash", ["/", ""])
async def test_it_works_below_the_service_prefix(run: PageInstance, slash: str) -> None:
    prefixed = f"{run.url}/service/0123456789abcdef"
    async with browsing() as (page, watched):
        await log_in(page, prefixed + slash)
        await shows_models(page)
        assert f"{prefixed}/{CHAT}/v1" in await page.locator("#model-table").inner_text()
        await page.get_by_role("button", name="Send").click()
        await page.get_by_text("tok11").wait_for()
        (cookie,) = await page.context.cookies()
        assert cookie["path"] == "/service/0123456789abcdef"
        assert watched.complaints == []


@pytest.mark.parametrize("slash", [True, False])
async def test_it_works_behind_a_gateway_that_strips_a_prefix(
    run: PageInstance, slash: bool
) -> None:
    async with stripping_proxy(run.url, "/service/abc") as address, browsing() as (page, watched):
        await log_in(page, address if slash else address.rstrip("/"))
        await shows_models(page)
        assert f"{address}{CHAT}/v1" in await page.locator("#model-table").inner_text()
        await page.get_by_role("button", name="Send").click()
        await page.get_by_text("tok11").wait_for()
        await page.get_by_role("button", name="Log out").click()
        await page.get_by_label("API key").wait_for()
        assert page.url.split("?")[0] == address
        assert watched.complaints == []


async def test_it_works_by_a_name_without_tls(run: PageInstance) -> None:
    """Not a secure context: no clipboard API, no Sec-Fetch headers, the Origin header alone."""
    url = run.url.replace("127.0.0.1", "worker-7.test")
    async with browsing(names=("worker-7.test",)) as (page, watched):
        await log_in(page, url)
        await shows_models(page)
        assert not await page.evaluate("window.isSecureContext")
        await page.get_by_role("button", name="Send").click()
        await page.get_by_text("tok11").wait_for()
        await page.get_by_role("button", name="Copy the command").click()
        await page.get_by_text("Copied.").wait_for()
        await page.get_by_label("Prompt").fill("")
        await page.get_by_label("Prompt").press("Control+v")
        assert (await page.get_by_label("Prompt").input_value()).startswith("curl ")
        assert watched.complaints == []


async def test_another_port_of_the_same_host_cannot_use_the_session(run: PageInstance) -> None:
    """The same site to the browser, which therefore sends the cookie."""
    script = """url => fetch(url, {method: "POST", mode: "no-cors", credentials: "include", body: "{}"})
        .then(() => "sent")"""
    async with stripping_proxy(run.url, "/elsewhere") as other, browsing() as (page, _):
        await log_in(page, run.url)
        await shows_models(page)
        answers: list[tuple[str, int]] = []
        page.on("response", lambda answer: answers.append((answer.url, answer.status)))
        await page.goto(f"{other}health")
        for path in (f"/admin/models/{CHAT}/unload", "/v1/chat/completions"):
            assert await page.evaluate(script, run.url + path) == "sent"
            assert (run.url + path, 403) in answers
        assert run.instance.models[0].status == "ready"
        assert (await page.context.cookies())[0]["value"]
