"""The part of llama-server that keeps slots: on a real socket, with real files.

Slots hold a number of tokens; their files hold it again, four bytes of state for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web


@dataclass
class SlotsServer:
    """A server whose answers can be told.

    Attributes:
        folder: Its ``--slot-save-path``.
        tokens: What each slot holds.
        busy: Slots that process something.
        is_old: It does not tell the number of tokens.
        refuse: Status and text by action (``list``, ``save``, ``restore``).
        hang: Actions that are never answered.
        cut: Bytes that a full disk leaves of each file.
        asked: Every action, with its slot.
    """

    folder: Path
    tokens: dict[int, int]
    busy: set[int] = field(default_factory=set)
    is_old: bool = False
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    hang: set[str] = field(default_factory=set)
    cut: int | None = None
    asked: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)

    async def list_slots(self, request: web.Request) -> web.Response:
        if refused := await self._note("list", request):
            return refused
        return web.json_response([self._told(slot) for slot in self.tokens])

    async def act(self, request: web.Request) -> web.Response:
        action, slot = request.query["action"], int(request.match_info["slot"])
        if refused := await self._note(action, request):
            return refused
        path = self.folder / (await request.json())["filename"]
        if action == "save":
            data = self.tokens[slot].to_bytes(4, "little") * (self.tokens[slot] + 1)
            path.write_bytes(data[: self.cut])
            told: dict[str, Any] = {"n_saved": self.tokens[slot], "n_written": len(data)}
        else:
            if not path.exists():
                return web.json_response({"error": {"message": "no such file"}}, status=400)
            self.tokens[slot] = int.from_bytes(path.read_bytes()[:4], "little")
            told = {"n_restored": self.tokens[slot], "n_read": path.stat().st_size}
        return web.json_response({"id_slot": slot, **told})

    async def _note(self, action: str, request: web.Request) -> web.Response | None:
        self.asked.append(f"{action} {request.match_info.get('slot', '')}".strip())
        self.headers.append(request.headers.get("Authorization", ""))
        if action in self.hang:
            await asyncio.sleep(3600)
        if action not in self.refuse:
            return None
        status, text = self.refuse[action]
        return web.Response(status=status, text=text)

    def _told(self, slot: int) -> dict[str, Any]:
        base = {"id": slot, "n_ctx": 4096, "is_processing": slot in self.busy}
        if self.is_old:
            return {**base, "params": {}}
        return {**base, "n_prompt_tokens": self.tokens[slot]} if self.tokens[slot] else base


@asynccontextmanager
async def serving(server: SlotsServer, socket: Path) -> AsyncIterator[SlotsServer]:
    """Serve it on a Unix socket."""
    app = web.Application()
    app.add_routes(
        [web.get("/slots", server.list_slots), web.post("/slots/{slot}", server.act)],
    )
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(socket)).start()
        yield server
    finally:
        await runner.cleanup()
