"""What the three ways to run llama.cpp have in common once one of them was found."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from apps.llamacpp.asked_memory import read_request
from apps.llamacpp.command import (
    as_llamacpp,
    prompt_cache_obstacle,
    read_cli,
    write_server_command,
)
from apps.llamacpp.engines.diagnose import diagnose
from apps.llamacpp.engines.output import is_noise
from apps.llamacpp.flags import EngineFlags
from apps.llamacpp.prompt_cache import PromptCache
from common.engines.contract import Diagnosis, EngineCommand
from common.errors import ModelError, Problem
from common.memory.cuda_checkpoint import CudaCheckpoint, checkpoint_obstacle
from common.memory.engine_ways import CacheHooks, EngineOffloads, MachineFacts
from common.models.footprint import kv_bytes_by_layer, read_shape
from common.models.gguf import read_header, read_model
from common.options.settings import ModelOptions
from common.runtime.app import AnySettings, ModelPlan

EngineKind = Literal["llama-server", "xllamacpp", "llama_cpp.server"]

# GNU OpenMP's threads spin between the steps of a token. Spinning without end costs nine tenths of
# the throughput when anything else wants the processors; not spinning at all (OMP_WAIT_POLICY)
# costs three quarters of it when nothing does. Measured on 2 cores with 2 threads, tokens/s free
# and beside two busy processes: default 180 and 20, passive 48 and 33, this 180 and 76.
_SPIN = ("GOMP_SPINCOUNT", "10000")
_SPIN_RIVALS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@dataclass(frozen=True)
class LlamaCppEngine:
    """One way to run llama.cpp, found on this machine: implements `InstalledEngine`.

    Attributes:
        kind: Which of the three.
        version: In the engine's own words; empty when unknown.
        program: What is executed, before llama-server's arguments.
        flags: What it understands.
        env: Variables it needs beside the worker's.
        place: Where it is, for the console.
        notice: A sentence for the console about what this way cannot do; empty for the native one.
        metrics_path: Where its Prometheus text is.
    """

    kind: EngineKind
    version: str
    program: tuple[str, ...]
    flags: EngineFlags
    env: Mapping[str, str] = field(default_factory=dict)
    place: str = ""
    notice: str = ""
    metrics_path: str | None = "/metrics"
    health_path: str = "/health"
    listens_on_sockets: bool = True

    @property
    def label(self) -> str:
        """Name, version and place, such as ``llama-server b7000 (/usr/bin/llama-server)``."""
        name = f"{self.kind} {self.version}".strip()
        return f"{name} ({self.place})" if self.place else name

    def diagnose(self, exit_code: int | None, tail: Sequence[str]) -> Diagnosis:
        """Tell a configuration error from a crash."""
        return diagnose(exit_code, tail)

    def is_noise(self, line: str) -> bool:
        """Whether a line of its output is about one request, or about what the gateway does for it."""
        return is_noise(line)

    def loading_step(self, line: str) -> str:
        """Nothing: it tells in dots what others tell in words, and is ready within seconds."""
        return ""

    def check(self, where: str, model: ModelOptions, settings: AnySettings) -> list[Problem]:
        """Problems of CLI with the flags of this engine; `Problem.path` holds the bare field name."""
        parsed = read_cli(as_llamacpp(model), self.flags)
        return [Problem(problem, title="CLI", path="cli") for problem in parsed.problems]

    def command(self, plan: ModelPlan, settings: AnySettings) -> EngineCommand:
        """Write the command for one model. Of an embedding model it reads the file's header."""
        return write_server_command(
            plan, self.program, self.flags, env=self.env, pooling=_missing_pooling(plan)
        )

    def offloads(
        self, plan: ModelPlan, settings: AnySettings, machine: MachineFacts
    ) -> EngineOffloads:
        """The driver's checkpoint, where models take turns on NVIDIA GPUs."""
        memory = settings.memory
        if not machine.gpus or not (memory.cpu_offloading or memory.disk_swapping):
            return EngineOffloads()
        environ = {**machine.environ, **self.command(plan, settings).env}
        obstacle = checkpoint_obstacle(machine, environ)
        if obstacle is None:
            return EngineOffloads(asleep=(CudaCheckpoint(),))
        note = f"The driver cannot put the engine aside: {obstacle}; it is stopped instead."
        return EngineOffloads(notes=(note,) if memory.cpu_offloading else ())

    def cache_hooks(
        self, plan: ModelPlan, settings: AnySettings, report: Callable[[str], None]
    ) -> CacheHooks | None:
        """Saves and restores its slots, where "Save Prompt Cache" is on and the engine can."""
        options = as_llamacpp(plan.options)
        if (
            not options.save_prompt_cache
            or plan.cache_folder is None
            or prompt_cache_obstacle(options, self.flags) is not None
        ):
            return None
        return PromptCache(plan.cache_folder, plan.files, lambda: _bytes_per_token(plan), report)


def _bytes_per_token(plan: ModelPlan) -> float:
    """What a token takes of a model's KV cache; reads its files' headers."""
    shape = read_shape(read_model(plan.files))
    asked = read_request(as_llamacpp(plan.options), shape).request
    sample = 4096
    return sum(kv_bytes_by_layer(shape, replace(asked, context=sample, slots=1))) / sample


def engine_environment(inherited: Mapping[str, str], **needed: str) -> dict[str, str]:
    """Put together the variables of an engine: those it needs, and thrifty OpenMP threads.

    Args:
        inherited: The worker's environment; what it says about OpenMP is left alone.
        needed: Variables of this way to run it.
    """
    spin = {} if any(name in inherited for name in _SPIN_RIVALS) else dict([_SPIN])
    return {**spin, **needed}


def prepend_path(value: Path, inherited: str | None) -> str:
    """Put a folder before those of a path variable."""
    return os.pathsep.join([str(value), *([inherited] if inherited else [])])


def _missing_pooling(plan: ModelPlan) -> str | None:
    """How to pool an embedding when the model's file does not say: by the mean of its tokens.

    Text models name no pooling, and /v1/embeddings answers an error without one. Models made for
    embeddings name theirs (`pooling_type`: 1 mean, 2 first token, 3 last), which must stay.
    """
    options = as_llamacpp(plan.options)
    if not options.embedding or options.cli is not None or not plan.files[0].is_file():
        return None
    try:
        header = read_header(plan.files[0])
    except ModelError:
        return None  # reported where the files are checked
    return None if header.number(f"{header.architecture}.pooling_type") else "mean"
