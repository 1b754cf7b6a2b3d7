"""The file server: artifacts and model files below one directory, for authenticated callers only.

``POST /`` takes a multipart form in which each part's *name* is the file's path; ``GET`` (with
ranges), ``HEAD`` and ``DELETE`` take the path in the URL.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import quote, unquote

from aiohttp import BodyPartReader, web

from common.local_server import auth
from common.local_server.auth import Authenticator, User
from common.local_server.call import TASK
from common.local_server.dispatch import Dispatcher
from common.local_server.store import Store
from common.local_server.wire import CallError, new_id

_log = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 1 << 20
#: The SDK stores a task's files below ``<project>/<task name>.<task id>/``.
_TASK_PART: Final = re.compile(r"\.([0-9a-f]{32})$")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FileServer:
    """Serves the files below `root`; uploads are gathered in `incoming` and then renamed."""

    def __init__(self, root: Path, incoming: Path, dispatcher: Dispatcher) -> None:
        self._root = root
        self._incoming = incoming
        self._dispatcher = dispatcher

    def application(self) -> web.Application:
        """The aiohttp application."""
        # Files are streamed to disk, so no limit on the size applies.
        app = web.Application(middlewares=[_json_errors])
        app.router.add_route("POST", "/", self._upload)
        for method in ("GET", "HEAD"):
            app.router.add_route(method, "/{path:.*}", self._download)
        app.router.add_route("DELETE", "/{path:.*}", self._delete)
        return app

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        await self._authorize(request, [])
        if not request.content_type.startswith("multipart/"):
            raise CallError(12, "An upload is a multipart form; each part's name is a path")
        stored: list[str] = []
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader):
                raise CallError(12, "An upload holds no nested multipart")
            path = _safe_path(part.name or "")
            await self._authorize(request, [path])
            await self._receive(part, path)
            stored.append("/" + quote(path.as_posix()))
        return web.json_response(stored)

    async def _receive(self, part: BodyPartReader, path: PurePosixPath) -> None:
        temporary = self._incoming / new_id()
        try:
            with temporary.open("wb") as stream:
                while chunk := await part.read_chunk(_CHUNK_BYTES):
                    await asyncio.to_thread(stream.write, chunk)
            target = self._inside(path)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary, target)
            except (NotADirectoryError, FileExistsError, IsADirectoryError) as error:
                raise CallError(12, f"{path} is in the way of a file or a folder") from error
        finally:
            temporary.unlink(missing_ok=True)

    async def _download(self, request: web.Request) -> web.StreamResponse:
        path = _safe_path(_raw_path(request))
        await self._authorize(request, [path])
        target = self._inside(path)
        if not target.is_file():
            raise CallError(0, f"No file {path}", status=404)
        # What was uploaded is never to be run by a browser as a page of this server.
        return web.FileResponse(target, headers={"X-Content-Type-Options": "nosniff"})

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        path = _safe_path(_raw_path(request))
        await self._authorize(request, [path])
        target = self._inside(path)
        if not target.is_file():
            raise CallError(0, f"No file {path}", status=404)
        target.unlink()
        for parent in target.parents:
            if parent == self._root or any(parent.iterdir()):
                break
            parent.rmdir()
        return web.json_response([])

    def _inside(self, path: PurePosixPath) -> Path:
        target = self._root / path
        # A symbolic link below the root could still lead out.
        if not target.resolve().is_relative_to(self._root.resolve()):
            raise CallError(12, f"The path {str(path)!r} leads out of the file server")
        return target

    async def _authorize(self, request: web.Request, paths: list[PurePosixPath]) -> User:
        header = request.headers.get("Authorization")

        def check(store: Store, authenticator: Authenticator) -> User:
            user = authenticator.authenticate(header)
            for path in paths:
                if not _can_use(store, user, path):
                    raise CallError(0, f"No file {path}", status=404)
            return user

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._dispatcher.pool, self._dispatcher.with_store, check)


def _can_use(store: Store, user: User, path: PurePosixPath) -> bool:
    """Whether the user may read the task that a path names; a path that names none is open."""
    for part in path.parts:
        match = _TASK_PART.search(part)
        task = store.get(TASK, match[1]) if match else None
        if task is not None and not auth.can_read(store, user, task.get("project")):
            return False
    return True


def _raw_path(request: web.Request) -> str:
    # The undecoded path: `%2e%2e` must be judged as the `..` that it is.
    return unquote(request.raw_path.partition("?")[0].partition("#")[0].lstrip("/"))


def _safe_path(text: str) -> PurePosixPath:
    """Read a path below the root.

    Raises:
        CallError: It is empty, absolute, climbs, or holds characters that no file name should.
    """
    parts = text.lstrip("/").split("/")
    is_bad = "\\" in text or any(
        part in ("", ".", "..") or any(ord(char) < 32 for char in part) for part in parts
    )
    if is_bad or len(text.encode("utf-8", "replace")) > 4000:
        raise CallError(12, f"The path {text[:200]!r} can not be used")
    return PurePosixPath(*parts)


@web.middleware
async def _json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except CallError as error:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        return web.json_response({"error": str(error)}, status=error.status, headers=headers)
    except OSError as error:
        _log.warning("%s %s failed: %s", request.method, request.path, error)
        return web.json_response({"error": f"{error.strerror or error}"}, status=500)
