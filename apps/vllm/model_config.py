"""What a model's ``config.json`` says against the settings: before its weights are fetched. Pure.

vLLM's own rules, of all versions together: where they differ, or where a setting changes the
configuration itself, nothing is judged here and the engine has the last word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from apps.vllm.request import EngineRequest, Given
from common.errors import Problem
from common.options.settings import ModelOptions
from common.runtime.app import AnySettings

_LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
    *("max_target_positions", "max_sequence_length", "max_seq_length", "seq_len"),
)
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
# These have the scaled length in their configuration already, or scale it in a way of their own.
_UNSCALED = {None, "default", "su", "longrope", "llama3", "mrope"}
_GENERATING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
# Each of these replaces parts of the model's configuration.
_CHANGES = ("--hf-overrides", "--config-format", "--hf-config-path")
_ROPE_CHANGES = ("--rope-scaling", "--rope-theta")
_ALLOW_LONG = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"


@dataclass(frozen=True)
class ContextLimit:
    """The longest context that a model takes, and the key of its configuration that says so."""

    tokens: int
    key: str


class _Asked:
    """The engine options that the form decides; what CLI or Model Overrides decide is not known here."""

    def __init__(self, model: ModelOptions, settings: AnySettings) -> None:
        self._request = EngineRequest(model, settings)
        self.has_cli = self._request.cli is not None
        names = () if self.has_cli else self._request.overrides
        self._overridden = {f"--{str(name).lstrip('-').replace('_', '-')}" for name in names}

    def find(self, flag: str) -> Given | None:
        """The field that decides a flag; None when it is not set, or something else decides."""
        found = self._request.of(flag)
        return found[0] if found and self.is_decided(flag) else None

    def value(self, flag: str) -> Any:
        """Its value, None likewise."""
        found = self.find(flag)
        return found.value if found else None

    def is_decided(self, flag: str) -> bool:
        """Whether the form has the last word about a flag."""
        return not self.has_cli and flag not in self._overridden

    def changes_config(self) -> bool:
        """Whether a setting may change what the model's configuration says."""
        return self.has_cli or any(
            not self.is_decided(flag) or self.find(flag) is not None for flag in _CHANGES
        )


