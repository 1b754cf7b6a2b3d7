"""An app whose engine is the stub: a real process, loaded at once, that can be told to fail."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from apps.llamacpp.options import LlamaCppSettings
from common.engines.contract import Diagnosis, EngineCommand
from common.errors import ConfigurationError, Problem
from common.memory.engine_ways import CacheHooks, EngineOffloads, MachineFacts
from common.models.fetch import ModelFiles
from common.models.memory import AvailableMemory, MemoryNeed
from common.options.settings import ModelOptions
from common.runtime.app import AnySettings, Inspection, InstalledEngine, ModelExtras, ModelPlan

STUB = Path(__file__).parents[1] / "fakes" / "stub_engine.py"

Install = Callable[[Callable[[str], None], threading.Event], None]


@dataclass(frozen=True)
class StubEngine:
    """Runs the stub with flags by model name; configuration errors say ``bad option``.

    One that lacks memory says ``out of memory``.

    Attributes:
        plans: Takes every plan that a command was written for.
        problems: What `check` finds wrong with each model.
        ways: What `offloads` returns.
        hooks: What `cache_hooks` returns.
    """

    flags: Mapping[str, tuple[str, ...]]
    label: str = "stub engine"
    version: str = "1"
    notice: str = ""
    health_path: str = "/health"
    metrics_path: str | None = "/metrics"
    listens_on_sockets: bool = True
    plans: list[ModelPlan] = field(default_factory=list)
    problems: tuple[Problem, ...] = ()
    ways: EngineOffloads = EngineOffloads()
    hooks: CacheHooks | None = None

    def check(self, where: str, model: ModelOptions, settings: AnySettings) -> list[Problem]:
        return list(self.problems)

    def command(self, plan: ModelPlan, settings: AnySettings) -> EngineCommand:
        self.plans.append(plan)
        flags = self.flags.get(plan.name, ())
        address = plan.address
        if address.port is None:
            listen = ("--socket", str(address.socket_path))
        else:
            listen = ("--port", str(address.port))
        for key, path in plan.companions.items():
            listen += ("--print", f"{key} at {path}")
        env = {"STUB_API_KEY": address.key} if address.key else {}
        return EngineCommand((sys.executable, str(STUB), *listen, *flags), env, frozenset(env))

    def is_noise(self, line: str) -> bool:
        return line == "noise"

    def loading_step(self, line: str) -> str:
        return line.partition("step: ")[2]

    def diagnose(self, exit_code: int | None, tail: Sequence[str]) -> Diagnosis:
        bad = [line for line in tail if "bad option" in line]
        short = [line for line in tail if "out of memory" in line]
        said = bad or short
        summary = f"It says: {said[-1]}." if said else ""
        return Diagnosis(bool(bad), summary, lacks_memory=bool(short))

    def offloads(
        self, plan: ModelPlan, settings: AnySettings, machine: MachineFacts
    ) -> EngineOffloads:
        return self.ways

    def cache_hooks(
        self, plan: ModelPlan, settings: AnySettings, report: Callable[[str], None]
    ) -> CacheHooks | None:
        return self.hooks


@dataclass(frozen=True)
class StubApp:
    """The llama.cpp app's options over the stub engine.

    Attributes:
        flags: The engine's flags by model name.
        install: Done in `install_engine`; may block, report and raise.
        installed: What the engine is after that, as changes of `StubEngine`.
        extra: What comes with the models, by their names.
        config_problems: What is wrong with the contents of a ``config.json``.
        companion_problems: What is wrong with what comes with the models.
        need_bytes: What every model needs of the host's memory.
        maps_files: What inspections say of the engine.
    """

    flags: Mapping[str, tuple[str, ...]]
    name: str = "llamacpp"
    title: str = "Stub"
    settings: type[LlamaCppSettings] = LlamaCppSettings
    wants: Literal["gguf", "repository"] = "gguf"
    install: Install | None = None
    installed: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, ModelExtras] = field(default_factory=dict)
    config_problems: Callable[[Mapping[str, Any]], list[Problem]] = lambda config: []
    companion_problems: Sequence[Problem] = ()
    need_bytes: int = 0
    maps_files: bool = False

    def find_engine(self, settings: AnySettings, environ: Mapping[str, str]) -> StubEngine:
        return StubEngine(self.flags)

    def with_catalogue(self, catalogue: Path) -> StubApp:
        return self

    def preview_engine(self, settings: AnySettings, environ: Mapping[str, str]) -> StubEngine:
        return replace(StubEngine(self.flags), **self.installed)

    def install_engine(
        self,
        engine: InstalledEngine,
        settings: AnySettings,
        environ: Mapping[str, str],
        report: Callable[[str], None],
        cancel: threading.Event,
    ) -> InstalledEngine:
        assert isinstance(engine, StubEngine)
        if self.install is not None:
            self.install(report, cancel)
        return replace(engine, **self.installed)

    def extras(self, names: Sequence[str], settings: AnySettings) -> Mapping[str, ModelExtras]:
        return {name: self.extra[name] for name in names if name in self.extra}

    def check_config(
        self, where: str, model: ModelOptions, settings: AnySettings, config: Mapping[str, Any]
    ) -> list[Problem]:
        return self.config_problems(config)

    def check_companions(self, plan: ModelPlan, settings: AnySettings) -> None:
        if self.companion_problems:
            raise ConfigurationError(self.companion_problems)

    def inspect(
        self, plan: ModelPlan, files: ModelFiles, settings: AnySettings, memory: AvailableMemory
    ) -> Inspection:
        return Inspection((), MemoryNeed(self.need_bytes, 0), maps_files=self.maps_files)
