"""The part of vLLM that sleeps, as a process of its own: its development routes and one for requests.

    python tests/fakes/sleeping_vllm.py --socket /path/engine.sock

Behaves as vLLM 0.32.0 does: memory comes back by tags, level 2 leaves the weights undefined until they
are reloaded, cached prefixes name blocks that a sleep has dropped, and requests hang while it sleeps.
``POST /v1/completions`` answers with the text ``right``, ``garbage`` (weights) or ``stale`` (prefixes);
``?hold=1`` keeps a request running until ``POST /fake/release``. ``GET /fake/calls`` lists what came,
and ``POST /fake/script`` with a path and a status has that path fail; status 0 has it never answer.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Any

from aiohttp import web

WEIGHTS, KV_CACHE = "weights", "kv_cache"


class SleepingVllm:
    """The engine's state, and its routes."""

    def __init__(self, *, tells_reset: bool) -> None:
        self.calls: list[str] = []
        self.script: dict[str, int] = {}
        self.asleep: set[str] = set()
        self.has_weights = True
        self.is_cached = False
        self.is_stale = False
        self.running = 0
        self.released = asyncio.Event()
        self.awake = asyncio.Event()
        self.awake.set()
        self.tells_reset = tells_reset

    @web.middleware
    async def note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        path = request.path
        if path.startswith("/fake/"):
            return await handler(request)
        self.calls.append(f"{request.method} {request.path_qs}")
        status = self.script.get(path)
        if status == 0:
            await asyncio.sleep(3600)
        if status:
            return web.Response(status=status, text=f"{path} failed as told:\n  out of memory")
        return await handler(request)

    async def sleep(self, request: web.Request) -> web.Response:
        if request.query.get("mode") == "wait":
            while self.running:  # noqa: ASYNC110 - a fake has no better to do
                await asyncio.sleep(0.01)
        self.asleep = {WEIGHTS, KV_CACHE}
        self.awake.clear()
        self.is_stale = self.is_cached
        if request.query["level"] == "2":
            self.has_weights = False
        return web.json_response({"status": "sleeping"})

    async def wake_up(self, request: web.Request) -> web.Response:
        self.asleep -= set(request.query.getall("tags", [WEIGHTS, KV_CACHE]))
        if not self.asleep:
            self.awake.set()
        return web.json_response({"status": "awake" if not self.asleep else "sleeping"})

    async def is_sleeping(self, request: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": bool(self.asleep)})

    async def collective_rpc(self, request: web.Request) -> web.Response:
        method = (await request.json())["method"]
        self.calls[-1] += f" {method}"
        if WEIGHTS in self.asleep:
            return web.Response(status=500, text="illegal memory access")
        self.has_weights = self.has_weights or method == "reload_weights"
        return web.json_response({"results": [None]})

    async def reset_prefix_cache(self, request: web.Request) -> web.Response:
        done = not self.running
        if done:
            self.is_cached = self.is_stale = False
        return web.json_response({"success": done}) if self.tells_reset else web.Response()

    async def complete(self, request: web.Request) -> web.Response:
        self.running += 1
        try:
            await self.awake.wait()
            if request.query.get("hold"):
                await self.released.wait()
        finally:
            self.running -= 1
        self.is_cached = True
        text = "stale" if self.is_stale else "right" if self.has_weights else "garbage"
        return web.json_response({"choices": [{"text": text}]})

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def told(self, request: web.Request) -> web.Response:
        return web.json_response({"calls": self.calls, "running": self.running})

    async def tell(self, request: web.Request) -> web.Response:
        self.script.update(await request.json())
        return web.Response()

    async def release(self, request: web.Request) -> web.Response:
        self.released.set()
        return web.Response()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.note])
        app.add_routes(
            [
                web.post("/v1/completions", self.complete),
                web.get("/health", self.health),
                web.get("/fake/calls", self.told),
                web.post("/fake/script", self.tell),
                web.post("/fake/release", self.release),
            ]
        )
        if os.environ.get("VLLM_SERVER_DEV_MODE") == "1":
            app.add_routes(
                [
                    web.post("/sleep", self.sleep),
                    web.post("/wake_up", self.wake_up),
                    web.get("/is_sleeping", self.is_sleeping),
                    web.post("/collective_rpc", self.collective_rpc),
                    web.post("/reset_prefix_cache", self.reset_prefix_cache),
                ]
            )
        return app


async def serve(arguments: argparse.Namespace) -> None:
    engine = SleepingVllm(tells_reset=not arguments.old)
    runner = web.AppRunner(engine.app(), handler_cancellation=True)
    await runner.setup()
    if arguments.socket:
        await web.UnixSite(runner, arguments.socket).start()
    else:
        await web.TCPSite(runner, "127.0.0.1", arguments.port).start()
    print("ready", flush=True)  # noqa: T201 - the test reads it
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket")
    parser.add_argument("--port", type=int)
    parser.add_argument("--old", action="store_true", help="/reset_prefix_cache answers nothing")
    asyncio.run(serve(parser.parse_args()))
