"""One model as the inspection sees it, and whether it fits into host RAM, of a CPU build. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apps.vllm.facts import EngineFacts
from apps.vllm.machine import CPU_CACHE
from apps.vllm.model_memory import kv_bytes_per_token
from apps.vllm.passed_flags import PassedFlags
from common.errors import CapacityError
from common.models.memory import AvailableMemory, MemoryNeed
from common.models.progress import render_gib

_GIB = 2**30

HOST_OVERHEAD = 3 * _GIB // 2
"""What the processes of a tiny model hold beside its KV cache (1.34 GiB measured), and a little."""


@dataclass(frozen=True)
class InspectedModel:
    """One model: what its engine is given, what the form calls that, what its files say.

    Attributes:
        name: Its endpoint name.
        flags: What the engine is given.
        titles: The form's titles, by flag.
        config: The model's ``config.json``.
        weights_bytes: Its weights once loaded, at least.
        tokens: The context that the engine makes room for; None: it is left to the engine.
    """

    name: str
    flags: PassedFlags
    titles: Mapping[str, str]
    config: Mapping[str, Any]
    weights_bytes: int
    tokens: int | None

    @property
    def request_bytes(self) -> int | None:
        """KV cache of one request that uses the whole context; None where it cannot be told."""
        each = kv_bytes_per_token(self.config, self.flags)
        return None if each is None or self.tokens is None else each * self.tokens

    def title(self, flag: str) -> str:
        """What the form calls a flag's field."""
        return self.titles.get(flag, flag)


def need_of_host(model: InspectedModel, memory: AvailableMemory, facts: EngineFacts) -> MemoryNeed:
    """What a CPU build takes.

    Raises:
        CapacityError: More than there is.
    """
    # Where the worker's environment says it, the facts do not.
    said = os.environ.get(CPU_CACHE, "")
    cache = int((facts.kv_cache_gib or (int(said) if said.isdigit() else 0)) * _GIB)
    request = model.request_bytes
    if cache and request and request > cache:
        fitting = (model.tokens or 0) * cache // request
        raise CapacityError(
            f"{model.name}: one request with the whole context of {model.tokens:,} tokens needs "
            f"{render_gib(request)} of KV cache, and {render_gib(cache)} of host memory are set "
            f'aside for it ({CPU_CACHE}). Set "{model.title("--max-model-len")}" to '
            f"{fitting // 16 * 16:,} or less, or give the cache more."
        )
    # Every worker has its part of the weights, and a cache of its own.
    workers = model.flags.whole("--tensor-parallel-size", 1)
    need = model.weights_bytes + cache * workers + HOST_OVERHEAD
    if need > memory.host_bytes:
        raise CapacityError(
            f"{model.name} does not fit into this machine's memory: weights "
            f"{render_gib(model.weights_bytes)}, KV cache {render_gib(cache * workers)} and "
            f"{render_gib(HOST_OVERHEAD)} for vLLM itself are {render_gib(need)}, and "
            f"{render_gib(memory.host_bytes)} can be had. Use a smaller model, a smaller KV cache "
            f"({CPU_CACHE}, in GiB), or a machine with more memory."
        )
    return MemoryNeed(need, 0)
