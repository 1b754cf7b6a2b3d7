"""The memory that vLLM needs for a model, from its configuration and the headers of its files. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.vllm.facts import Build
from apps.vllm.model_config import text_config
from apps.vllm.passed_flags import PassedFlags
from common.models.safetensors import StoredTensor

# Types of weights as safetensors names them, and the bytes of one number.
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_DTYPE_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
_CACHE_BYTES = {"bfloat16": 2.0, "float16": 2.0, "half": 2.0}
# What a layer of these keeps per token is not a plain pair of key and value.
_OTHER_CACHES = (
    *("kv_lora_rank", "layers_block_type", "attn_layer_indices", "block_types"),
    *("sliding_window_pattern", "hybrid_override_pattern", "attn_type_list", "ssm_cfg"),
    *("cache_type", "linear_num_key_heads", "mamba_d_state", "attention_chunk_size"),
)
# With these, vLLM makes the weights smaller while it loads them, by this at most.
_SMALLEST_QUANTIZED = 4


def loaded_bytes(
    tensors: Mapping[str, StoredTensor], flags: PassedFlags, config: Mapping[str, Any], build: Build
) -> int:
    """What the weights take once loaded, at least.

    Numbers of 32 and 64 bits become 16-bit ones, as "Dtype" says or by itself; packed ones stay.

    Args:
        tensors: The headers of the model's files.
        flags: What the engine is given.
        config: The model's ``config.json``.
        build: Of the vLLM that loads it.
    """
    width = _DTYPE_BYTES.get(flags.text("--dtype") or "", 0)
    if build == "cpu" and not width:
        width = 2  # what is not known counts as the smallest
    total = sum(_loaded(tensor, width) for tensor in tensors.values())
    if "--quantization" in flags and not config.get("quantization_config"):
        return total // _SMALLEST_QUANTIZED
    return total


def kv_bytes_per_token(config: Mapping[str, Any], flags: PassedFlags) -> int | None:
    """KV cache of one token over all layers, at least.

    Returns:
        None where the model's layers keep something else (latent attention, windows, states), or a
        flag may change them.
    """
    text = text_config(config)
    if flags.changes_config or any(text.get(key) for key in _OTHER_CACHES):
        return None
    if set(text.get("layer_types") or ()) - {"full_attention"}:
        return None
    if text.get("sliding_window") and text.get("use_sliding_window", True):
        return None
    layers, heads, hidden = (
        _whole(text.get(key)) for key in ("num_hidden_layers", "num_attention_heads", "hidden_size")
    )
    if not layers or not heads or not hidden or "num_key_value_heads" not in text:
        return None
    kv_heads = _whole(text["num_key_value_heads"]) or heads
    size = _whole(text.get("head_dim")) or hidden // heads
    return int(2 * layers * kv_heads * size * _cache_width(flags))


def _loaded(tensor: StoredTensor, width: int) -> int:
    own = _FLOATS.get(tensor.dtype)
    if own is None:
        return tensor.size_bytes
    return tensor.elements * (width or min(own, 2))


def _cache_width(flags: PassedFlags) -> float:
    given = flags.text("--kv-cache-dtype")
    if given not in (None, "auto"):
        return _CACHE_BYTES.get(str(given), 0.5 if "4" in str(given)[:4] else 1.0)
    return 4.0 if flags.text("--dtype") in ("float32", "float") else 2.0


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
