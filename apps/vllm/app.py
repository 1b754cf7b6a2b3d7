"""The vLLM app, and the legacy one over the same engine, as the runtime and the command line use them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from apps.vllm.catalogue import load_catalogue
from apps.vllm.discovery import catalogue_engine, find_engine, preview_engine, ready_engine
from apps.vllm.environments.installer import install_environment
from apps.vllm.extras import model_extras
from apps.vllm.facts import Build
from apps.vllm.inspection import check_adapters, check_model_config, inspect_model
from apps.vllm.installed import VllmEngine
from apps.vllm.options import VllmSettings
from common.errors import InternalError, Problem
from common.models.fetch import ModelFiles
from common.models.memory import AvailableMemory
from common.options.settings import ModelOptions
from common.runtime.app import AnySettings, Inspection, InstalledEngine, ModelExtras, ModelPlan


@dataclass
class VllmApp:
    """Implements `App` for a form over vLLM; made by `app`.

    Attributes:
        name: The package is ``apps.<name>``.
        title: The application's title.
        settings: Declares the form's options.
        catalogue: A file of flags to show commands with instead of the engine's own.
    """

    name: str = "vllm"
    title: str = "vLLM Model Deployment"
    settings: type[AnySettings] = VllmSettings
    catalogue: Path | None = None
    wants: Literal["gguf", "repository"] = "repository"
    # What runs: models are inspected for the build and the machine that will serve them.
    _engine: VllmEngine | None = field(default=None, repr=False)

    def with_catalogue(self, catalogue: Path) -> VllmApp:
        """This app with the flags of a catalogue file (see `apps.vllm.catalogue`)."""
        return replace(self, catalogue=catalogue)

    def find_engine(self, settings: AnySettings, environ: Mapping[str, str]) -> VllmEngine:
        """Choose the vLLM of this machine: the worker's own, or the version that is wanted.

        Raises:
            EngineMissingError: None is there and none is asked for; says how to get one.
            ConfigurationError: It needs a GPU and there is none; or the catalogue file is none.
        """
        if self.catalogue is not None:
            return self.preview_engine(settings, environ)
        return find_engine(settings, environ)

    def preview_engine(self, settings: AnySettings, environ: Mapping[str, str]) -> VllmEngine:
        """The vLLM to show commands for; nothing is installed, and the machine does not count.

        Raises:
            ConfigurationError: The catalogue file cannot be read or is none.
        """
        if self.catalogue is not None:
            build: Build = "cpu" if settings.general.wants_cpu_build else "gpu"
            return catalogue_engine(load_catalogue(self.catalogue), build)
        return preview_engine(settings, environ)

    def install_engine(
        self,
        engine: InstalledEngine,
        settings: AnySettings,
        environ: Mapping[str, str],
        report: Callable[[str], None],
        cancel: threading.Event,
    ) -> VllmEngine:
        """Install what is wanted and read the flags that it really has. Blocks for minutes.

        Raises:
            EngineMissingError: It cannot be installed; says why.
            EngineConfigurationError: It does not run.
            FetchCancelledError: `cancel` was set.
        """
        if not isinstance(engine, VllmEngine):
            raise InternalError(f"{engine.label} is no engine of {self.title}")
        if engine.environment is not None and not engine.is_installed:
            install_environment(engine.environment, environ, report, cancel)
        report(f"Reading the flags of {engine.label} ...")
        self._engine = ready_engine(engine, settings, environ, cancel)
        return self._engine

    def extras(self, names: Sequence[str], settings: AnySettings) -> Mapping[str, ModelExtras]:
        """Tokenizers, draft models and adapters that come with the models. Pure.

        Raises:
            ConfigurationError: An adapter belongs to no model, or its name is taken.
        """
        return model_extras(names, settings)

    def check_config(
        self, where: str, model: ModelOptions, settings: AnySettings, config: Mapping[str, Any]
    ) -> list[Problem]:
        """Problems that a repository's ``config.json`` tells, before its weights are fetched. Pure."""
        return check_model_config(where, model, settings, config)

    def check_companions(self, plan: ModelPlan, settings: AnySettings) -> None:
        """Check that the engine takes adapters of such ranks. Blocks for milliseconds.

        Raises:
            ModelFormatError: An adapter's configuration cannot be read.
            ConfigurationError: A rank is above "Max LoRA Rank".
        """
        if self._engine is not None:
            check_adapters(plan, settings, self._engine.facts)

    def inspect(
        self, plan: ModelPlan, files: ModelFiles, settings: AnySettings, memory: AvailableMemory
    ) -> Inspection:
        """Check a model's files and what they need. Blocks for milliseconds.

        Raises:
            ModelFormatError: Not what vLLM can load.
            CapacityError: It cannot fit into `memory`.
        """
        engine = self._engine
        if engine is None:
            # Nothing was installed: a look at the files of a model, for whatever will serve it.
            found = preview_engine(settings, {})
            build: Build = "gpu" if memory.gpus else "cpu"
            facts = replace(found.facts, build=build, gpus=len(memory.gpus))
        else:
            facts = engine.facts
        return inspect_model(plan, files, settings, memory, facts)


def app() -> VllmApp:
    """Make the app."""
    return VllmApp()
