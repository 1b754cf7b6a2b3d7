"""The server in one asyncio program: the API and the files, each on its own port."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from aiohttp import web

from common.local_server.call import ServerSettings
from common.local_server.config import Addresses, write_configs
from common.local_server.credentials import Credentials, load_or_create
from common.local_server.data_dir import DataDir, write_private
from common.local_server.dispatch import Dispatcher, RawRequest
from common.local_server.envelope import failure
from common.local_server.files import FileServer
from common.local_server.ports import (
    DEFAULT_API_PORT,
    DEFAULT_FILES_PORT,
    DEFAULT_ROUTER_PORT,
    Listener,
    advertised_host,
    listen,
)
from common.local_server.router import Router
from common.local_server.wire import CallError

#: The SDK sends event batches of up to 15 MB.
MAX_BODY_BYTES: Final = 64 << 20
_SHUTDOWN_S: Final = 2.0

RouterMode = Literal["strip", "keep", "off"]


@dataclass(frozen=True)
class ServerOptions:
    """How a local server is started.

    Attributes:
        host: Address to bind, loopback unless told otherwise.
        api_port: Wanted port; None takes that of the last start, else 8008.
        files_port: Wanted port; None takes that of the last start, else 8081.
        is_advanced: Offer the advanced feature set.
        routes: Static routes of the advanced feature set.
        router: What the router of the advanced feature set does with a route's part of the path, or
            that there is none, so that nobody grants what tasks ask for.
        router_port: Wanted port; None takes that of the last start, else 8010.
        record: File to which every call and answer is appended, for the schema tests.
    """

    host: str = "127.0.0.1"
    api_port: int | None = None
    files_port: int | None = None
    is_advanced: bool = False
    routes: tuple[str, ...] = ()
    router: RouterMode = "strip"
    router_port: int | None = None
    record: Path | None = None


class LocalServer:
    """The local ClearML-compatible server, inside the running event loop."""

    def __init__(self, data_dir: Path, options: ServerOptions | None = None) -> None:
        self._paths = DataDir(data_dir)
        self._options = options or ServerOptions()
        self._runners: list[web.AppRunner] = []
        self._dispatcher: Dispatcher | None = None
        self.skipped_ports: tuple[int, ...] = ()
        self.addresses = Addresses("", "")
        self.router_url = ""

    async def start(self) -> Credentials:
        """Open the state, listen, and write both `clearml.conf` files.

        Raises:
            ControlPlaneError: No port, a bad host, or state of a newer version.
        """
        self._paths.create()
        credentials = load_or_create(self._paths)
        api, files, router = self._listen()
        self._remove_leftovers()
        options = self._options
        host = advertised_host(options.host)
        shown = f"[{host}]" if ":" in host else host
        self.router_url = f"http://{shown}:{router.port}" if router else ""
        settings = ServerSettings(
            company=credentials.company,
            is_advanced=options.is_advanced,
            routes=options.routes,
            router_url=self.router_url,
        )
        self._dispatcher = await asyncio.to_thread(
            Dispatcher, self._paths.database, credentials, settings, options.record
        )
        file_server = FileServer(self._paths.files, self._paths.incoming, self._dispatcher)
        await self._serve(self._api_application(), api)
        await self._serve(file_server.application(), files)
        ports = {"api": api.port, "files": files.port}
        if router is not None:
            to_tasks = Router(self._dispatcher, strips=options.router == "strip")
            # Who leaves a route must not go on using the task.
            await self._serve(to_tasks.application(), router, ends_with_client=True)
            ports["router"] = router.port
        self.addresses = Addresses(f"http://{shown}:{api.port}", f"http://{shown}:{files.port}")
        self.skipped_ports = api.skipped + files.skipped + (router.skipped if router else ())
        write_private(self._paths.ports, json.dumps(ports))
        write_configs(self._paths, self.addresses, credentials)
        return credentials

    async def stop(self) -> None:
        """Stop listening, finish the calls under way, close the state."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()
        if self._dispatcher is not None:
            await asyncio.to_thread(self._dispatcher.close)
            self._dispatcher = None

    def _listen(self) -> tuple[Listener, Listener, Listener | None]:
        options = self._options
        last = {}
        if self._paths.ports.exists():
            last = json.loads(self._paths.ports.read_text(encoding="utf-8"))

        def wanted(name: str, given: int | None, default: int) -> Listener:
            return listen(options.host, int(last.get(name, default)) if given is None else given)

        api = wanted("api", options.api_port, DEFAULT_API_PORT)
        files = wanted("files", options.files_port, DEFAULT_FILES_PORT)
        if not options.is_advanced or options.router == "off":
            return api, files, None
        return api, files, wanted("router", options.router_port, DEFAULT_ROUTER_PORT)

    def _remove_leftovers(self) -> None:
        """Uploads that a kill cut off."""
        for path in self._paths.incoming.iterdir():
            path.unlink()

    def _api_application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/projects/{path:.*}", _no_web_ui)
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    async def _serve(
        self, app: web.Application, listener: Listener, *, ends_with_client: bool = False
    ) -> None:
        runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=_SHUTDOWN_S,
            handler_cancellation=ends_with_client,
        )
        await runner.setup()
        self._runners.append(runner)
        await web.SockSite(runner, listener.socket).start()

    async def _answer(self, request: web.Request) -> web.Response:
        assert self._dispatcher is not None  # no request comes before start or after stop
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            error = CallError(12, f"Validation error (the body is over {MAX_BODY_BYTES} bytes)")
            content = failure(request.path.strip("/"), "", error)
            return web.json_response(content, status=error.status, headers={"Connection": "close"})
        raw = RawRequest(
            path=request.path,
            authorization=request.headers.get("Authorization"),
            body=body,
            query=dict(request.query),
            remote_ip=request.remote or "",
        )
        loop = asyncio.get_running_loop()
        status, answer = await loop.run_in_executor(
            self._dispatcher.pool, self._dispatcher.answer, raw
        )
        return web.Response(status=status, body=answer, content_type="application/json")


async def _no_web_ui(request: web.Request) -> web.Response:
    """Answer the links to a task's page, which the SDK prints and an instance's page shows."""
    found = re.search(r"/(?:tasks|experiments)/(\w+)", request.path)
    task = found[1] if found else "TASK_ID"
    text = (
        "The local ClearML server has no web UI. In a terminal:\n\n"
        f"  clearml-deploy status {task}\n  clearml-deploy logs {task}\n"
    )
    return web.Response(status=404, text=text)
