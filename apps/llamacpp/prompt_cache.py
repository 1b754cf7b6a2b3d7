"""Keeps the prompts that a llama-server has processed over a stop and a start of its process.

A slot is a place for one request at a time, and keeps the tokens of its last one with their KV cache:
a prompt that goes on from them is not processed anew. ``GET /slots`` lists them, and
``POST /slots/<id>?action=save|restore`` writes one to a file in the folder of ``--slot-save-path``, or
reads it back (https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md). Writing costs
the size of the KV cache, reading it costs a fraction of what processing the prompt would.

The files are read once: a state that has the engine crash must not do so again at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from common.engines.contract import EngineAddress
from common.engines.engine_session import engine_session
from common.memory.offload import RunningEngine
from common.models.progress import render_gib

LEAST_TOKENS = 256
"""A shorter prompt is processed in less time than a file takes."""

_RESERVE_BYTES = 1 << 30
"""What the disk keeps free for others."""
_SHOWN_CHARS = 200
# A file's header, and its tokens at four bytes each, beside the cache itself.
_EXTRA_SHARE = 1.1


class _SlotError(Exception):
    """One slot was not saved or not restored; says why."""


@dataclass(frozen=True)
class _Saved:
    """A slot in a file."""

    slot: int
    path: Path
    tokens: int
    size: int


@dataclass(frozen=True)
class _Identity:
    """The model's files as they were: a state of other weights is worth nothing."""

    files: tuple[tuple[str, int, int], ...]

    @classmethod
    def read(cls, files: Iterable[Path]) -> _Identity:
        found = ((str(path), path.stat()) for path in files)
        return cls(tuple((name, told.st_size, told.st_mtime_ns) for name, told in found))


