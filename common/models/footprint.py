"""How much memory a model will need, from its own metadata, before an engine is started.

The estimate is pure arithmetic over the GGUF header. Its three parts follow llama.cpp:

* **Weights**: the bytes of the tensors, `n_elements / block * bytes per block` for each.
* **KV cache**: for each layer with attention,
  `cells * (head_count_kv * key_length * bytes(K) + head_count_kv * value_length * bytes(V))`, where
  `cells` is the context of all slots together, rounded up to 256 (`llama_kv_cache`: one K and one
  V tensor per layer of `n_embd_k_gqa` and `n_embd_v_gqa` by `kv_size`). Quantised cache types count
  by their blocks. In a layer with a sliding window the cells are at most
  `slots * window + ubatch`, rounded up (`llama_kv_cache_iswa`); where a model has a window and does
  not say which layers use it, all count in full: too much rather than too little.
  Recurrent layers hold a state instead, `(conv_kernel - 1) * (inner_size + 2 * group_count *
  state_size) + inner_size * state_size` floats per slot (Mamba) or
  `embedding_length * (head_size + token_shift_count)` (RWKV), the same for every context.
* **Compute buffer**: the activations of one micro-batch in 32-bit floats,
  `ubatch * 4 * (3 * feed_forward_length + 6 * embedding_length)` (with experts: the feed-forward
  length of those that are used together), the attention mask in 16 bits, `ubatch * cells * 2`,
  without flash attention the scores, `ubatch * cells * head_count * 4`, and the logits of each
  slot, `slots * vocabulary * 8`. The coefficients are an upper bound of what llama.cpp's scheduler
  reserved in measurements (its line "compute buffer size"); the tests hold some of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.errors import ModelFormatError
from common.models.gguf import GgufHeader, Value

# Bytes of one element of a cache, by the engine's names of the types.
CACHE_TYPES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
CONTEXT_STEP = 256

# Every n-th layer of these attends to the whole context, the others to the window. Newer files say
# it themselves (`attention.sliding_window_pattern`); these are llama.cpp's for those that do not.
_WINDOW_PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2, "exaone4": 4}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a model needs while it serves."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        """All three together."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes


