"""Slots over a stop and a start, and everything that may be in the way."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from apps.llamacpp.engines.installed import EngineKind
from apps.llamacpp.prompt_cache import PromptCache
from common.engines.contract import EngineAddress, EngineCommand
from common.memory.engine_ways import EngineOffloads, MachineFacts
from common.memory.offload import RunningEngine
from tests.fakes.slots_server import SlotsServer, serving
from tests.llamacpp.samples import OLD_HELP, engine, load, plan_of

OFFLOADING = {"General/enable_automatic_cpu_offloading": "true"}
GPU = MachineFacts("x86_64", driver="570.86.15", gpus=1)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


class Place:
    """A model's folders, a cache over them and what it reports."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.cache_folder = folder / "cache"
        self.cache_folder.mkdir()
        self.model = folder / "model.gguf"
        self.model.write_bytes(b"weights")
        self.socket = folder / "e.sock"
        self.engine = RunningEngine(1, EngineAddress(socket_path=self.socket))
        self.lines: list[str] = []
        per_token: Callable[[], float] = changes.pop("per_token", lambda: 4.0)
        self.cache = PromptCache(
            self.cache_folder, [self.model], per_token, self.lines.append, **changes
        )

    def files(self) -> list[str]:
        return sorted(path.name for path in self.cache_folder.iterdir())

    def server(self, tokens: dict[int, int], **changes: Any) -> SlotsServer:
        return SlotsServer(self.cache_folder, tokens, **changes)

    async def save(self, tokens: dict[int, int], **changes: Any) -> SlotsServer:
        """Save the slots of a server that then ends."""
        async with serving(self.server(tokens, **changes), self.socket) as server:
            await self.cache.save(self.engine)
        return server

    async def restore(self, slots: int = 4, **changes: Any) -> SlotsServer:
        """Restore into a new server with empty slots."""
        empty = self.server(dict.fromkeys(range(slots), 0), **changes)
        async with serving(empty, self.socket) as server:
            await self.cache.restore(self.engine)
        return server


@pytest.mark.parametrize("is_old", [False, True])
async def test_slots_with_enough_tokens_come_back(tmp_path: Path, is_old: bool) -> None:
    place = Place(tmp_path)
    saved = await place.save({0: 300, 1: 0, 2: 255, 3: 9000}, is_old=is_old)
    assert place.files() == ["slot-0.bin", "slot-3.bin"]
    if not is_old:
        assert saved.asked == ["list", "save 3", "save 0"]
    restored = await place.restore()
    assert restored.tokens == {0: 300, 1: 0, 2: 0, 3: 9000}
    assert place.lines == []
    assert place.files() == []
    # A second start has nothing to read: the first may have ended because of it.
    assert (await place.restore()).asked == []


async def test_slots_at_work_are_left_alone(tmp_path: Path) -> None:
    place = Place(tmp_path)
    server = await place.save({0: 300, 1: 300}, busy={1})
    assert server.asked == ["list", "save 0"]


async def test_a_later_save_counts(tmp_path: Path) -> None:
    place = Place(tmp_path)
    await place.save({0: 300, 1: 400})
    await place.save({0: 500, 1: 0})
    assert place.files() == ["slot-0.bin"]
    assert (await place.restore()).tokens[0] == 500


async def test_the_key_of_a_port_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    address = EngineAddress(socket_path=place.socket, key="secret")
    async with serving(place.server({0: 300}), place.socket) as server:
        await place.cache.save(RunningEngine(1, address))
    assert server.headers == ["Bearer secret"] * 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"refuse": {"save": (500, "Unable to\nsave slot")}}, "with 500: Unable to save slot"),
        ({"cut": 100}, "100 of 1,204 bytes were written"),
        ({"cut": 0}, "0 of 1,204 bytes were written"),
    ],
)
async def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    place = Place(tmp_path)
    await place.save({0: 300}, **changes)
    assert place.files() == []
    assert len(place.lines) == 1
    assert "The prompt cache of 300 tokens is not saved" in place.lines[0]
    assert words in place.lines[0]
    assert (await place.restore()).asked == []


