"""What the page shows, and how it is used, in a real browser."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.page.page_harness import (
    CHAT,
    OTHER,
    TASK,
    VECTORS,
    PageInstance,
    browsing,
    log_in,
    serving,
)
from tests.runtime.running_instance import until

pytestmark = pytest.mark.browser


def row(page: Any, model: str) -> Any:
    return page.locator("#model-table tbody tr").filter(has_text=model)


def arguments(command: str) -> list[str]:
    """What bash makes of a curl command."""
    script = "curl() { printf '%s\\0' \"$@\"; }\nAPI_KEY='k 1'\n" + command
    out = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    return out.decode().split("\0")[:-1]


async def test_status_and_facts_are_shown_and_follow(run: PageInstance) -> None:
    async with browsing() as (page, watched):
        await log_in(page, run.url)
        state = page.locator("#state")
        await page.get_by_text("Idle for 0.0 hours").wait_for()
        assert (await state.inner_text()).lower() == "idle"
        text = await page.locator("#status").inner_text()
        assert "Automatically stopped after 4 hours" in text
        assert TASK in text
        assert f"{run.url}/v1" in text
        assert "as set in the instance's configuration" in text
        await run.chat(OTHER)
        await page.locator("#status[data-status=active]").wait_for()
        assert await page.locator("#badge").get_attribute("href") == "#badge-active"
        assert watched.complaints == []


async def test_a_generated_key_is_named_by_the_command_that_prints_it(tmp_path: Path) -> None:
    parameters = {"General/api_key": ""}
    async with (
        serving(tmp_path, {CHAT: ()}, parameters=parameters) as run,
        browsing() as (page, _),
    ):
        assert run.instance.access is not None
        key = run.instance.access.key
        assert key is not None
        await log_in(page, run.url, key)
        command = f"clearml-deploy key {TASK}"
        await page.locator("#facts").get_by_text(command).wait_for()
        assert f"export API_KEY=$({command})" in await page.locator("#key-hint").inner_text()
        assert key not in await page.content()


async def test_models_are_counted_as_they_are_used(run: PageInstance) -> None:
    async with browsing() as (page, _):
        await log_in(page, run.url)
        for _ in range(3):
            assert await run.chat(OTHER, tokens=5) == 200
        line = row(page, OTHER)
        await line.locator("td[data-label=Requests]").get_by_text("3", exact=True).wait_for()
        await line.locator("td[data-label^=Tokens]").get_by_text("9 / 15").wait_for()
        assert await line.locator("td[data-label=Status]").inner_text() == "ready"
        assert f"{run.url}/{OTHER}/v1" in await line.inner_text()
        await line.get_by_text("MiB").wait_for()
        running = asyncio.create_task(run.chat(CHAT, stream=True, tokens=300))
        await row(page, CHAT).locator("td[data-label='In flight']").get_by_text("1").wait_for()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_names_endpoints_and_commands_are_copied(run: PageInstance) -> None:
    async with browsing(permissions=["clipboard-read", "clipboard-write"]) as (page, _):
        await log_in(page, run.url)
        for label, expected in (
            (f"Copy the name {CHAT}", CHAT),
            (f"Copy the endpoint of {CHAT}", f"{run.url}/{CHAT}/v1"),
            ("Copy: Session", TASK),
        ):
            await page.get_by_role("button", name=label).click()
            await page.get_by_text("Copied.").wait_for()
            assert await page.evaluate("navigator.clipboard.readText()") == expected


async def test_the_example_follows_model_and_prompt_and_survives_a_shell(
    tmp_path: Path,
) -> None:
    prompt = 'it\'s "quoted", $HOME `id` \\ !\nnext <b>line</b> ä 文'
    flags: dict[str, tuple[str, ...]] = {CHAT: (), VECTORS: ()}
    async with serving(tmp_path, flags) as run, browsing() as (page, watched):
        await log_in(page, run.url)
        await page.get_by_label("Prompt").fill(prompt)
        url, *rest = arguments(await page.locator("#example").inner_text())
        assert url == f"{run.url}/{CHAT}/v1/chat/completions"
        assert "Authorization: Bearer k 1" in rest
        assert json.loads(rest[-1]) == {
            "model": CHAT,
            "messages": [{"role": "user", "content": prompt}],
        }
        await page.get_by_label("Select model").select_option(VECTORS)
        url, *rest = arguments(await page.locator("#example").inner_text())
        assert url == f"{run.url}/{VECTORS}/v1/embeddings"
        assert json.loads(rest[-1]) == {"model": VECTORS, "input": prompt}
        assert watched.complaints == []


async def test_charts_get_points_of_every_model(run: PageInstance) -> None:
    async with browsing() as (page, watched):
        await log_in(page, run.url)
        await run.chat(CHAT, stream=True)
        charts = page.locator(".chart")
        assert await charts.count() == 4
        memory = charts.filter(has_text="Memory (GiB)")
        # Two points make a line: two ticks, five seconds apart.
        await memory.locator("path.series").nth(1).wait_for(state="attached", timeout=30_000)
        assert await memory.locator(".legend .name").all_inner_texts() == [CHAT, OTHER]
        label = await memory.locator("svg").get_attribute("aria-label")
        assert re.search(rf"Memory \(GiB\) at \d\d:\d\d:\d\d: {re.escape(CHAT)} 0\.\d", label)
        requests = charts.filter(has_text="Requests per minute")
        await requests.locator("svg").focus()
        await page.keyboard.press("Home")
        await requests.locator(".cursor").wait_for(state="attached")
        assert watched.complaints == []


async def test_an_hour_is_drawn_with_its_gaps_and_older_points_go(run: PageInstance) -> None:
    """The route of the data is answered with a long history; a point every five seconds."""
    until_s = 1_800_000_000.0
    times = [until_s - 5 * (899 - i) for i in range(900)]
    latency = [None if i % 100 == 50 else 20.0 + i % 7 for i in range(900)]
    series = {"requests": [2] * 900, "latency_p50_ms": latency, "memory_bytes": [2**30] * 900}
    charts = {"every_s": 5.0, "times": times, "models": {CHAT: series, OTHER: series}}

    async def with_history(route: Any) -> None:
        answer = await route.fetch()
        state = await answer.json()
        await route.fulfill(response=answer, json=state | {"charts": charts})
        charts["times"], charts["models"] = [], {}

    async with browsing(viewport={"width": 1280, "height": 900}) as (page, watched):
        await page.route("**/?data=state*", with_history)
        await log_in(page, run.url)
        latencies = page.locator(".chart").filter(has_text="Latency (ms)")
        line = latencies.locator("path.series").first
        await line.wait_for(state="attached")
        drawn = await line.get_attribute("d")
        # 721 points of the hour, seven of them gaps; each begins a part of the line.
        assert drawn.count("M") == 8
        assert drawn.count("M") + drawn.count("L") == 721 - 7
        requests = page.locator(".chart").filter(has_text="Requests per minute")
        assert await requests.locator(".legend .value").first.inner_text() == "24"
        memory = page.locator(".chart").filter(has_text="Memory (GiB)")
        assert await memory.locator(".legend .value").first.inner_text() == "1"
        assert watched.complaints == []


async def test_console_lines_come_and_are_followed(run: PageInstance) -> None:
    async with browsing() as (page, _):
        await log_in(page, run.url)
        console = page.locator("#console")
        await console.get_by_text(f"{CHAT}: ready").wait_for()
        for number in range(60):
            run.console.line(f"event {number} <b>not bold</b>")
        await console.get_by_text("event 59 <b>not bold</b>", exact=True).wait_for()
        assert await console.locator("div", has_text="event 59").count() == 1
        at_end = "box => box.scrollHeight - box.scrollTop - box.clientHeight < 30"
        assert await console.evaluate(at_end)
        await console.evaluate("box => { box.scrollTop = 0 }")
        await page.wait_for_function("!document.getElementById('follow').checked")
        run.console.line("one more")
        await console.get_by_text("one more").wait_for()
        assert await console.evaluate("box => box.scrollTop") == 0
        await page.get_by_label("Follow").check()
        assert await console.evaluate(at_end)


async def test_dark_and_light_follow_the_system_and_the_button(run: PageInstance) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    async with browsing(color_scheme="dark") as (page, watched):
        await log_in(page, run.url)
        await page.get_by_role("heading", name="Models").wait_for()
        dark = await page.evaluate(ground)
        await page.emulate_media(color_scheme="light")
        light = await page.evaluate(ground)
        assert dark != light
        await page.get_by_role("button", name="Switch between light and dark").click()
        assert await page.evaluate(ground) == dark
        await page.reload()
        assert await page.evaluate(ground) == dark
        assert watched.complaints == []


async def test_nothing_is_asked_of_another_host_and_the_policy_holds(run: PageInstance) -> None:
    async with browsing() as (page, watched):
        await page.goto(run.url)
        await page.evaluate("localStorage.setItem('seen', '1')")
        await log_in(page, run.url)
        await page.get_by_role("button", name="Send").click()
        await page.get_by_text("tok11").wait_for()
        assert watched.hosts == {run.url.split("/")[2]}
        assert watched.complaints == []
        refused = await page.evaluate(
            """() => { try { document.body.innerHTML = "<p>x"; return "written" }
            catch (error) { return error.name } }"""
        )
        assert refused == "TypeError"


@pytest.mark.parametrize("width", [360, 768, 1280])
async def test_it_fits_small_and_large_screens(run: PageInstance, width: int) -> None:
    async with browsing(viewport={"width": width, "height": 800}) as (page, _):
        await log_in(page, run.url)
        await page.get_by_role("cell", name=CHAT).first.wait_for()
        assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_it_can_be_used_with_the_keyboard_alone(run: PageInstance) -> None:
    async with browsing() as (page, watched):
        await page.goto(run.url)
        await page.keyboard.type("key-of-the-tests-0123456789")  # the field has the focus
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Models").wait_for()
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Skip to the models"
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "models"
        await tab_to(page, "model")
        await page.keyboard.press("ArrowDown")
        await tab_to(page, "prompt")
        await page.keyboard.press("Control+a")
        await page.keyboard.type("by keyboard")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert await page.evaluate(outline) == "solid"
        await page.keyboard.press("Control+Enter")
        await page.get_by_text("tok4").wait_for()
        await until(lambda: run.instance.recorder.snapshot().models[OTHER].requests == 1)
        assert watched.complaints == []


async def tab_to(page: Any, element: str) -> None:
    for _ in range(40):
        if await page.evaluate("document.activeElement.id") == element:
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"{element} is not reached with the Tab key")


async def test_an_admin_unloads_and_loads_a_model_after_being_asked(run: PageInstance) -> None:
    async with browsing() as (page, watched):
        await log_in(page, run.url)
        button = page.get_by_role("button", name=f"Unload {OTHER}")
        await button.click()
        await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        assert run.instance.models[1].status == "ready"
        await button.click()
        await page.get_by_role("dialog").get_by_role("button", name="Unload").click()
        await page.get_by_text(f"{OTHER} is unloaded.").wait_for()
        assert run.instance.models[1].status == "offloaded"
        await page.get_by_role("button", name=f"Load {OTHER}", exact=True).click()
        await page.get_by_role("dialog").get_by_role("button", name="Load").click()
        await page.get_by_text(f"{OTHER} is loaded.").wait_for()
        assert run.instance.models[1].status == "ready"
        assert watched.complaints == []


async def test_a_failed_model_says_why(tmp_path: Path) -> None:
    flags = {CHAT: (), "broken": ("--print", "bad option --x", "--exit-code", "2")}
    async with serving(tmp_path, flags, ready=[CHAT]) as run, browsing() as (page, _):
        await until(lambda: run.instance.models[1].status == "failed")
        await log_in(page, run.url)
        line = row(page, "broken")
        await line.locator("td[data-label=Status]").get_by_text("failed").wait_for()
        assert "bad option --x" in await line.locator(".failure").inner_text()


async def test_an_instance_that_is_gone_is_told_and_asked_again(run: PageInstance) -> None:
    async with browsing() as (page, _):
        await log_in(page, run.url)
        await page.get_by_role("cell", name=CHAT).first.wait_for()
        await page.context.set_offline(True)
        alert = page.get_by_role("alert").filter(has_text="does not answer")
        await alert.wait_for()
        assert (await page.locator("#state").inner_text()).lower() == "no answer"
        await page.context.set_offline(False)
        await alert.wait_for(state="hidden")
        await page.locator("#status[data-status=idle]").wait_for()


async def test_a_page_that_nobody_looks_at_asks_nothing(run: PageInstance) -> None:
    hide = """state => { Object.defineProperty(document, "visibilityState", {value: state, configurable: true});
        document.dispatchEvent(new Event("visibilitychange")) }"""
    async with browsing() as (page, _):
        await log_in(page, run.url)
        await page.get_by_role("cell", name=CHAT).first.wait_for()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.evaluate(hide, "hidden")
        await asyncio.sleep(0.5)
        asked.clear()
        await asyncio.sleep(3)
        assert asked == []
        await page.evaluate(hide, "visible")
        await until(lambda: asked)