@dataclass(frozen=True)
class CacheRequest:
    """What the settings ask of the memory beside the weights.

    Attributes:
        context: Tokens per request (per slot).
        slots: Requests that are served at once.
        cache_type_k: Type of the K cache.
        cache_type_v: Type of the V cache.
        ubatch: Tokens per micro-batch.
        flash_attention: Whether the scores are never stored whole; the engine's default.
    """

    context: int
    slots: int = 1
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    ubatch: int = 512
    flash_attention: bool = True

    @property
    def cells(self) -> int:
        """Cells of the cache, all slots together, in the engine's steps."""
        return -(-self.context * self.slots // CONTEXT_STEP) * CONTEXT_STEP


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a model that memory depends on.

    Attributes:
        layer_bytes: Bytes of the tensors of each layer.
        output_bytes: Bytes of the output tensors, which go to the GPU after the last layer.
        input_bytes: Bytes of the token embeddings and all else, which stay in the host's memory.
        tied_bytes: Bytes of the embeddings where they are the output too: a GPU gets a second copy.
        kv_heads: Heads of the KV cache of each layer; 0 where a layer has none.
        windows: Sliding window of each layer in tokens; 0 = the whole context.
    """

    architecture: str
    layer_bytes: tuple[int, ...]
    output_bytes: int
    input_bytes: int
    tied_bytes: int
    kv_heads: tuple[int, ...]
    windows: tuple[int, ...]
    key_length: int
    value_length: int
    state_bytes_per_slot: int
    heads: int
    embedding_length: int
    feed_forward_length: int
    vocabulary: int
    trained_context: int | None
    has_cache: bool

    @property
    def layers(self) -> int:
        """Number of layers (``block_count``)."""
        return len(self.layer_bytes)

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(self.layer_bytes) + self.output_bytes + self.input_bytes


def read_shape(parts: Sequence[GgufHeader]) -> ModelShape:
    """Take the shape of a model from the headers of its parts, the first part first.

    Raises:
        ModelFormatError: The metadata lacks the number of layers or their width.
    """
    head = parts[0]
    arch = head.architecture
    layers = head.number(f"{arch}.block_count") or 0
    width = head.number(f"{arch}.embedding_length") or 0
    if not 0 < layers <= 65_536 or width <= 0:
        raise ModelFormatError(
            f"{head.path.name} does not say how many layers ({arch}.block_count) of which width "
            f"({arch}.embedding_length) it has, as a language model does. Is it one?"
        )
    heads = _per_layer(head.metadata.get(f"{arch}.attention.head_count"), layers, 0)
    most_heads = max(heads)
    kv_heads = _per_layer(head.metadata.get(f"{arch}.attention.head_count_kv"), layers, heads)
    head_length = width // most_heads if most_heads else 0
    layer_bytes, output_bytes, input_bytes = _tensor_bytes(parts, layers)
    experts = (head.number(f"{arch}.expert_feed_forward_length") or 0) * (
        head.number(f"{arch}.expert_used_count") or 0
    )
    forward = _per_layer(
        head.metadata.get(f"{arch}.feed_forward_length"), layers, experts or 4 * width
    )
    return ModelShape(
        architecture=arch,
        layer_bytes=layer_bytes,
        output_bytes=output_bytes,
        input_bytes=input_bytes,
        tied_bytes=_tied_bytes(parts),
        kv_heads=kv_heads,
        windows=_windows(head, layers),
        key_length=head.number(f"{arch}.attention.key_length") or head_length,
        value_length=head.number(f"{arch}.attention.value_length") or head_length,
        state_bytes_per_slot=_state_bytes(head, kv_heads, width),
        heads=most_heads,
        embedding_length=width,
        feed_forward_length=max(*forward, experts),
        vocabulary=_vocabulary(head),
        trained_context=head.context_length,
        # Encoders (embedding models such as BERT) attend in both directions and keep no cache.
        has_cache=head.metadata.get(f"{arch}.attention.causal") is not False,
    )


def estimate_memory(shape: ModelShape, request: CacheRequest) -> MemoryEstimate:
    """Estimate what the model needs at this context. Pure; the module's docstring has the formula.

    Raises:
        ValueError: An unknown cache type (the options refuse those before).
    """
    return MemoryEstimate(
        weights_bytes=shape.weights_bytes,
        kv_bytes=sum(kv_bytes_by_layer(shape, request))
        + shape.state_bytes_per_slot * request.slots,
        compute_bytes=_compute_bytes(shape, request),
    )


def kv_bytes_by_layer(shape: ModelShape, request: CacheRequest) -> tuple[int, ...]:
    """Bytes of the KV cache of each layer, recurrent state left out."""
    for name in (request.cache_type_k, request.cache_type_v):
        if name not in CACHE_TYPES:
            raise ValueError(f"unknown cache type {name!r}; known: {', '.join(CACHE_TYPES)}")
    if not shape.has_cache:
        return (0,) * shape.layers
    per_head = (
        shape.key_length * CACHE_TYPES[request.cache_type_k]
        + shape.value_length * CACHE_TYPES[request.cache_type_v]
    )
    cells = []
    for window in shape.windows:
        windowed = window * request.slots + request.ubatch
        padded = -(-windowed // CONTEXT_STEP) * CONTEXT_STEP
        cells.append(min(request.cells, padded) if window else request.cells)
    return tuple(
        math.ceil(count * heads * per_head)
        for count, heads in zip(cells, shape.kv_heads, strict=True)
    )


def with_context(request: CacheRequest, context: int) -> CacheRequest:
    """Return the same request at another context."""
    return replace(request, context=context)


def _compute_bytes(shape: ModelShape, request: CacheRequest) -> int:
    ubatch = min(request.ubatch, request.cells)
    step = 3 * shape.feed_forward_length + 6 * shape.embedding_length
    cells = request.cells if shape.has_cache else ubatch
    mask = ubatch * cells * 2
    scores = 0 if request.flash_attention else ubatch * cells * shape.heads * 4
    logits = request.slots * shape.vocabulary * 8
    return ubatch * 4 * step + mask + scores + logits


def _per_layer(value: Value | None, layers: int, default: int | tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(value, tuple) and value:
        numbers = [int(item) for item in value[:layers]]
        return (*numbers, *([numbers[-1]] * (layers - len(numbers))))
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,) * layers
    return default if isinstance(default, tuple) else (default,) * layers


def _windows(head: GgufHeader, layers: int) -> tuple[int, ...]:
    arch = head.architecture
    window = head.number(f"{arch}.attention.sliding_window") or 0
    if not window:
        return (0,) * layers
    pattern = head.metadata.get(f"{arch}.attention.sliding_window_pattern")
    if isinstance(pattern, tuple) and len(pattern) >= layers:
        return tuple(window if flag else 0 for flag in pattern[:layers])
    period = pattern if isinstance(pattern, int) and not isinstance(pattern, bool) else 0
    period = period or _WINDOW_PERIODS.get(arch, 0)
    if period <= 1:
        return (0,) * layers
    return tuple(0 if (layer + 1) % period == 0 else window for layer in range(layers))


def _state_bytes(head: GgufHeader, kv_heads: tuple[int, ...], width: int) -> int:
    arch = head.architecture
    inner = head.number(f"{arch}.ssm.inner_size") or 0
    state = head.number(f"{arch}.ssm.state_size") or 0
    floats = 0
    if inner and state:
        groups = head.number(f"{arch}.ssm.group_count") or 0
        kernel = head.number(f"{arch}.ssm.conv_kernel") or 1
        floats = (kernel - 1) * (inner + 2 * groups * state) + inner * state
    elif head_size := head.number(f"{arch}.wkv.head_size"):
        floats = width * (head_size + (head.number(f"{arch}.token_shift_count") or 2))
    if not floats:
        return 0
    # Hybrids mark their recurrent layers by having no KV heads; where none is marked, each layer
    # has both (Falcon-H1) or is recurrent (Mamba).
    recurrent = sum(1 for count in kv_heads if count == 0) or len(kv_heads)
    return recurrent * floats * 4


def _vocabulary(head: GgufHeader) -> int:
    tokens = head.metadata.get("tokenizer.ggml.tokens")
    count = getattr(tokens, "count", 0) or (len(tokens) if isinstance(tokens, tuple) else 0)
    return head.number(f"{head.architecture}.vocab_size") or count


def _tensor_bytes(parts: Sequence[GgufHeader], layers: int) -> tuple[tuple[int, ...], int, int]:
    by_layer = [0] * layers
    output = other = 0
    known = 0
    for part in parts:
        for tensor in part.tensors:
            size = tensor.n_bytes or 0
            known += size
            prefix, _, rest = tensor.name.partition(".")
            number = rest.partition(".")[0]
            if prefix == "blk" and number.isdigit() and int(number) < layers:
                by_layer[int(number)] += size
            elif prefix.startswith("output"):
                output += size
            else:
                other += size
    # Tensors of a type that is not in the table count by what the file has beyond the known ones.
    unknown = max(sum(part.data_bytes for part in parts) - known, 0)
    if any(tensor.n_bytes is None for part in parts for tensor in part.tensors):
        share, rest_bytes = divmod(unknown, layers)
        by_layer = [size + share for size in by_layer]
        other += rest_bytes
    return tuple(by_layer), output, other


def _tied_bytes(parts: Sequence[GgufHeader]) -> int:
    sizes = {tensor.name: tensor.n_bytes or 0 for part in parts for tensor in part.tensors}
    return 0 if "output.weight" in sizes else sizes.get("token_embd.weight", 0)