class PromptCache:
    """Implements `CacheHooks` for one model's llama-server.

    Args:
        folder: Where the engine was told to write (``--slot-save-path``); of this model alone.
        files: The model's files.
        bytes_per_token: Works out what a token takes of the KV cache; called in a thread, may raise
            what reading the files raises.
        report: Told what was not saved or restored.
        limit_s: How long all slots together may take, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[Path],
        bytes_per_token: Callable[[], float],
        report: Callable[[str], None],
        *,
        limit_s: float = 60.0,
    ) -> None:
        self._folder = folder
        self._files = tuple(files)
        self._estimate = bytes_per_token
        self._bytes_per_token: float | None = None
        self._report = report
        self._limit_s = limit_s
        self._saved: list[_Saved] = []
        self._identity: _Identity | None = None

    async def save(self, engine: RunningEngine) -> None:
        """Write every slot that has enough tokens; never fails."""
        await asyncio.to_thread(self.discard)
        try:
            self._identity = await asyncio.to_thread(_Identity.read, self._files)
            async with _Slots(engine.address, self._limit_s) as slots:
                for slot, tokens in await slots.worth_saving():
                    await self._save_slot(slots, slot, tokens)
        except (_SlotError, OSError) as error:
            self._report(f"The prompt cache is not saved: {error}.")

    async def restore(self, engine: RunningEngine) -> None:
        """Have the new process read what was saved, and remove the files; never fails."""
        saved, self._saved = self._saved, []
        if not saved:
            return
        try:
            if await asyncio.to_thread(_Identity.read, self._files) != self._identity:
                raise _SlotError("the model's files have changed")
            async with _Slots(engine.address, self._limit_s) as slots:
                for item in saved:
                    await self._restore_slot(slots, item)
        except (_SlotError, OSError) as error:
            self._report(f"The prompt cache is not restored: {error}.")
        finally:
            await asyncio.to_thread(self.discard)

    def discard(self) -> None:
        """Remove all files. Blocks for as long as the disk takes to free them."""
        self._saved = []
        with contextlib.suppress(OSError):
            for path in self._folder.glob("slot-*.bin"):
                path.unlink(missing_ok=True)

    async def _save_slot(self, slots: _Slots, slot: int, tokens: int) -> None:
        path = self._folder / f"slot-{slot}.bin"
        is_kept = False
        try:
            await self._check_room(tokens)
            written = await slots.save(slot, path.name)
            # What did not fit the disk is noticed by the engine only in part.
            there = path.stat().st_size if path.exists() else 0
            if written.size != there:
                raise _SlotError(f"{there:,} of {written.size:,} bytes were written")
            if written.tokens >= LEAST_TOKENS:
                self._saved.append(_Saved(slot, path, written.tokens, written.size))
                self._bytes_per_token = written.size / written.tokens
                is_kept = True
        except (_SlotError, OSError) as error:
            self._report(f"The prompt cache of {tokens:,} tokens is not saved: {error}.")
        finally:
            if not is_kept:
                # Also when this is cancelled; the engine may still be writing what has no name then.
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    async def _restore_slot(self, slots: _Slots, item: _Saved) -> None:
        try:
            # llama-server does not survive a file that ends too early.
            if not item.path.is_file() or item.path.stat().st_size != item.size:
                raise _SlotError(f"{item.path} has changed")
            restored = await slots.restore(item.slot, item.path.name)
            if restored != item.tokens:
                raise _SlotError(f"the engine took {restored:,} tokens of it")
        except (_SlotError, OSError) as error:
            self._report(f"The prompt cache of {item.tokens:,} tokens is not restored: {error}.")

    async def _check_room(self, tokens: int) -> None:
        if self._bytes_per_token is None:
            self._bytes_per_token = await asyncio.to_thread(self._estimated)
        needed = int(tokens * self._bytes_per_token * _EXTRA_SHARE)
        free = (await asyncio.to_thread(shutil.disk_usage, self._folder)).free
        if free - needed < _RESERVE_BYTES:
            raise _SlotError(
                f"it takes {render_gib(needed)}, of {self._folder} {render_gib(free)} are free, and "
                f"{render_gib(_RESERVE_BYTES)} stay free"
            )

    def _estimated(self) -> float:
        try:
            return self._estimate()
        except Exception:  # noqa: BLE001 - files that are odd in whatever way: the first save tells
            return 0.0


@dataclass(frozen=True)
class _Written:
    """What the engine says of a file: its tokens, and its size in bytes."""

    tokens: int
    size: int


class _Slots:
    """The slots of one engine; a context manager that holds the HTTP session."""

    def __init__(self, address: EngineAddress, limit_s: float) -> None:
        self._base = address.base_url
        self._deadline = time.monotonic() + limit_s
        self._session = engine_session(address)

    async def __aenter__(self) -> _Slots:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def worth_saving(self) -> list[tuple[int, int]]:
        """The slots that rest and have enough tokens, with their number, most tokens first.

        Versions that do not tell the number leave it to the file, which does.
        """
        told = await self._ask("GET", "/slots")
        if not isinstance(told, list):
            raise _SlotError("the engine does not list its slots")
        found = [
            (int(slot["id"]), int(slot.get("n_prompt_tokens", _untold(slot))))
            for slot in told
            if isinstance(slot, dict) and "id" in slot and not slot.get("is_processing")
        ]
        worth = [(slot, tokens) for slot, tokens in found if tokens >= LEAST_TOKENS]
        return sorted(worth, key=lambda item: -item[1])

    async def save(self, slot: int, filename: str) -> _Written:
        """Have a slot written to a file."""
        told = await self._act(slot, "save", filename)
        return _Written(_number(told, "n_saved"), _number(told, "n_written"))

    async def restore(self, slot: int, filename: str) -> int:
        """Have a slot read from a file; returns its tokens."""
        return _number(await self._act(slot, "restore", filename), "n_restored")

    async def _act(self, slot: int, action: str, filename: str) -> Any:
        return await self._ask("POST", f"/slots/{slot}?action={action}", {"filename": filename})

    async def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> Any:
        left_s = self._deadline - time.monotonic()
        try:
            if left_s <= 0:
                raise asyncio.TimeoutError
            async with self._session.request(
                method,
                self._base + path,
                json=body,
                timeout=aiohttp.ClientTimeout(total=left_s),
            ) as response:
                text = await response.text()
                if response.status != 200:
                    shown = " ".join(text.split())[:_SHOWN_CHARS]
                    raise _SlotError(f"the engine answered with {response.status}: {shown}")
                return await response.json(content_type=None)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise _SlotError("it takes too long") from error
        except (aiohttp.ClientError, ValueError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise _SlotError(f"the engine does not answer: {reason}") from error


def folder_argument(folder: Path) -> str:
    """The folder as ``--slot-save-path`` takes it: some versions join names to it without a slash."""
    return f"{folder}{os.sep}"


def _untold(slot: dict[str, Any]) -> int:
    # Versions that tell no number tell the parameters instead, also of slots that were never used.
    return LEAST_TOKENS if "params" in slot else 0


def _number(told: Any, name: str) -> int:
    found = told.get(name) if isinstance(told, dict) else None
    if not isinstance(found, int):
        raise _SlotError(f"the engine does not tell {name}")
    return found
