"""What the page shows of models that share memory, and how they are put aside by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from common.gateway.auth import ApiKeyAuthenticator
from common.gateway.keys import Role, make_entry
from common.memory.contract import Tier
from tests.page.moving_gateway import (
    BIG,
    GIB,
    RESTING,
    SMALL,
    MovingView,
    moving,
    three_models,
    without_sleep,
)
from tests.page.page_harness import CHAT, PageInstance, browsing, log_in
from tests.runtime.running_instance import until

pytestmark = pytest.mark.browser


@asynccontextmanager
async def looking(**options: Any) -> AsyncIterator[tuple[Any, MovingView]]:
    """The page of three models, logged in; nothing may be complained about nor asked elsewhere."""
    async with moving() as (url, view), browsing(**options) as (page, watched):
        await log_in(page, url)
        await page.get_by_role("heading", name="Memory", exact=True).wait_for()
        yield page, view
        assert watched.complaints == []
        assert watched.hosts == {url.split("/")[2]}


def row(page: Any, model: str) -> Any:
    return page.locator("#model-table tbody tr").filter(has_text=model)


async def offered(page: Any, model: str) -> list[str]:
    """The operations of a model that can be chosen now."""
    buttons = row(page, model).locator("td.operations button")
    return [await one.inner_text() for one in await buttons.all() if await one.is_visible()]


async def confirm(page: Any, button: str, answer: str) -> None:
    await page.get_by_role("button", name=button, exact=True).click()
    await page.get_by_role("dialog").get_by_role("button", name=answer, exact=True).click()


async def test_each_model_shows_its_tier_and_what_it_takes() -> None:
    async with looking() as (page, view):
        for model, icon, words, pools in (
            (BIG, "gpu", "loaded", "GPU 0 16.0 GiB"),
            (SMALL, "cpu", "asleep in RAM", "RAM 6.00 GiB"),
            (RESTING, "disk", "on disk", "–"),
        ):
            tier = row(page, model).locator(".tier")
            assert await tier.inner_text() == words
            assert await tier.locator("use").get_attribute("href") == f"#icon-tier-{icon}"
            box = await tier.locator("svg").bounding_box()
            assert box["width"] > 10
            assert await row(page, model).locator("td[data-label=Memory]").inner_text() == pools
        view.upstreams[SMALL].place("cpu", "gpu", waiting=3, reason=f'in the place of "{BIG}"')
        line = row(page, SMALL)
        await line.get_by_text("waking").wait_for()
        assert await line.locator(".tier").inner_text() == "asleep in RAM → loaded"
        assert "3 to be loaded" in await line.inner_text()
        assert await line.locator("td[data-label=Memory]").inner_text() == (
            "GPU 0 6.00 GiB\nRAM 6.00 GiB"
        )


async def test_pinned_models_and_priorities_are_told() -> None:
    async with looking() as (page, view):
        view.upstreams[BIG].place("gpu", priority=5, is_pinned=True)
        await row(page, BIG).get_by_text("loaded · pinned · priority 5").wait_for()


async def test_pools_are_bars_of_what_is_held_against_capacity() -> None:
    async with looking(viewport={"width": 1280, "height": 900}) as (page, view):
        pool = page.locator(".pool").filter(has_text="GPU 0")
        assert "16.0 GiB of 24.0 GiB" in await pool.inner_text()
        bar = pool.locator("svg.bar")
        assert await bar.get_attribute("aria-label") == (
            f"GPU 0: 16.0 GiB of 24.0 GiB in use: {BIG} 16.0 GiB"
        )
        # Two thirds of the bar, in the colour of the model's curves below.
        whole, part = await bar.bounding_box(), await bar.locator("rect").bounding_box()
        assert part["width"] / whole["width"] == pytest.approx(2 / 3, abs=0.02)
        ink = "node => getComputedStyle(node).color"
        legend = pool.locator(".legend li").first
        assert await bar.locator("rect").evaluate(ink) == await legend.evaluate(ink)
        ram, held = page.locator(".pool").nth(1), page.locator(".pool").nth(2)
        assert "RAM\n6.00 GiB of 64.0 GiB" in await ram.inner_text()
        assert "RAM for models put aside\n6.00 GiB of 32.0 GiB" in await held.inner_text()

        # Another process took memory: what is held is more than there is now.
        assert view.capacity is not None
        view.capacity["gpu0"] = 12 * GIB
        await pool.get_by_text("16.0 GiB of 12.0 GiB").wait_for()
        assert await pool.locator(".failure").count() == 1
        part = await bar.locator("rect").bounding_box()
        assert part["width"] <= whole["width"]


async def test_what_moves_and_why_and_the_last_moves_are_listed() -> None:
    async with looking() as (page, view):
        assert await page.locator("#moving").is_hidden()
        assert await page.locator("#moves").is_hidden()
        view.upstreams[BIG].place("gpu", "cpu", reason='"small" needs its place')
        view.upstreams[SMALL].place("cpu", waiting=2, reason=f'waits for "{BIG}" <b>')
        view.moved(RESTING, Tier.DISK, Tier.GPU, 12.25, "asked for by a request")
        view.moved(RESTING, Tier.GPU, Tier.DISK, 0.5, "")
        lines = page.locator("#moving li")
        await lines.nth(1).wait_for()
        assert await lines.all_inner_texts() == [
            f'{BIG} is moving, loaded → asleep in RAM: "small" needs its place',
            f'{SMALL} 2 requests wait for it: waits for "{BIG}" <b>',
        ]
        moves = page.locator("#moves-body tr")
        await moves.nth(1).wait_for()
        cells = [await one.locator("td").all_inner_texts() for one in await moves.all()]
        assert [one[1:] for one in cells] == [
            [RESTING, "loaded → on disk", "0.50 s", "–"],
            [RESTING, "on disk → loaded", "12.3 s", "asked for by a request"],
        ]
        view.upstreams[BIG].place("cpu")
        view.upstreams[SMALL].place("gpu")
        await page.locator("#moving").wait_for(state="hidden")


async def test_a_model_is_put_to_sleep_woken_and_unloaded() -> None:
    async with looking() as (page, view):
        assert await offered(page, BIG) == ["Sleep", "Unload"]
        assert await offered(page, SMALL) == ["Wake", "Unload"]
        assert await offered(page, RESTING) == ["Load"]
        view.may_go_on.clear()
        await page.get_by_role("button", name=f"Sleep {BIG}").click()
        dialog = page.get_by_role("dialog")
        assert "Requests in flight are answered first" in await dialog.inner_text()
        await dialog.get_by_role("button", name="Sleep").click()
        await row(page, BIG).get_by_text("going to sleep").wait_for()
        assert await offered(page, BIG) == []
        view.may_go_on.set()
        await page.get_by_text(f"{BIG} is asleep.").wait_for()
        await row(page, BIG).get_by_text("asleep in RAM").wait_for()
        await confirm(page, f"Wake {SMALL}", "Wake")
        await page.get_by_text(f"{SMALL} is loaded.").wait_for()
        await page.get_by_role("button", name=f"Unload {SMALL}", exact=True).wait_for()
        await confirm(page, f"Unload {SMALL}", "Unload")
        await page.get_by_text(f"{SMALL} is unloaded.").wait_for()
        assert view.asked == [("sleep", BIG), ("load", SMALL), ("unload", SMALL)]


async def test_a_model_that_gives_way_is_told_from_one_that_sleeps() -> None:
    async with looking() as (page, view):
        view.upstreams[BIG].place("gpu")
        view.upstreams[BIG].status = "sleeping"  # takes no new requests; its last ones still run
        await row(page, BIG).get_by_text("giving way").wait_for()
        assert await row(page, BIG).locator(".tier").inner_text() == "loaded"
        assert await offered(page, BIG) == []
        text = await page.locator("#moving").inner_text()
        assert text == f"{BIG} gives way when its requests are answered"


async def test_sleep_is_not_offered_where_models_can_only_be_stopped(run: PageInstance) -> None:
    models = three_models()
    for model in models:
        without_sleep(model)
    async with moving(models) as (url, _), browsing() as (page, _):
        await log_in(page, url)
        await row(page, BIG).get_by_role("button").first.wait_for()
        assert await offered(page, BIG) == ["Unload"]
    # Nor where models stay where they are.
    async with browsing() as (page, watched):
        await log_in(page, run.url)
        await row(page, CHAT).get_by_role("button", name="Unload").wait_for()
        assert await offered(page, CHAT) == ["Unload"]
        assert await page.locator("#memory").is_hidden()
        assert await row(page, CHAT).locator(".tier").is_hidden()
        assert watched.complaints == []


async def test_who_may_not_operate_sees_no_buttons_and_others_only_as_a_sum() -> None:
    entry, user = make_entry("alice", Role.USE, models=[SMALL])
    models = three_models()
    models[1].place("gpu")
    async with (
        moving(models, ApiKeyAuthenticator("operator-key-0123456789", None, (entry,))) as (url, _),
        browsing() as (page, watched),
    ):
        await log_in(page, url, user)
        bar = page.locator(".pool").first.locator("svg.bar")
        await bar.wait_for()
        assert await bar.get_attribute("aria-label") == (
            f"GPU 0: 22.0 GiB of 24.0 GiB in use: {SMALL} 6.00 GiB, other models 16.0 GiB"
        )
        assert await offered(page, SMALL) == []
        assert BIG not in await page.content()
        assert watched.complaints == []


async def test_the_keyboard_keeps_its_place_while_a_model_moves() -> None:
    async with looking() as (page, view):
        button = page.get_by_role("button", name=f"Sleep {BIG}")
        await button.focus()
        view.may_go_on.clear()
        await page.keyboard.press("Enter")
        await page.get_by_role("dialog").wait_for()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await until(lambda: view.asked == [("sleep", BIG)])
        await row(page, BIG).get_by_text("going to sleep").wait_for()
        view.may_go_on.set()
        await page.locator(f"button[aria-label='Wake {BIG}']:focus").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_what_is_written_can_be_read_in_light_and_dark(scheme: str) -> None:
    """WCAG's contrast of at least 4.5 for the texts, and 3 for the bars' parts."""
    async with looking(color_scheme=scheme) as (page, view):
        view.upstreams[SMALL].place("cpu", "gpu", waiting=1, reason="for itself")
        await page.locator("#moving li").first.wait_for()
        for selector, least in (
            (".tier", 4.5),
            (".pool .caption span", 4.5),
            ("#moving li", 4.5),
            (".share", 3.0),
        ):
            for ratio in await page.locator(selector).evaluate_all(_CONTRAST):
                assert ratio >= least, (selector, ratio)


_CONTRAST = """nodes => nodes.map((node) => {
  const part = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => part(text).slice(0, 3).map((one) => one / 255)
    .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, index) => sum + one * [0.2126, 0.7152, 0.0722][index], 0);
  let ground = node;
  const behind = (one) => part(getComputedStyle(one).backgroundColor);
  while (behind(ground)[3] === 0) ground = ground.parentElement;
  const [a, b] = [getComputedStyle(node).color, getComputedStyle(ground).backgroundColor].map(light);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
})"""


@pytest.mark.parametrize("width", [360, 768, 1280])
async def test_it_fits_small_and_large_screens(width: int) -> None:
    async with looking(viewport={"width": width, "height": 800}) as (page, view):
        reason = "for " + "a-name-without-any-space-" * 6
        view.upstreams[BIG].place("gpu", "cpu", waiting=2, reason=reason)
        view.moved(BIG, Tier.DISK, Tier.GPU, 12.25, reason)
        await page.locator("#moves-body tr").first.wait_for()
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
