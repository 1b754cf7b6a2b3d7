"""What an app provides: its settings and its engine. Everything else is common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from common.engines.contract import EngineAddress, EngineCommand, EngineProgram
from common.errors import Problem
from common.models.fetch import ModelFiles
from common.models.memory import AvailableMemory, MemoryNeed
from common.options.settings import AppSettings, ModelOptions

AnySettings = AppSettings[Any, Any]


@dataclass(frozen=True)
class ModelPlan:
    """One model of the instance, resolved far enough to write its command.

    Attributes:
        name: Endpoint name, unique in the instance.
        options: The validated options of this model.
        files: The model's files; placeholders when the command is only shown.
        address: Where its engine will listen.
        threads: CPU threads this engine may use when its options do not say.
    """

    name: str
    options: ModelOptions
    files: tuple[Path, ...]
    address: EngineAddress
    threads: int


@dataclass(frozen=True)
class Inspection:
    """What was found in a model's files: lines for the console, and the memory it will need."""

    lines: tuple[str, ...]
    need: MemoryNeed


class InstalledEngine(EngineProgram, Protocol):
    """One engine found on this machine."""

    @property
    def version(self) -> str:
        """Version as the engine gives it, such as ``b7000``; empty when unknown."""

    @property
    def notice(self) -> str:
        """What the user should know about this engine, empty when there is nothing."""

    @property
    def listens_on_sockets(self) -> bool:
        """Whether it can listen on a Unix socket, which is preferred."""

    def check(self, where: str, model: ModelOptions, settings: AnySettings) -> list[Problem]:
        """Problems of one model that only the engine's own flags can tell (CLI), before any download."""

    def command(self, plan: ModelPlan, settings: AnySettings) -> EngineCommand:
        """Write the command for one model: pure."""


class App(Protocol):
    """One of the apps, as the runtime, the launcher and the command line use it."""

    @property
    def name(self) -> str:
        """``llamacpp``, ``vllm`` or ``legacy_model``: the package is ``apps.<name>``."""

    @property
    def title(self) -> str:
        """The application's title, such as ``llama.cpp Model Deployment``."""

    @property
    def settings(self) -> type[AnySettings]:
        """Declares its options."""

    @property
    def wants(self) -> Literal["gguf", "repository"]:
        """What the engine loads: GGUF files, or a whole repository."""

    def find_engine(self, settings: AnySettings, environ: Mapping[str, str]) -> InstalledEngine:
        """Choose the engine on this machine; may run ``engine --version`` (call it in a thread).

        Raises:
            EngineMissingError: None is installed; says how to install one.
        """

    def preview_engine(self, settings: AnySettings, environ: Mapping[str, str]) -> InstalledEngine:
        """The engine to show commands for: the one asked for, even if it is not installed."""

    def inspect(
        self, plan: ModelPlan, files: ModelFiles, settings: AnySettings, memory: AvailableMemory
    ) -> Inspection:
        """Check a model's files before the engine sees them.

        Args:
            plan: The model.
            files: Its files.
            settings: The instance's settings.
            memory: What is left for it on this machine.

        Raises:
            ModelFormatError: Not what the engine can load.
            CapacityError: It cannot fit into `memory`; says what would.
        """
