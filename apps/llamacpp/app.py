"""The llama.cpp Model Deployment app, as the runtime and the command line use it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from apps.llamacpp.asked_memory import read_request
from apps.llamacpp.command import as_llamacpp
from apps.llamacpp.engines.discovery import catalogue_engine, find_engine, stand_in
from apps.llamacpp.engines.installed import LlamaCppEngine
from apps.llamacpp.inspection import describe
from apps.llamacpp.memory_fit import check_memory
from apps.llamacpp.options import LlamaCppSettings
from common.errors import EngineError, Problem
from common.models.fetch import ModelFiles
from common.models.footprint import read_shape
from common.models.gguf import read_model
from common.models.memory import AvailableMemory
from common.options.settings import ModelOptions
from common.runtime.app import AnySettings, Inspection, InstalledEngine, ModelExtras, ModelPlan


@dataclass(frozen=True)
class LlamaCppApp:
    """Implements `App`; made by `app`.

    Attributes:
        catalogue: A file of flags to show commands with instead of the installed engine's.
    """

    catalogue: Path | None = None

    name: str = "llamacpp"
    title: str = "llama.cpp Model Deployment"
    settings: type[LlamaCppSettings] = LlamaCppSettings
    wants: Literal["gguf", "repository"] = "gguf"

    def with_catalogue(self, catalogue: Path) -> LlamaCppApp:
        """This app with the flags of a catalogue file (see `apps.llamacpp.flags`)."""
        return LlamaCppApp(catalogue)

    def find_engine(self, settings: AnySettings, environ: Mapping[str, str]) -> LlamaCppEngine:
        """Choose the engine on this machine: a native server, else the wheel, else the Python server.

        Raises:
            EngineMissingError: None is installed; says how to install one.
            EngineConfigurationError: A native server was found and does not run.
            UserError: The catalogue is none.
        """
        if self.catalogue is not None:
            return catalogue_engine(self.catalogue, environ)
        general = settings.general
        return find_engine(general.engine, general.llama_server_path, environ)

    def preview_engine(self, settings: AnySettings, environ: Mapping[str, str]) -> LlamaCppEngine:
        """The engine to show commands for: one that is not installed is shown as of the catalogue."""
        try:
            return self.find_engine(settings, environ)
        except EngineError:
            choice = settings.general.engine
            return stand_in("llama-server" if choice in (None, "auto") else choice, environ)

    def install_engine(
        self,
        engine: InstalledEngine,
        settings: AnySettings,
        environ: Mapping[str, str],
        report: Callable[[str], None],
        cancel: threading.Event,
    ) -> InstalledEngine:
        """What was found is ready: llama.cpp is never installed by an instance."""
        return engine

    def extras(self, names: Sequence[str], settings: AnySettings) -> Mapping[str, ModelExtras]:
        """A GGUF model brings everything with it."""
        return {}

    def check_config(
        self, where: str, model: ModelOptions, settings: AnySettings, config: Mapping[str, Any]
    ) -> list[Problem]:
        """A GGUF file's header is checked instead."""
        return []

    def check_companions(self, plan: ModelPlan, settings: AnySettings) -> None:
        """There are none."""

    def inspect(
        self, plan: ModelPlan, files: ModelFiles, settings: AnySettings, memory: AvailableMemory
    ) -> Inspection:
        """Check a model's files and what they need. Blocks for milliseconds.

        Raises:
            ModelFormatError: Not GGUF, truncated, a part is missing.
            CapacityError: It cannot fit into `memory`; says what would.
        """
        options = as_llamacpp(plan.options)
        parts = read_model(files.all)
        shape = read_shape(parts)
        shared = settings.memory
        fitted = check_memory(
            options,
            shape,
            memory,
            model=plan.name,
            is_bound=shared.moves_models or shared.max_cuda_gib is not None,
        )
        return Inspection(
            lines=tuple(describe(options, parts[0], shape, fitted)),
            need=fitted.need,
            fitted=fitted.flags,
            weights_bytes=shape.weights_bytes,
            maps_files=read_request(options, shape).maps_files,
        )


def app() -> LlamaCppApp:
    """Make the app."""
    return LlamaCppApp()
