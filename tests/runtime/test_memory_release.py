"""An instance that failed in the middle of its preparation gives back all that it has for its models."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common.memory.engine_ways import CacheHooks, MachineFacts
from common.memory.offload import RunningEngine
from common.runtime import universal_memory
from common.runtime.app import AnySettings, ModelPlan
from tests.runtime.running_instance import Running, until
from tests.runtime.sharing_instance import OFFLOAD, QUICK, is_known, operate, sharing, tier
from tests.runtime.stub_app import StubEngine

SAVED = {name: {"save_prompt_cache": True} for name in "ab"}


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary directory, of this test alone; its path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class SavedFiles:
    """Cache hooks that write a file into the folder of their model."""

    folders: list[Path] = field(default_factory=list)
    discarded: int = 0

    async def save(self, engine: RunningEngine) -> None:
        for folder in self.folders:
            (folder / "slot-0.bin").write_bytes(b"x" * 1000)

    async def restore(self, engine: RunningEngine) -> None:
        pass

    def discard(self) -> None:
        self.discarded += 1


def locked_kib() -> int:
    """What this process has locked, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmLck")).split()[1])


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def held_bytes(running: Running, name: str) -> int:
    memory = running.instance.memory
    assert memory is not None
    held = memory._moved[name].held
    assert held is not None
    return held.held_bytes


def nothing_is_left(temporary: Path, running: Running, locked_before: int) -> None:
    assert list(temporary.iterdir()) == []
    assert running.processes() == []
    assert locked_kib() == locked_before
    assert all(
        model.supervisor is None or not model.supervisor.pid for model in running.instance.models
    )


async def test_after_the_memory_could_not_be_measured(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read_nothing(*_: object) -> MachineFacts:
        raise OSError("no such driver")

    monkeypatch.setattr(universal_memory, "read_machine_facts", read_nothing)
    locked = locked_kib()
    async with sharing(tmp_path, "ab", OFFLOAD, first="", options=SAVED, limits=QUICK) as running:
        await until(lambda: running.stop.is_set)
        assert "no such driver" in running.said
        assert [running.status(name) for name in "ab"] == ["failed", "failed"]
    nothing_is_left(temporary, running, locked)


@pytest.mark.parametrize("fails", ["before it has an engine", "as it is taken"])
async def test_after_one_of_the_models_failed(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    plans: list[ModelPlan] = []
    hooks = SavedFiles()

    def cache_hooks(
        engine: StubEngine, plan: ModelPlan, settings: AnySettings, report: Callable[[str], None]
    ) -> CacheHooks | None:
        if plan.name == "b":
            raise KeyError("a mistake")
        return hooks

    def check(plan: ModelPlan) -> None:
        if plan.name == "b":
            raise OSError("its file is broken")

    if fails == "as it is taken":
        monkeypatch.setattr(StubEngine, "cache_hooks", cache_hooks)
        installed: Mapping[str, Any] = {"plans": plans}
    else:
        command = StubEngine.command

        def broken(engine: StubEngine, plan: ModelPlan, settings: AnySettings) -> Any:
            check(plan)
            return command(engine, plan, settings)

        monkeypatch.setattr(StubEngine, "command", broken)
        installed = {"plans": plans, "hooks": hooks}
    locked = locked_kib()
    weights = tmp_path / "a.gguf"
    async with sharing(
        tmp_path, "ab", OFFLOAD, options=SAVED, first="a", limits=QUICK, installed=installed
    ) as running:
        await until(lambda: running.stop.is_set and is_known(running, "a"))
        assert running.status("b") == "failed"
        # The others are there until the instance ends, with all that they have.
        await running.ready("a")
        hooks.folders = [plan.cache_folder for plan in plans if plan.cache_folder is not None]
        assert hooks.folders
        assert len(list(temporary.glob("clearml-deploy-prompts-*"))) == 2
        assert await operate(running, "a", "sleep") == 200
        assert tier(running, "a") == "cpu"
        assert (hooks.folders[0] / "slot-0.bin").exists()
        assert held_bytes(running, "a") == weights.stat().st_size
        assert is_mapped(weights)
    assert held_bytes(running, "a") == 0
    assert not is_mapped(weights)
    assert hooks.discarded == 1
    nothing_is_left(temporary, running, locked)
