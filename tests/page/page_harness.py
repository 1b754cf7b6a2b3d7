"""A real instance over stub engines, and a real browser that looks at its page."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from common.runtime.checking import check_parameters
from common.runtime.console import Console
from common.runtime.instance import Instance
from common.runtime.stopping import StopRequest
from tests.runtime.running_instance import until
from tests.runtime.stub_app import StubApp

KEY = "key-of-the-tests-0123456789"
TASK = "0123456789abcdef0123456789abcdef"
CHAT = "org/repo/Chat-8B.gguf"
OTHER = "other"
VECTORS = "vectors"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NO_BROWSER = (
    "The page's tests click through it in Chromium and found none of "
    f"{', '.join(BROWSERS)}: run `make test-browser`, or install Debian's package `chromium`."
)
NO_DRIVER = "The page's tests need the Python package `playwright`: run `make test-browser`."


@dataclass
class PageInstance:
    """A running instance."""

    instance: Instance
    console: Console

    @property
    def url(self) -> str:
        assert self.instance.gateway is not None
        return self.instance.gateway.base_url

    async def chat(self, name: str, *, stream: bool = False, tokens: int = 5) -> int:
        """Ask a model; returns the status."""
        body = {
            "model": name,
            "messages": [{"role": "user", "content": "a b c"}],
            "stream": stream,
            "max_tokens": tokens,
        }
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
            session.post(f"{self.url}/v1/chat/completions", json=body) as answer,
        ):
            await answer.read()
            return answer.status


@asynccontextmanager
async def serving(
    folder: Path,
    flags: Mapping[str, tuple[str, ...]],
    *,
    parameters: Mapping[str, str] | None = None,
    name: str = "support-chat",
    ready: Sequence[str] | None = None,
) -> AsyncIterator[PageInstance]:
    """Run an instance with a model for each entry of `flags`, and measure for its charts."""
    models = []
    for number, model in enumerate(flags):
        file = folder / f"m{number}.gguf"
        file.write_bytes(b"GGUF" + b"\0" * 60)
        models.append({"model": str(file), "model_endpoint_name": model})
        if model == VECTORS:
            models[-1]["embedding"] = "true"
    values = {
        "Models/models": json.dumps(models),
        "General/host": "127.0.0.1",
        "General/api_key": KEY,
        "General/drain_seconds": "2",
        "Idle/idle_time_limit_hours": "4",
    }
    app = StubApp(flags, title="llama.cpp Model Deployment")
    console = Console(io.StringIO())
    instance = Instance(
        app,
        check_parameters(app, values | dict(parameters or {}), {**os.environ, "HOME": str(folder)}),
        console,
        StopRequest(asyncio.get_running_loop()),
        name=name,
        task_id=TASK,
        environ={**os.environ, "HOME": str(folder)},
    )
    try:
        await instance.start()
        expected = flags if ready is None else ready
        await until(lambda: all(m.status == "ready" for m in instance.models if m.name in expected))
        ticking = asyncio.create_task(_tick(instance))
        yield PageInstance(instance, console)
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
    finally:
        await instance.close()


async def _tick(instance: Instance) -> None:
    """What the loop of a run does."""
    assert instance.view is not None
    while True:
        await instance.view.tick()
        await asyncio.sleep(0.2)


@dataclass
class Watched:
    """What a browser's page did: where it asked, what it complained about."""

    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)


@asynccontextmanager
async def browsing(
    *, names: Sequence[str] = (), **options: Any
) -> AsyncIterator[tuple[Any, Watched]]:
    """Open a page of a headless Chromium; fails in clear words where there is none.

    `names` are hosts that lead to this machine; `options` are the browser context's.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail(NO_BROWSER, pytrace=False)
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        pytest.fail(NO_DRIVER, pytrace=False)
    async with async_playwright() as driver:
        # As root Chromium runs without its sandbox only; it sees nothing but our own pages here.
        rules = ",".join(f"MAP {name} 127.0.0.1" for name in names)
        browser = await driver.chromium.launch(
            executable_path=found, args=["--no-sandbox", f"--host-resolver-rules={rules}"]
        )
        context = await browser.new_context(**({"locale": "en-GB"} | options))
        context.set_default_timeout(15_000)
        page = await context.new_page()
        watched = Watched()
        page.on("request", lambda request: watched.hosts.add(request.url.split("/")[2]))
        page.on("console", lambda message: _note(watched, message.type, message.text))
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        try:
            yield page, watched
        finally:
            await browser.close()


def _note(watched: Watched, kind: str, text: str) -> None:
    if kind in ("error", "warning"):
        watched.complaints.append(f"{kind}: {text}")


async def log_in(page: Any, url: str, key: str = KEY) -> None:
    """Open the page and log in with the form."""
    await page.goto(url)
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Log in").click()


@asynccontextmanager
async def stripping_proxy(target: str, prefix: str) -> AsyncIterator[str]:
    """A gateway in front that takes a prefix off and tells nobody; yields the page's address there."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def forward(request: web.BaseRequest) -> web.StreamResponse:
            path = request.raw_path
            if not path.startswith(prefix):
                return web.Response(status=404, text="not behind this gateway")
            headers = {k: v for k, v in request.headers.items() if k.lower() != "host"}
            async with session.request(
                request.method,
                target + path.removeprefix(prefix),
                headers=headers,
                data=await request.read(),
                allow_redirects=False,
            ) as answer:
                out = web.StreamResponse(status=answer.status)
                for key, value in answer.headers.items():
                    if key.lower() not in ("transfer-encoding", "connection", "content-length"):
                        out.headers.add(key, value)
                await out.prepare(request)
                with contextlib.suppress(ConnectionError):
                    async for piece in answer.content.iter_any():
                        await out.write(piece)
                return out

        server = web.Server(forward, access_log=None)
        runner = web.ServerRunner(server)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            yield f"http://127.0.0.1:{port}{prefix}/"
        finally:
            await runner.cleanup()
