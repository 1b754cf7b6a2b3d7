"""What the console tells of a model's files, before an engine sees them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from apps.llamacpp.asked_memory import read_request
from apps.llamacpp.memory_fit import Fitted
from apps.llamacpp.options import LlamaCppModel
from common.models.footprint import ModelShape
from common.models.gguf import GgufHeader
from common.models.progress import render_gib


def describe(
    options: LlamaCppModel, head: GgufHeader, shape: ModelShape, fitted: Fitted
) -> Iterator[str]:
    """Lines for the console: what the model is, what it takes, and what is odd about it."""
    need = fitted.need
    asked = replace(read_request(options, shape), request=fitted.request)
    name = head.text("general.name") or head.path.name
    size = render_gib(shape.weights_bytes)
    yield f"{name}: {shape.architecture}, {shape.layers} layers, {size} of weights"
    gpu = f", {render_gib(need.gpu_bytes)} on the GPU" if need.gpu_bytes else ""
    slots = f" x {asked.request.slots} slots" if asked.request.slots > 1 else ""
    shared = ", shared by the slots" if asked.is_open else ""
    yield (
        f"context {asked.request.context:,} tokens{slots}{shared}; "
        f"expected memory {render_gib(need.host_bytes)}{gpu}"
    )
    yield from fitted.lines
    trained = shape.trained_context
    stretches = any(
        value is not None
        for value in (
            options.rope_scaling,
            options.rope_frequency_scale,
            options.rope_frequency_base,
        )
    )
    if trained and asked.request.context > trained and not stretches:
        yield (
            f'WARNING: "Context Size" is {asked.request.context:,} and the model was trained with '
            f"{trained:,} tokens: answers degrade beyond that"
        )
    is_pooled = bool(head.number(f"{head.architecture}.pooling_type"))
    if (is_pooled or not shape.has_cache) and options.cli is None and not options.embedding:
        yield (
            'WARNING: this is an embedding model; it cannot chat. Switch "Embedding" on to serve '
            "/v1/embeddings"
        )
