"""Which models are loaded at the start, and in which order."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.errors import CapacityError
from common.runtime import preloading
from common.runtime.preloading import Preloading


class Start:
    """Models of an instance that are taken one after the other; each takes 1 of 2."""

    def __init__(self, names: str) -> None:
        self.models = [SimpleNamespace(name=n, error=None, supervisor=None) for n in names]
        self.loaded: list[str] = []
        self.preloading = Preloading(cast(Any, self.models), lambda: {"gpu0": 2}, self._load)

    async def _load(self, name: str) -> None:
        self.loaded.append(name)
        raise CapacityError("others took it")  # which is no concern of the others

    def take(self, name: str, is_asked: bool | None = None) -> None:
        self.preloading.take(name, {"gpu0": 1}, is_asked)

    async def end(self) -> list[str]:
        """Wait until all have chosen."""
        await self.preloading.wait()
        return self.loaded


async def test_the_first_that_fit_are_loaded_in_the_order_of_the_configuration() -> None:
    start = Start("abc")
    for name in "cba":
        start.take(name)
    assert await start.end() == ["a", "b"]


async def test_one_that_was_asked_for_is_loaded_though_it_does_not_fit() -> None:
    start = Start("abcd")
    start.take("a", is_asked=False)
    start.take("b")
    start.take("c")
    start.take("d", is_asked=True)
    assert await start.end() == ["b", "c", "d"]


async def test_a_model_that_failed_is_not_waited_for() -> None:
    start = Start("ab")
    start.models[0].error = CapacityError("no files")
    start.take("b")
    assert await start.end() == ["b"]


async def test_a_long_download_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preloading, "_ORDER_WAIT_S", 0.1)
    start = Start("ab")
    start.take("b")
    assert await start.end() == ["b"]


async def test_a_model_whose_files_are_there_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preloading, "_ORDER_WAIT_S", 0.0)
    start = Start("ab")
    start.models[0].supervisor = SimpleNamespace()
    start.take("b")
    await asyncio.sleep(0.2)
    assert start.loaded == []
    start.take("a")
    assert await start.end() == ["a", "b"]


async def test_nothing_is_loaded_after_the_end() -> None:
    start = Start("ab")
    start.take("b")
    await asyncio.sleep(0)
    start.preloading.cancel()
    await start.preloading.wait()
    assert start.loaded == []
