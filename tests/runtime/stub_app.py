"""An app whose engine is the stub: a real process, loaded at once, that can be told to fail."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from apps.llamacpp.options import LlamaCppSettings
from common.engines.contract import Diagnosis, EngineCommand
from common.errors import Problem
from common.models.fetch import ModelFiles
from common.models.memory import AvailableMemory, MemoryNeed
from common.options.settings import ModelOptions
from common.runtime.app import AnySettings, Inspection, InstalledEngine, ModelExtras, ModelPlan

STUB = Path(__file__).parents[1] / "fakes" / "stub_engine.py"


@dataclass(frozen=True)
class StubEngine:
    """Runs the stub with flags by model name; configuration errors say ``bad option``."""

    flags: Mapping[str, tuple[str, ...]]
    label: str = "stub engine"
    version: str = "1"
    notice: str = ""
    health_path: str = "/health"
    metrics_path: str | None = "/metrics"
    listens_on_sockets: bool = True

    def check(self, where: str, model: ModelOptions, settings: AnySettings) -> list[Problem]:
        return []

    def command(self, plan: ModelPlan, settings: AnySettings) -> EngineCommand:
        flags = self.flags.get(plan.name, ())
        return EngineCommand(
            (sys.executable, str(STUB), "--socket", str(plan.address.socket_path), *flags)
        )

    def diagnose(self, exit_code: int | None, tail: Sequence[str]) -> Diagnosis:
        bad = [line for line in tail if "bad option" in line]
        return Diagnosis(bool(bad), f"It says: {bad[-1]}." if bad else "")


@dataclass(frozen=True)
class StubApp:
    """The llama.cpp app's options over the stub engine."""

    flags: Mapping[str, tuple[str, ...]]
    name: str = "llamacpp"
    title: str = "Stub"
    settings: type[LlamaCppSettings] = LlamaCppSettings
    wants: Literal["gguf", "repository"] = "gguf"

    def find_engine(self, settings: AnySettings, environ: Mapping[str, str]) -> StubEngine:
        return StubEngine(self.flags)

    def preview_engine(self, settings: AnySettings, environ: Mapping[str, str]) -> StubEngine:
        return StubEngine(self.flags)

    def install_engine(
        self,
        engine: InstalledEngine,
        settings: AnySettings,
        environ: Mapping[str, str],
        report: Callable[[str], None],
        cancel: threading.Event,
    ) -> InstalledEngine:
        return engine

    def extras(self, names: Sequence[str], settings: AnySettings) -> Mapping[str, ModelExtras]:
        return {}

    def check_config(
        self, where: str, model: ModelOptions, settings: AnySettings, config: Mapping[str, Any]
    ) -> list[Problem]:
        return []

    def inspect(
        self, plan: ModelPlan, files: ModelFiles, settings: AnySettings, memory: AvailableMemory
    ) -> Inspection:
        return Inspection((), MemoryNeed(0, 0))
