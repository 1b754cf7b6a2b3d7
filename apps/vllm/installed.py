"""A vLLM of this machine, or one that will be installed: how the runtime uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from apps.vllm.command import check_engine_options, vllm_offloads, write_vllm_command
from apps.vllm.diagnose import diagnose
from apps.vllm.environments.layout import EngineEnvironment
from apps.vllm.facts import EngineFacts
from apps.vllm.loading import is_noise, loading_step
from common.engines.contract import Diagnosis, EngineCommand
from common.errors import Problem
from common.memory.engine_ways import CacheHooks, EngineOffloads, MachineFacts
from common.options.settings import ModelOptions
from common.runtime.app import AnySettings, ModelPlan


@dataclass(frozen=True)
class VllmEngine:
    """One version and build of vLLM: implements `InstalledEngine`.

    Attributes:
        version: Its version, without the build; empty when it is not known yet.
        facts: What its commands depend on.
        python: Its interpreter; None where only its flags are known.
        place: Where it is, for the console.
        environment: Its environment, where it is one of our own.
        is_installed: Whether it is there; else `App.install_engine` installs it.
        is_exact: Whether the flags in `facts` are its own, or those of a release of this version.
        notice: What the user should know about it.
    """

    version: str
    facts: EngineFacts
    python: Path | None = None
    place: str = ""
    environment: EngineEnvironment | None = None
    is_installed: bool = True
    is_exact: bool = True
    notice: str = ""
    health_path: str = "/health"
    metrics_path: str | None = "/metrics"

    @property
    def label(self) -> str:
        """Name, version, build and place, such as ``vLLM 0.32.0 (CPU build, /opt/vllm)``."""
        name = f"vLLM {self.version}".strip()
        build = "CPU build" if self.facts.build == "cpu" else ""
        details = ", ".join(part for part in (build, self.place) if part)
        return f"{name} ({details})" if details else name

    @property
    def listens_on_sockets(self) -> bool:
        """Newer versions can listen on a Unix socket."""
        return "--uds" in self.facts.catalogue

    def diagnose(self, exit_code: int | None, tail: Sequence[str]) -> Diagnosis:
        """Tell a configuration error from a crash."""
        return diagnose(exit_code, tail)

    def is_noise(self, line: str) -> bool:
        """Whether a line of its output is for the console in debug mode only."""
        return is_noise(line)

    def loading_step(self, line: str) -> str:
        """What it is doing while it starts, as far as a line of its output tells."""
        return loading_step(line)

    def check(self, where: str, model: ModelOptions, settings: AnySettings) -> list[Problem]:
        """Problems that its flags tell; none while only those of another version are known."""
        return check_engine_options(where, model, settings, self.facts) if self.is_exact else []

    def command(self, plan: ModelPlan, settings: AnySettings) -> EngineCommand:
        """Write the command for one model: pure but for the model's ``config.json``."""
        return write_vllm_command(plan, settings, self.facts)

    def offloads(
        self, plan: ModelPlan, settings: AnySettings, machine: MachineFacts
    ) -> EngineOffloads:
        """Its sleep levels, where it was started so that it can sleep."""
        return vllm_offloads(plan, settings, self.facts)

    def cache_hooks(
        self, plan: ModelPlan, settings: AnySettings, report: Callable[[str], None]
    ) -> CacheHooks | None:
        """None: its prefix cache ends with its process."""
        return None
