"""What an app provides: its settings and its engine. Everything else is common."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from common.engines.contract import EngineAddress, EngineCommand, EngineProgram
from common.errors import Problem
from common.memory.engine_ways import CacheHooks, EngineOffloads, MachineFacts
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
        path: What the engine is given: a file, or the folder of a repository; a placeholder when the
            command is only shown.
        files: All of the model's files.
        address: Where its engine will listen.
        threads: CPU threads this engine may use when its options do not say.
        companions: Where the model's companions are, by `Companion.key`.
        cache_folder: A private folder of this model alone, on a disk, for what its engine has computed
            ("Save Prompt Cache"); it exists when the engine starts. None: nothing is kept.
        fitted: Flags and values that make the model fit into the memory (`Inspection.fitted`). They win
            over the form's, over "CLI" and over overrides.
    """

    name: str
    options: ModelOptions
    path: Path
    files: tuple[Path, ...]
    address: EngineAddress
    threads: int
    companions: Mapping[str, Path] = field(default_factory=dict)
    cache_folder: Path | None = None
    fitted: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Companion:
    """Further files that a model's engine needs: a tokenizer, an adapter, a draft model.

    Attributes:
        key: How the command finds it: ``tokenizer``, ``draft_model``, ``lora:<name>``.
        reference: As the user gave it; the forms of `common.models.reference`.
        title: The option's title, for messages.
        path: The option's parameter path.
        revision: Branch, tag or commit on Hugging Face.
        want: Which of its files: all that an engine loads, or all but the weights.
    """

    key: str
    reference: str
    title: str
    path: str
    revision: str | None = None
    want: Literal["repository", "tokenizer"] = "repository"


@dataclass(frozen=True)
class ModelExtras:
    """What comes with one model.

    Attributes:
        companions: Files to fetch beside the model's own.
        adapters: Further names that its engine serves (LoRA), for the `model` field of requests.
    """

    companions: tuple[Companion, ...] = ()
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """What was found in a model's files.

    Attributes:
        lines: For the console.
        need: The memory it will need.
        fitted: Flags of the engine, and their values, without which it would need other memory than that:
            for `ModelPlan.fitted`.
        weights_bytes: Its weights once loaded, on all devices together; None: as large as its files.
        maps_files: The engine maps the files instead of reading them into memory of its own.
    """

    lines: tuple[str, ...]
    need: MemoryNeed
    fitted: Mapping[str, str] = field(default_factory=dict)
    weights_bytes: int | None = None
    maps_files: bool = False


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

    def is_noise(self, line: str) -> bool:
        """Whether a line of its output is for the console in debug mode only."""

    def loading_step(self, line: str) -> str:
        """What it is doing while it starts, as a line of its output tells; empty where it does not."""

    def check(self, where: str, model: ModelOptions, settings: AnySettings) -> list[Problem]:
        """Problems of one model that only the engine's own flags can tell (CLI), before any download."""

    def command(self, plan: ModelPlan, settings: AnySettings) -> EngineCommand:
        """Write the command for one model: pure."""

    def offloads(
        self, plan: ModelPlan, settings: AnySettings, machine: MachineFacts
    ) -> EngineOffloads:
        """The ways to free a running engine's device memory that keep its process. Pure.

        Asked once per model, with the plan whose command was started: `command` says what the ways
        need. Where there is none, only stopping the engine frees its memory.

        Args:
            plan: The model.
            settings: The instance's settings.
            machine: The worker.
        """

    def cache_hooks(
        self, plan: ModelPlan, settings: AnySettings, report: Callable[[str], None]
    ) -> CacheHooks | None:
        """What keeps the engine's caches over a stop and a start; None: they are not kept.

        Asked once per model, since the hooks remember what was saved.

        Args:
            plan: The model; its `cache_folder` is where the files go.
            settings: The instance's settings.
            report: Told what was not saved or restored: a line for the console, without the model's name.
        """


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

        One that `install_engine` would install counts as found: as much as is known of it.

        Raises:
            EngineMissingError: None is installed; says how to install one.
            ConfigurationError: This machine cannot run what the settings ask for.
        """

    def install_engine(
        self,
        engine: InstalledEngine,
        settings: AnySettings,
        environ: Mapping[str, str],
        report: Callable[[str], None],
        cancel: threading.Event,
    ) -> InstalledEngine:
        """Make a found engine ready to run; returns it as it is when it already was. Blocks.

        Args:
            engine: What `find_engine` returned.
            settings: The instance's settings.
            environ: The worker's environment.
            report: Told every few seconds what is being done, a line for the console.
            cancel: Set it to give up; what was installed so far is removed or continued next time.

        Raises:
            EngineMissingError: It cannot be installed: no such version, no index, no space.
            EngineConfigurationError: It does not run.
            FetchCancelledError: `cancel` was set.
        """

    def extras(self, names: Sequence[str], settings: AnySettings) -> Mapping[str, ModelExtras]:
        """Tell what comes with each model. Pure.

        Args:
            names: The endpoint names of the models, in the order of `settings.models`.
            settings: The instance's settings.

        Raises:
            ConfigurationError: An adapter belongs to no model, or its name is taken.
        """

    def check_config(
        self, where: str, model: ModelOptions, settings: AnySettings, config: Mapping[str, Any]
    ) -> list[Problem]:
        """Problems that a repository's ``config.json`` tells, before its weights are fetched. Pure."""

    def check_companions(self, plan: ModelPlan, settings: AnySettings) -> None:
        """Check what came with a model before the model itself is fetched, so `plan` has no files yet.

        Raises:
            ModelFormatError: Not what the engine can load.
            ConfigurationError: The settings do not suit it.
        """

    def with_catalogue(self, catalogue: Path) -> App:
        """This app with the engine's flags from a file, to show commands for another version.

        Raises:
            ConfigurationError: The file is no catalogue.
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
