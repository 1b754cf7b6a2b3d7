"""Saved prompts with real engines: a long one is not processed anew after a stop and a start."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.llamacpp.engines.installed import EngineKind
from apps.llamacpp.prompt_cache import PromptCache
from common.engines.contract import EngineAddress
from common.memory.offload import RunningEngine as Engine
from tests.llamacpp.running_engine import RunningEngine, real_model, running

pytestmark = pytest.mark.engine

# Some 300 tokens: above what is worth it, and processed in a moment on two shared cores.
PROMPT = "The quick brown fox jumps over the lazy dog near the river. " * 24


class Place:
    """The folders of one model, and its cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache_folder = folder / "cache"
        self.cache_folder.mkdir()
        self.lines: list[str] = []

    def cache(self, per_token: Callable[[], float] = lambda: 24e3) -> PromptCache:
        return PromptCache(self.cache_folder, [real_model()], per_token, self.lines.append)

    def started(self, kind: EngineKind, **parameters: Any) -> Any:
        # A killed engine leaves its socket, which the next one could not bind.
        (self.folder / "e.sock").unlink(missing_ok=True)
        return running(
            kind,
            self.folder,
            cache_folder=self.cache_folder,
            **{
                "General/enable_disk_swapping": "true",
                "save_prompt_cache": "true",
                "context_size": "1024",
                **parameters,
            },
        )


def as_engine(engine: RunningEngine) -> Engine:
    return Engine(engine.process.pid, EngineAddress(socket_path=engine.socket))


async def ask(engine: RunningEngine, prompt: str) -> dict[str, Any]:
    """How a prompt was processed."""
    body = {"prompt": prompt, "n_predict": 2, "temperature": 0}
    async with engine.session.post("http://engine/completion", json=body) as answer:
        told = await answer.json()
    return dict(told["timings"])


@pytest.mark.parametrize("kind", ["llama-server", "xllamacpp"])
async def test_a_long_prompt_is_not_processed_anew(kind: EngineKind, tmp_path: Path) -> None:
    place = Place(tmp_path)
    cache = place.cache()
    async with place.started(kind) as starting:
        engine = await starting.ready()
        first = await ask(engine, PROMPT)
        assert first["prompt_n"] > 256
        await cache.save(as_engine(engine))
        await engine.stop()
    assert [path.suffix for path in place.cache_folder.iterdir()] == [".bin"]
    async with place.started(kind) as starting:
        engine = await starting.ready()
        await cache.restore(as_engine(engine))
        again = await ask(engine, PROMPT + "And")
        await engine.stop()
    assert again["cache_n"] > first["prompt_n"] - 8
    assert again["prompt_n"] < 16
    assert again["prompt_ms"] < first["prompt_ms"]
    assert place.lines == []
    assert not list(place.cache_folder.iterdir())


async def test_a_full_disk_and_a_damaged_file_cost_the_cache_only(tmp_path: Path) -> None:
    place = Place(tmp_path)

    def fill_disk() -> float:
        # Called before the first file is written: what the engine writes has no room.
        for slot in range(2):
            (place.cache_folder / f"slot-{slot}.bin").symlink_to("/dev/full")
        return 24e3

    async with place.started("llama-server") as starting:
        engine = await starting.ready()
        first = await ask(engine, PROMPT)
        await place.cache(fill_disk).save(as_engine(engine))
        assert len(place.lines) == 1
        assert "is not saved: the engine answered with 500" in place.lines.pop()

        cache = place.cache()
        await cache.save(as_engine(engine))
        (file,) = place.cache_folder.iterdir()
        file.write_bytes(file.read_bytes()[:-1000])
        await engine.stop()
    async with place.started("llama-server") as starting:
        engine = await starting.ready()
        await cache.restore(as_engine(engine))
        assert len(place.lines) == 1
        assert "slot-1.bin has changed" in place.lines[0]
        assert (await ask(engine, PROMPT))["prompt_n"] == first["prompt_n"]
        await engine.stop()


async def test_other_cache_types_refuse_the_file(tmp_path: Path) -> None:
    place = Place(tmp_path)
    cache = place.cache()
    async with place.started("llama-server") as starting:
        engine = await starting.ready()
        await ask(engine, PROMPT)
        await cache.save(as_engine(engine))
        await engine.stop()
    changed = {"Advanced/type_k": "q8_0"}
    async with place.started("llama-server", **changed) as starting:
        engine = await starting.ready()
        began = time.monotonic()
        await cache.restore(as_engine(engine))
        assert time.monotonic() - began < 5
        assert "is not restored: the engine answered with 400" in place.lines[0]
        assert (await ask(engine, PROMPT))["cache_n"] == 0
        await engine.stop()
