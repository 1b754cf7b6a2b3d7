"""Makes the pictures of the page for the documentation, of a real instance under load.

python -m tests.page.screenshots docs/images [--seconds 150]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import aiohttp

from common.demo.model import packaged_model
from tests.e2e.instances import KEY, running_instance
from tests.page.page_harness import browsing, log_in

MODELS = ("smollm2/135M-chat.gguf", "smollm2/135M-brief.gguf", "smollm2/135M-vectors.gguf")
PROMPTS = ("What is gravity?", "Name three rivers.", "Why is the sky blue?", "Write a haiku.")
WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 390, "height": 844}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=150.0, help="of load before the pictures")
    return parser.parse_args()


async def ask(session: aiohttp.ClientSession, url: str, dice: random.Random) -> None:
    """Send one request to one of the models."""
    model = dice.choices(MODELS, (6, 3, 2))[0]
    prompt = dice.choice(PROMPTS)
    path, body = "embeddings", {"model": model, "input": prompt}
    if model != MODELS[2]:
        path = "chat/completions"
        messages = [{"role": "user", "content": prompt}]
        limit = 16 if model == MODELS[1] else dice.randint(20, 80)
        body = {"model": model, "messages": messages, "stream": True, "max_tokens": limit}
    async with session.post(f"{url}/v1/{path}", json=body) as answer:
        await answer.read()


async def load(url: str, seconds: float) -> None:
    """Send requests at a changing rate for some time."""
    dice = random.Random(1)
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
        while loop.time() < ends:
            await asyncio.gather(*(ask(session, url, dice) for _ in range(dice.randint(1, 3))))
            await asyncio.sleep(dice.choice((0.2, 0.5, 1.5, 4.0)))


async def picture(page: Any, file: Path, *, full: bool = True) -> None:
    """Take a picture of the page as it is."""
    await page.evaluate("document.activeElement.blur()")
    await page.screenshot(path=file, full_page=full)


async def photograph(url: str, folder: Path, seconds: float) -> None:
    """Take all pictures of a running instance."""
    async with browsing(viewport=WIDE) as (page, _):
        await page.goto(url)
        await page.get_by_label("API key").wait_for()
        await page.set_viewport_size({"width": 640, "height": 420})
        await picture(page, folder / "page-login.png", full=False)
        await page.set_viewport_size(WIDE)
        await log_in(page, url, KEY)
        await load(url, seconds)
        await page.get_by_label("Prompt").fill("What is gravity?")
        await page.get_by_label("Longest answer").fill("80")
        await page.get_by_role("button", name="Send").click()
        await page.locator("#usage").get_by_text("in all").wait_for(timeout=60_000)
        await asyncio.sleep(6)  # the answer in the table and in the charts
        await picture(page, folder / "page-light.png")
        await page.emulate_media(color_scheme="dark")
        await picture(page, folder / "page-dark.png")
        await page.set_viewport_size(NARROW)
        await asyncio.sleep(0.5)
        await picture(page, folder / "page-phone.png", full=False)


def main() -> None:
    """Run an instance, load it, and keep the pictures."""
    args = parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # A short path: the instance's console shows it.
        file = Path(folder) / "SmolLM2-135M.gguf"
        shutil.copyfile(packaged_model(), file)
        listed = [
            {
                "model": str(file),
                "model_endpoint_name": name,
                "context_size": 1024,
                "parallel": 2,
                "embedding": name == MODELS[2],
            }
            for name in MODELS
        ]
        parameters = {
            "Models/models": json.dumps(listed),
            "Idle/idle_time_limit_hours": "4",
        }
        with running_instance(parameters) as instance:
            asyncio.run(photograph(instance.url, args.folder, args.seconds))


if __name__ == "__main__":
    main()
