"""vLLM's sleep mode: an engine's device memory is freed while its process stays, over its own routes.

Level 1 moves the weights to host RAM, level 2 drops them; both drop the KV cache. The order of the
calls, of level 2 above all, is that of https://docs.vllm.ai/en/latest/features/sleep_mode/:

* aside: the prefix cache is emptied, which also tells whether a request still runs;
  ``POST /sleep?level=``; ``GET /is_sleeping``.
* back from level 1: ``POST /wake_up``.
* back from level 2: memory for the weights, then the weights themselves (without that the engine
  answers with garbage), then memory for the KV cache, which names no block of before.

An engine that did not wake, for want of memory for instance, is of no more use: it has to be stopped.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import aiohttp

from common.engines.contract import EngineAddress
from common.engines.engine_session import engine_session
from common.memory.offload import OffloadError, RunningEngine

_ASKED_S = 10.0
"""For what an engine answers at once."""
_SHOWN_CHARS = 300


@dataclass(frozen=True)
class SleepLimits:
    """How long the steps may take, in seconds.

    A first sleep at level 1 took 0.5 s per GiB of weights where the host's memory was slow, a wake a
    tenth of it; weights that are read again come at the speed of the disk.
    """

    sleep_s: float = 300.0
    wake_s: float = 180.0
    reload_s: float = 900.0
    settle_s: float = 5.0
    """For the last request's blocks to be given back after it was answered."""


@dataclass(frozen=True)
class SleepMode:
    """Implements `Offload` for an engine that was started with ``--enable-sleep-mode``.

    Attributes:
        level: 1 keeps the weights in host RAM, 2 drops them.
        waits: Whether its ``/sleep`` has a ``mode``: requests that run after all are then waited for
            instead of being cut off.
        limits: How long the steps may take.
    """

    level: Literal[1, 2]
    waits: bool = True
    limits: SleepLimits = SleepLimits()

    @property
    def label(self) -> str:
        """Such as ``sleep level 1``."""
        return f"sleep level {self.level}"

    async def put_aside(self, engine: RunningEngine) -> None:
        """Have the engine sleep, and ask whether it does.

        Raises:
            OffloadError: It has requests, or no sleep mode (it is untouched then); or it failed.
        """
        async with _Routes(engine.address) as routes:
            # The first call is the one that fails where there are no such routes.
            await self._empty_prefix_cache(routes, is_untouched=True)
            query = {"level": str(self.level), **({"mode": "wait"} if self.waits else {})}
            await routes.post("/sleep", self.limits.sleep_s, query)
            if not await _is_sleeping(routes):
                raise OffloadError("the engine was told to sleep and does not sleep")

    async def bring_back(self, engine: RunningEngine) -> None:
        """Wake the engine, and ask whether it is awake.

        Raises:
            OffloadError: It failed, for want of memory for instance.
        """
        async with _Routes(engine.address) as routes:
            if self.level == 1:
                await routes.post("/wake_up", self.limits.wake_s)
            else:
                await routes.post("/wake_up", self.limits.wake_s, {"tags": "weights"})
                method = {"method": "reload_weights"}
                await routes.post("/collective_rpc", self.limits.reload_s, body=method)
                await routes.post("/wake_up", self.limits.wake_s, {"tags": "kv_cache"})
                await self._empty_prefix_cache(routes, is_untouched=False)
            if await _is_sleeping(routes):
                raise OffloadError("the engine was woken and still sleeps")

    async def _empty_prefix_cache(self, routes: _Routes, *, is_untouched: bool) -> None:
        """Forget cached prefixes; refused while a request, or one just gone, holds any block."""
        deadline = asyncio.get_running_loop().time() + self.limits.settle_s
        while True:
            said = await routes.post("/reset_prefix_cache", _ASKED_S, is_untouched=is_untouched)
            # Older versions do not tell.
            if not isinstance(said, dict) or said.get("success") is not False:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise OffloadError("the engine still has requests", is_untouched=is_untouched)
            await asyncio.sleep(0.05)


async def _is_sleeping(routes: _Routes) -> bool:
    said = await routes.get("/is_sleeping", _ASKED_S)
    answer = said.get("is_sleeping") if isinstance(said, dict) else None
    if not isinstance(answer, bool):
        raise OffloadError(f"the engine does not tell whether it sleeps: {_shown(str(said))}")
    return answer


class _Routes:
    """The development routes of one engine; a context manager that holds the HTTP session."""

    def __init__(self, address: EngineAddress) -> None:
        self._base = address.base_url
        self._session = engine_session(address)

    async def __aenter__(self) -> _Routes:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, path: str, timeout_s: float) -> Any:
        return await self._ask("GET", path, timeout_s)

    async def post(
        self,
        path: str,
        timeout_s: float,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        *,
        is_untouched: bool = False,
    ) -> Any:
        """What it answered: parsed where it is JSON, else its text.

        Raises:
            OffloadError: It did not answer in time, or not with a success; `is_untouched` where that
                changes nothing in the engine.
        """
        return await self._ask("POST", path, timeout_s, query, body, is_untouched)

    async def _ask(
        self,
        method: str,
        path: str,
        timeout_s: float,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        is_untouched: bool = False,
    ) -> Any:
        try:
            async with self._session.request(
                method,
                self._base + path,
                params=query,
                json=body,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:
                text = await response.text()
                status = response.status
        except (asyncio.TimeoutError, TimeoutError) as error:
            message = f"the engine did not answer {path} within {timeout_s:g} s"
            raise OffloadError(message, is_untouched=is_untouched) from error
        except (aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise OffloadError(f"the engine broke off at {path}: {reason}") from error
        if status >= 400:
            message = f"the engine answered {path} with {status}: {_shown(text)}"
            raise OffloadError(message, is_untouched=is_untouched)
        try:
            return json.loads(text)
        except ValueError:
            return text


def _shown(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _SHOWN_CHARS else f"{words[: _SHOWN_CHARS - 3]}..."
