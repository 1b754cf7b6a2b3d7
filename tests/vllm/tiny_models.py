"""Models for the tests of vLLM, made on the spot with the standard library alone.

A Llama of two layers with random weights (the same for the same seed), a tokenizer of single bytes,
a chat template; a LoRA adapter for it in PEFT's layout; and damaged ones. Nothing that such a model
says makes sense, and all that is around it is real.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HIDDEN = 64
HEADS = 2
LAYERS = 2
INTERMEDIATE = 128
CONTEXT = 512
SPECIAL = ("<s>", "</s>", "<|user|>", "<|assistant|>")
VOCABULARY = 256 + len(SPECIAL)
RANK = 8

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

Shape = tuple[int, ...]


def make_model(folder: Path, *, seed: int = 0, layers: int = LAYERS, **config: Any) -> Path:
    """A whole model in `folder`; `config` replaces values of its ``config.json`` (None removes one)."""
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "num_hidden_layers": layers,
        "max_position_embeddings": CONTEXT,
        "vocab_size": VOCABULARY,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 256,
        "eos_token_id": 257,
        **config,
    }
    written = {name: value for name, value in values.items() if value is not None}
    _write_json(folder / "config.json", written)
    write_tokenizer(folder)
    write_safetensors(folder / "model.safetensors", model_tensors(layers), seed=seed)
    return folder


def make_adapter(folder: Path, *, seed: int = 1, rank: int = RANK, base: str = "base") -> Path:
    """A LoRA adapter for `make_model`'s models, strong enough to change every answer."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": rank,
            "lora_alpha": 8 * rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": ["q_proj", "v_proj"],
        },
    )
    tensors: dict[str, Shape] = {}
    for layer in range(LAYERS):
        for name in ("q_proj", "v_proj"):
            start = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{start}.lora_A.weight"] = (rank, HIDDEN)
            tensors[f"{start}.lora_B.weight"] = (HIDDEN, rank)
    write_safetensors(folder / "adapter_model.safetensors", tensors, seed=seed, scale=0.5)
    return folder


def model_tensors(layers: int = LAYERS) -> dict[str, Shape]:
    """The tensors of a Llama, by name, with their shapes."""
    tensors: dict[str, Shape] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }
    for layer in range(layers):
        start = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{start}.self_attn.{name}.weight"] = (HIDDEN, HIDDEN)
        tensors[f"{start}.mlp.gate_proj.weight"] = (INTERMEDIATE, HIDDEN)
        tensors[f"{start}.mlp.up_proj.weight"] = (INTERMEDIATE, HIDDEN)
        tensors[f"{start}.mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
        tensors[f"{start}.input_layernorm.weight"] = (HIDDEN,)
        tensors[f"{start}.post_attention_layernorm.weight"] = (HIDDEN,)
    return tensors


def write_safetensors(
    path: Path, tensors: Mapping[str, Shape], *, seed: int = 0, scale: float = 0.2
) -> Path:
    """Write random tensors as bfloat16; those of one dimension (norms) are ones."""
    rng = random.Random(seed)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, shape in tensors.items():
        start = len(data)
        data += _values(rng, shape, scale)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, len(data)]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return path


def split_weights(folder: Path, parts: int = 2) -> list[Path]:
    """Write a model's weights again as shards with an index, instead of as one file."""
    (folder / "model.safetensors").unlink()
    names = list(model_tensors())
    index: dict[str, str] = {}
    files = []
    for part in range(parts):
        name = f"model-{part + 1:05d}-of-{parts:05d}.safetensors"
        mine = {tensor: model_tensors()[tensor] for tensor in names[part::parts]}
        files.append(write_safetensors(folder / name, mine, seed=part))
        index |= dict.fromkeys(mine, name)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    return files


def write_tokenizer(folder: Path, *, template: str | None = CHAT_TEMPLATE) -> None:
    """Write a tokenizer whose tokens are the 256 bytes and a few marks."""
    vocabulary = {char: number for number, char in enumerate(_byte_characters())}
    added = [
        {
            "id": 256 + number,
            "content": content,
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
            "special": True,
        }
        for number, content in enumerate(SPECIAL)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    _write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "added_tokens": added,
            "pre_tokenizer": {**level, "use_regex": False},
            "decoder": {**level, "use_regex": False},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        },
    )
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "model_max_length": CONTEXT,
    }
    if template is not None:
        settings["chat_template"] = template
    _write_json(folder / "tokenizer_config.json", settings)


def _values(rng: random.Random, shape: Sequence[int], scale: float) -> bytes:
    count = 1
    for size in shape:
        count *= size
    numbers = [1.0] * count if len(shape) == 1 else [rng.gauss(0, scale) for _ in range(count)]
    # A bfloat16 is the upper half of a 32-bit float.
    floats = struct.pack(f"<{count}f", *numbers)
    return b"".join(floats[at + 2 : at + 4] for at in range(0, len(floats), 4))


def _byte_characters() -> list[str]:
    """One printable character for each byte, as byte-level tokenizers of GPT-2's kind have them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