def check_model_config(
    where: str,
    model: ModelOptions,
    settings: AnySettings,
    config: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
) -> list[Problem]:
    """Problems that a repository's ``config.json`` tells, before its weights are fetched.

    Args:
        where: Where the model is among the settings.
        model: The model.
        settings: The settings of the instance.
        config: The repository's ``config.json``.
        environ: The worker's environment; None: this process's.

    Returns:
        Only what is certain; `Problem.path` is the bare name of a model's own field, else
        ``Section/name``.
    """
    asked = _Asked(model, settings)
    allow_long = (os.environ if environ is None else environ).get(_ALLOW_LONG, "0") != "0"
    return [
        *_architecture_problems(asked, config),
        *([] if allow_long else _context_problems(asked, config)),
        *_parallel_problems(asked, config),
    ]


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part about the language model: of a multimodal model one of its parts."""
    for name in _TEXT_PARTS:
        part = config.get(name)
        if isinstance(part, Mapping):
            return text_config(part)
    return config


def context_limit(
    config: Mapping[str, Any], *, without_window: bool = False
) -> ContextLimit | None:
    """The longest context that vLLM takes for a model; None where its configuration does not tell.

    Args:
        config: The model's ``config.json``.
        without_window: Whether the sliding window is disabled, which limits the context to it.
    """
    text = text_config(config)
    found = {key: tokens for key in _LENGTHS if (tokens := _number(text.get(key)))}
    if not found:
        return None
    key = min(found, key=lambda name: found[name])
    tokens = found[key]
    window = _number(text.get("sliding_window")) if text.get("use_sliding_window", True) else 0
    if without_window and window and window < tokens:
        key, tokens = "sliding_window", window
    for rope in _ropes(text):
        tokens = max(tokens, _scaled(rope, tokens))
    own = _number(text.get("model_max_length"))
    if own > tokens:
        key, tokens = "model_max_length", own
    return ContextLimit(int(tokens), key)


def attention_heads(config: Mapping[str, Any]) -> int | None:
    """How many attention heads a model has, where its configuration says."""
    text = text_config(config)
    for key in ("num_attention_heads", "n_head", "n_heads"):
        if heads := _number(text.get(key)):
            return int(heads)
    return None


def _architecture_problems(asked: _Asked, config: Mapping[str, Any]) -> Iterator[Problem]:
    # Without `architectures`, newer versions conclude them from the model's type.
    if (
        asked.changes_config()
        or config.get("architectures")
        or text_config(config).get("model_type")
    ):
        return
    yield Problem(
        "its config.json names no architecture: neither `architectures` nor `model_type` is in it, by "
        'which vLLM chooses how to load it. Correct the file, or set "HF Overrides" to '
        '{"architectures": ["..."]}',
        path="model",
    )


def _context_problems(asked: _Asked, config: Mapping[str, Any]) -> Iterator[Problem]:
    field = asked.find("--max-model-len")
    if field is None or asked.changes_config() or not _generates(config):
        return
    if any(asked.find(flag) is not None or not asked.is_decided(flag) for flag in _ROPE_CHANGES):
        return
    tokens = int(field.value) if str(field.value).isdigit() else None
    without_window = bool(asked.value("--disable-sliding-window"))
    limit = context_limit(config, without_window=without_window)
    if tokens is None or limit is None or tokens <= limit.tokens:
        return
    yield Problem(
        f"is above the model's own {limit.tokens:,} ({limit.key} in its config.json). Set "
        f"{limit.tokens} or less, stretch the model with RoPE scaling, or set {_ALLOW_LONG}=1 in "
        "the worker's environment to take the risk of wrong answers and crashes",
        path=_path(field),
        value=field.value,
    )


def _parallel_problems(asked: _Asked, config: Mapping[str, Any]) -> Iterator[Problem]:
    field = asked.find("--tensor-parallel-size")
    if field is None or asked.changes_config():
        return
    if message := parallel_problem(config, int(field.value)):
        yield Problem(message, path=_path(field), value=field.value)


def _path(field: Given) -> str:
    return field.option.name if field.option.per_model else field.option.path


def parallel_problem(config: Mapping[str, Any], gpus: int) -> str | None:
    """Why a model cannot be split over so many GPUs, in words; None when nothing is against it."""
    heads = attention_heads(config)
    if not heads or gpus <= 1 or heads % gpus == 0:
        return None
    fitting = [str(count) for count in range(1, min(heads, 16) + 1) if heads % count == 0]
    return (
        f"does not divide the model's {heads} attention heads, so that it cannot be split over "
        f"{gpus} GPUs. Choose one of {', '.join(fitting)}"
    )


def _generates(config: Mapping[str, Any]) -> bool:
    """Whether every architecture is a language model: others have lengths beside config.json."""
    names = config.get("architectures")
    return bool(names) and all(str(name).endswith(_GENERATING) for name in names or ())


def _ropes(text: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key in ("rope_scaling", "rope_parameters"):
        rope = text.get(key)
        if isinstance(rope, Mapping):
            yield rope
            # Models with several kinds of layers have one for each.
            yield from (part for part in rope.values() if isinstance(part, Mapping))


def _scaled(rope: Mapping[str, Any], tokens: float) -> float:
    """The largest context that some version makes of it: they differ on YaRN."""
    factor = _number(rope.get("factor"))
    if rope.get("rope_type", rope.get("type")) in _UNSCALED or not factor:
        return tokens
    original = _number(rope.get("original_max_position_embeddings"))
    return max(tokens, original) * max(factor, 1.0)


def _number(value: Any) -> float:
    """A positive number of a configuration; 0 where there is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and value > 0 else 0.0