async def test_without_room_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, per_token=lambda: 2.0**20)
    free = (1 << 30) + (1 << 29)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free, 0, free))
    server = await place.save({0: 600, 1: 300})
    assert server.asked == ["list", "save 1"]
    assert len(place.lines) == 1
    assert "600 tokens is not saved: it takes 660.0 MiB, of" in place.lines[0]
    assert "1.50 GiB are free, and 1.00 GiB stay free" in place.lines[0]
    assert place.files() == ["slot-1.bin"]


async def test_the_first_file_tells_what_a_token_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd() -> float:
        raise ValueError("no such architecture")

    place = Place(tmp_path, per_token=odd)
    room = [1 << 31, (1 << 30) + 1000]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, room.pop(0)))
    server = await place.save({0: 600, 1: 300})
    assert server.asked == ["list", "save 0"]
    assert "300 tokens is not saved: it takes" in place.lines[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"refuse": {"list": (501, "not supported")}}, "answered with 501: not supported"),
        ({"refuse": {"list": (200, "{}")}}, "does not list its slots"),
        ({"refuse": {"list": (200, "oops")}}, "does not answer"),
        ({"hang": {"list"}}, "it takes too long"),
        ({"hang": {"save"}}, "300 tokens is not saved: it takes too long"),
        ({"refuse": {"save": (200, "{}")}}, "does not tell n_saved"),
    ],
)
async def test_what_is_not_saved_is_told_once_and_fails_nothing(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    place = Place(tmp_path, limit_s=0.3 if "hang" in changes else 30.0)
    await place.save({0: 300}, **changes)
    assert len(place.lines) == 1
    assert words in place.lines[0]
    assert place.files() == []


async def test_an_engine_that_is_gone_fails_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    await place.cache.save(place.engine)
    assert "is not saved: the engine does not answer" in place.lines.pop()
    await place.save({0: 300})
    await place.cache.restore(place.engine)
    assert "is not restored: the engine does not answer" in place.lines.pop()
    assert place.files() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"refuse": {"restore": (400, "Unable to restore slot")}}, "400: Unable to restore"),
        ({"hang": {"restore"}}, "it takes too long"),
    ],
)
async def test_what_the_engine_does_not_take_is_told(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    place = Place(tmp_path, limit_s=1.5 if "hang" in changes else 30.0)
    await place.save({0: 300})
    await place.restore(**changes)
    assert len(place.lines) == 1
    assert "300 tokens is not restored" in place.lines[0]
    assert words in place.lines[0]
    assert place.files() == []


@pytest.mark.parametrize("data", [b"", b"x" * 1203, None])
async def test_a_file_that_is_not_whole_never_gets_to_the_engine(
    tmp_path: Path, data: bytes | None
) -> None:
    place = Place(tmp_path)
    await place.save({0: 300})
    file = place.cache_folder / "slot-0.bin"
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    assert (await place.restore()).asked == []
    assert "slot-0.bin has changed" in place.lines[0]


async def test_a_file_that_is_of_something_else_is_told(tmp_path: Path) -> None:
    place = Place(tmp_path)
    await place.save({0: 300})
    (place.cache_folder / "slot-0.bin").write_bytes((5).to_bytes(4, "little") * 301)
    await place.restore()
    assert "the engine took 5 tokens of it" in place.lines[0]


@pytest.mark.parametrize("change", ["other", "gone"])
async def test_other_weights_get_no_cache(tmp_path: Path, change: str) -> None:
    place = Place(tmp_path)
    await place.save({0: 300})
    place.model.unlink()
    if change == "other":
        place.model.write_bytes(b"other weights")
    server = await place.restore()
    assert server.asked == []
    assert "The prompt cache is not restored" in place.lines[0]
    assert place.files() == []


async def test_a_save_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    async with serving(place.server({0: 300, 1: 400}, hang=set()), place.socket) as server:
        server.hang.add("save")
        saving = asyncio.create_task(place.cache.save(place.engine))
        while "save 1" not in server.asked:  # noqa: ASYNC110 - the server is no event
            await asyncio.sleep(0.01)
        (place.cache_folder / "slot-1.bin").write_bytes(b"half")
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
    assert place.files() == []
    assert place.lines == []


async def test_the_end_of_the_instance_removes_the_files(tmp_path: Path) -> None:
    place = Place(tmp_path)
    await place.save({0: 300})
    (place.cache_folder / "theirs.bin").write_bytes(b"x")
    place.cache.discard()
    assert place.files() == ["theirs.bin"]
    shutil.rmtree(place.cache_folder)
    place.cache.discard()


def written(kind: EngineKind, folder: Path | None, **parameters: str) -> EngineCommand:
    """The command of a model with this folder."""
    settings = load(**parameters)
    return engine(kind).command(plan_of(settings, cache_folder=folder), settings)


def test_the_command_names_the_folder_where_the_option_is_on(tmp_path: Path) -> None:
    on = written("llama-server", tmp_path, save_prompt_cache="true", **OFFLOADING)
    assert on.argv[-2:] == ("--slot-save-path", f"{tmp_path}/")
    assert not on.unavailable
    given = {"save_prompt_cache": "true", **OFFLOADING}
    cli = written("llama-server", tmp_path, cli="--seed 7", **given)
    assert cli.argv[-2:] == ("--slot-save-path", f"{tmp_path}/")
    off = written("llama-server", tmp_path, **OFFLOADING)
    nowhere = written("llama-server", None, **given)
    assert off.argv == nowhere.argv
    assert "--slot-save-path" not in off.argv


@pytest.mark.parametrize(
    ("kind", "parameters", "words"),
    [
        ("llama_cpp.server", {}, "--slot-save-path"),
        ("llama-server", {"embedding": "true"}, "embedding"),
        ("llama-server", {"cli": "--slot-save-path /mine"}, '"CLI" says --slot-save-path'),
    ],
)
def test_where_it_cannot_be_it_is_told(
    tmp_path: Path, kind: EngineKind, parameters: dict[str, str], words: str
) -> None:
    given = {"save_prompt_cache": "true", **OFFLOADING, **parameters}
    command = written(kind, tmp_path, **given)
    assert f"{tmp_path}/" not in command.argv
    told = [i for i in command.unavailable if i.path == "Model/save_prompt_cache"]
    assert len(told) == 1
    assert words in told[0].reason
    settings = load(**given)
    plan = plan_of(settings, cache_folder=tmp_path)
    assert engine(kind).cache_hooks(plan, settings, print) is None


def test_the_engine_has_hooks_where_the_option_is_on(tmp_path: Path) -> None:
    settings = load(save_prompt_cache="true", **OFFLOADING)
    found = engine("llama-server")
    plan = plan_of(settings, cache_folder=tmp_path)
    assert found.cache_hooks(plan, settings, print) is not None
    assert found.cache_hooks(plan_of(settings), settings, print) is None
    off = load(**OFFLOADING)
    assert found.cache_hooks(plan_of(off, cache_folder=tmp_path), off, print) is None
    old = engine("llama-server", OLD_HELP)
    assert old.cache_hooks(plan, settings, print) is None


def test_the_driver_puts_an_engine_aside_where_models_take_turns() -> None:
    settings = load(**OFFLOADING)
    found, plan = engine("llama-server"), plan_of(settings)
    ways = found.offloads(plan, settings, GPU)
    assert [way.label for way in ways.asleep] == ["driver checkpoint"]
    assert (ways.emptied, ways.notes) == ((), ())
    assert found.offloads(plan, load(), GPU) == EngineOffloads()
    assert found.offloads(plan, settings, MachineFacts("x86_64")) == EngineOffloads()


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (MachineFacts("x86_64", driver="550.1", gpus=1), "550.1 cannot do it"),
        (
            MachineFacts(*("x86_64", "570.1", 1), environ={"GGML_CUDA_ENABLE_UNIFIED_MEMORY": "1"}),
            "unified memory",
        ),
    ],
)
def test_where_the_driver_cannot_it_is_told(machine: MachineFacts, words: str) -> None:
    settings = load(**OFFLOADING)
    ways = engine("llama-server").offloads(plan_of(settings), settings, machine)
    assert ways.asleep == ()
    assert len(ways.notes) == 1
    assert words in ways.notes[0]
    swapping = load(**{"General/enable_disk_swapping": "true"})
    assert engine("llama-server").offloads(plan_of(swapping), swapping, machine).notes == ()
