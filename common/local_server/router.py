"""The application gateway's part: a reverse proxy from a task's granted route to its application.

`/service/<task id>/...` leads to that task, `/<route>/...` in turn to each running task that has the
static route. Whoever may read the task may use it, with a token of this server as the bearer
(`auth.login`); the request passes on as it came, its `Authorization` header included.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from common.local_server.auth import Authenticator, User, can_read
from common.local_server.call import TASK
from common.local_server.dispatch import Dispatcher
from common.local_server.endpoints import SERVICE, asked_endpoints
from common.local_server.store import Store
from common.local_server.wire import CallError, JsonDict

_CONNECT_S: Final = 10.0
# RFC 9110, 7.6.1: they belong to one connection. The body's framing is made anew on each side.
_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"}
    | {"te", "trailer", "transfer-encoding", "upgrade"}
)
_RUNNING: Final = "in_progress"


@dataclass(frozen=True)
class _Way:
    """Where a request goes: the application's address, and the part of the path that led there."""

    address: str
    prefix: str


class Router:
    """Passes requests on to tasks.

    Args:
        dispatcher: Knows the tasks.
        strips: The application sees its paths without the route's part.
    """

    def __init__(self, dispatcher: Dispatcher, *, strips: bool) -> None:
        self._dispatcher = dispatcher
        self._strips = strips
        self._turns = itertools.count()
        self._session: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        """What the port of the router serves."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        app.cleanup_ctx.append(self._with_session)
        return app

    async def _with_session(self, _: web.Application) -> AsyncIterator[None]:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_S),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        yield
        await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None  # the application runs
        path = request.raw_path.partition("?")[0]
        header = request.headers.get("Authorization")
        try:
            way = await asyncio.get_running_loop().run_in_executor(
                self._dispatcher.pool,
                self._dispatcher.with_store,
                lambda store, auth: self._find(store, auth, path, header),
            )
        except CallError as error:
            return web.json_response({"error": str(error)}, status=error.status)
        target = request.raw_path
        if self._strips:
            target = target.removeprefix(way.prefix)
            target = target if target.startswith("/") else f"/{target}"
        try:
            async with self._session.request(
                request.method,
                URL(f"http://{way.address}{target}", encoded=True),
                headers=_headers_to_task(request),
                data=request.content if request.body_exists else None,
                allow_redirects=False,
            ) as answer:
                return await _relay(request, answer)
        except aiohttp.ClientConnectorError as error:
            text = f"the task's application at {way.address} does not answer ({error})"
            return web.json_response({"error": text}, status=502)

    def _find(self, store: Store, auth: Authenticator, path: str, header: str | None) -> _Way:
        user = auth.authenticate(header)
        first, _, rest = path.lstrip("/").partition("/")
        if first == SERVICE:
            name = rest.partition("/")[0]
            task_id, mark, endpoint = unquote(name).partition("__")
            task = store.get(TASK, task_id)
            found = _usable([task] if task else [], user, store, mark + endpoint, "")
            prefix = f"/{SERVICE}/{name}"
        else:
            found = _usable(store.all(TASK), user, store, None, unquote(first))
            prefix = f"/{first}"
        if not found:
            raise CallError(0, f"No running task has the route {prefix}", status=404)
        return _Way(found[next(self._turns) % len(found)], prefix)


def _usable(
    tasks: list[JsonDict], user: User, store: Store, suffix: str | None, route: str
) -> list[str]:
    """Addresses of running tasks that this user may read and that have asked for this."""
    return [
        asked.address
        for task in tasks
        if task["status"] == _RUNNING and can_read(store, user, task.get("project"))
        for asked in asked_endpoints(task.get("runtime") or {})
        if asked.route == route and suffix in (None, asked.suffix)
    ]


def _passing(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers that do not belong to one connection."""
    named = {part.strip().lower() for part in headers.get("Connection", "").split(",")}
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in _HOP_BY_HOP and name.lower() not in named
    )


def _headers_to_task(request: web.Request) -> CIMultiDict[str]:
    headers = _passing(request.headers)
    headers["X-Forwarded-For"] = request.remote or ""
    headers["X-Forwarded-Proto"] = request.scheme
    headers["X-Forwarded-Host"] = request.host
    return headers


async def _relay(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    response.headers.extend(_passing(answer.headers))
    await response.prepare(request)
    if request.method != "HEAD":
        async for piece in answer.content.iter_any():
            await response.write(piece)
    await response.write_eof()
    return response
