"""Settings, plans and flag tables for the tests of the llama.cpp app."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apps.llamacpp.app import app
from apps.llamacpp.engines.discovery import stand_in
from apps.llamacpp.engines.installed import EngineKind, LlamaCppEngine
from apps.llamacpp.flags import EngineFlags, parse_help
from apps.llamacpp.options import LlamaCppSettings
from common.engines.contract import EngineAddress, EngineCommand
from common.options.loading import load_settings
from common.runtime.app import ModelPlan

KINDS: tuple[EngineKind, ...] = ("llama-server", "xllamacpp", "llama_cpp.server")

# A server of 2024: switches without values, negative names only, one name for the page's switch.
OLD_HELP = """\
----- common params -----

-h,    --help, --usage                  say this
-t,    --threads N                      threads
                                        (env: LLAMA_ARG_THREADS)
-c,    --ctx-size N                     context
-fa,   --flash-attn                     flash attention
                                        (env: LLAMA_ARG_FLASH_ATTN)
-nkvo, --no-kv-offload                  keep the cache off the GPU
-dt,   --defrag-thold N                 defragment (default: 0.1)
--mlock                                 lock
--no-mmap                               do not map
--numa TYPE                             distribute, isolate, numactl
-ngl,  --gpu-layers, --n-gpu-layers N   layers
-ub,   --ubatch-size N                  physical batch
-m,    --model FNAME                    model

----- example-specific params -----

--temp N                                temperature
-np,   --parallel N                     slots
-cb,   --cont-batching                  batch continuously
-nocb, --no-cont-batching               do not
-a,    --alias STRING                   name
--host HOST                             where
--port PORT                             port
--no-webui                              no page
--embedding, --embeddings               embeddings
--pooling {none,mean,cls,last,rank}     pooling
--metrics                               metrics
--draft N                               the argument has been removed
"""


def load(**parameters: Any) -> LlamaCppSettings:
    """Settings of one model; ``temperature="0.5"`` is ``Model/temperature``, others by full path."""
    given = {"model": "/models/a.gguf", **parameters}
    paths = {name if "/" in name else f"Model/{name}": value for name, value in given.items()}
    return load_settings(app().settings, paths).settings


def plan_of(settings: LlamaCppSettings, **changes: Any) -> ModelPlan:
    """The plan of its first model."""
    values: dict[str, Any] = {
        "name": "tiny",
        "options": settings.models[0],
        "path": Path("/models/a.gguf"),
        "files": (Path("/models/a.gguf"),),
        "address": EngineAddress(socket_path=Path("/run/e.sock")),
        "threads": 3,
        **changes,
    }
    return ModelPlan(**values)


def engine(kind: EngineKind = "llama-server", help_text: str | None = None) -> LlamaCppEngine:
    """An engine known by its flags alone; `help_text` is that of another version."""
    found = stand_in(kind, {})
    if help_text is None:
        return found
    return LlamaCppEngine(kind, "old", ("llama-server",), EngineFlags(parse_help(help_text)))


def write(kind: EngineKind = "llama-server", **parameters: Any) -> EngineCommand:
    """The command for these parameters."""
    settings = load(**parameters)
    return engine(kind).command(plan_of(settings), settings)


def value_of(command: EngineCommand, flag: str) -> str | None:
    """The argument behind a flag; None where the flag is missing."""
    argv = list(command.argv)
    return argv[argv.index(flag) + 1] if flag in argv else None
