"""Speculative decoding: the fields of 0.7.2 as flags, or as the one JSON value that followed them.

What the JSON may hold is not told by a catalogue, so the version decides: the V0 engine speculated up to
0.9, the V1 engine learnt one kind after the other; what tuned V0's samplers has no successor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from packaging.version import Version

from apps.vllm.history import why_missing, why_value_missing
from apps.vllm.request import Given
from apps.vllm.translation.engine_choice import wants_v1, why_v0
from apps.vllm.translation.plain import lives, write_plain
from apps.vllm.translation.writer import CommandWriter, compact

DEFAULT_TOKENS: Final = 5
"""Tokens proposed at a time where "Num Speculative Tokens" is not set: vLLM has no default."""

_DEFAULT_LOOKUP = 4
_MODEL = "--speculative-model"
_TOKENS = "--num-speculative-tokens"
_LOOKUP = ("--ngram-prompt-lookup-max", "--ngram-prompt-lookup-min")
_ACCEPTANCE = "--spec-decoding-acceptance-method"
_QUANTIZATION = "--speculative-model-quantization"
_CONFIG = "--speculative-config"

_KEYS: Final[Mapping[str, str]] = {
    _TOKENS: "num_speculative_tokens",
    "--speculative-draft-tensor-parallel-size": "draft_tensor_parallel_size",
    "--speculative-max-model-len": "max_model_len",
    _QUANTIZATION: "quantization",
    _LOOKUP[0]: "prompt_lookup_max",
    _LOOKUP[1]: "prompt_lookup_min",
}
_OLD_KEYS: Final[Mapping[str, str]] = {
    "--speculative-disable-mqa-scorer": "disable_mqa_scorer",
    _ACCEPTANCE: "acceptance_method",
    "--typical-acceptance-sampler-posterior-threshold": "posterior_threshold",
    "--typical-acceptance-sampler-posterior-alpha": "posterior_alpha",
    "--disable-logprobs-during-spec-decoding": "disable_logprobs",
    "--speculative-disable-by-batch-size": "disable_by_batch_size",
}
"""Flag -> its key, which the V0 engine alone read."""

_FLAGS = (_MODEL, *_KEYS, *_OLD_KEYS)

# The name tells what kind of draft it is; a folder in the cache does not.
_METHODS = (
    (r"(^|[^a-z])eagle-?3", "eagle3"),
    (r"(^|[^a-z])eagle", "eagle"),
    (r"(^|[^a-z])medusa", "medusa"),
    (r"(^|[^a-z])dflash", "dflash"),
    (r"mlp.?speculator|accelerator", "mlp_speculator"),
    (r"(^|[^a-z])mtp($|[^a-z])", "mtp"),
)
_NGRAM = ("[ngram]", "ngram")

_V1_ALONE = Version("0.10")
"""The first version that speculates with the V1 engine only."""

_V1_SINCE: Final[Mapping[str, str]] = {
    "ngram": "0.7.3",
    "eagle": "0.8.3",
    "eagle3": "0.8.5",
    "medusa": "0.9.0",
    "mtp": "0.10.0",
    "draft_model": "0.15.0",
    "dflash": "0.20.0",
}
_V0_NEVER = ("eagle3", "dflash")


def write_speculation(writer: CommandWriter) -> None:
    """Settle all fields of speculative decoding."""
    items = writer.open(*_FLAGS)
    model = writer.one(_MODEL)
    method = _method(str(model.value) if model else "", has_lookup=bool(writer.open(_LOOKUP[0])))
    if not items:
        return
    if not method:
        _write_without_draft(writer, items)
    elif not lives(writer, _MODEL) and _CONFIG not in writer.catalogue:
        for item in items:
            writer.give_up(item, why_missing(item.flag, writer.version))
    elif reason := _refusal(writer, method):
        writer.give_up(items, reason)
    elif lives(writer, _MODEL):
        _write_flags(writer, items, model, method)
    else:
        _write_config(writer, items, model, method)


def _method(reference: str, *, has_lookup: bool) -> str:
    """What kind of speculation is meant; empty: none."""
    if not reference:
        return "ngram" if has_lookup else ""
    if reference.lower() in _NGRAM:
        return "ngram"
    title = reference.rstrip("/").rpartition("/")[2].lower()
    found = (name for pattern, name in _METHODS if re.search(pattern, title))
    return next(found, "draft_model")


def _refusal(writer: CommandWriter, method: str) -> str | None:
    """Why this version cannot speculate in this way."""
    kind = f"speculative decoding of the kind {method!r}"
    methods = writer.catalogue.find("--spec-method")
    if methods is not None and not methods.accepts(method):
        return f"vLLM {writer.version} has no {kind}"
    since = _V1_SINCE.get(method)
    if since is not None and writer.release >= Version(since):
        return None
    if writer.release >= _V1_ALONE or method in _V0_NEVER:
        more = f"the V1 engine has it from {since} on" if since else "only the V0 engine had it"
        return f"vLLM {writer.version} has no {kind}: {more}"
    return why_v0(kind) if wants_v1(writer) else None


def _write_without_draft(writer: CommandWriter, items: list[Given]) -> None:
    """Settle fields that have nothing to apply to: old flags may stand alone, but for one of them."""
    for item in items:
        if lives(writer, _MODEL) and (item.flag != _TOKENS or writer.is_overridden(_MODEL)):
            write_plain(writer, item)
        elif item.value is False:
            writer.translate(item, "nothing: there is no speculative decoding")
        else:
            writer.give_up(item, "nothing is speculated: no Speculative model is set")


def _write_flags(
    writer: CommandWriter, items: list[Given], model: Given | None, method: str
) -> None:
    """Pass the fields as the flags that they were made for."""
    draft = "[ngram]" if method == "ngram" else _draft(writer)
    if model is None:
        writer.offer((_MODEL, draft))
    else:
        writer.pass_(model, (_MODEL, draft))
    for item in items:
        if item is not model:
            write_plain(writer, item)
    if _TOKENS in writer.catalogue and not writer.request.of(_TOKENS) and method != "mtp":
        writer.offer((_TOKENS, str(DEFAULT_TOKENS)))
    if method == "ngram" and not writer.request.of(_LOOKUP[0]) and _LOOKUP[0] in writer.catalogue:
        writer.offer((_LOOKUP[0], str(_DEFAULT_LOOKUP)))


def _write_config(
    writer: CommandWriter, items: list[Given], model: Given | None, method: str
) -> None:
    """Pass the fields as one JSON value; each is told the part of it that it became."""
    if obstacle := writer.obstacle((_CONFIG, "{}")):
        writer.give_up(items, obstacle)
        return
    # Older versions tell MTP by the draft's own config, under a name for each family of models.
    is_told = method == "mtp" and writer.release < Version("0.11")
    config: dict[str, Any] = {} if is_told else {"method": method}
    parts: list[tuple[Given, dict[str, Any]]] = []
    if method != "ngram":
        config["model"] = _draft(writer)
    if model is not None:
        parts.append((model, dict(config)))
    for item in items:
        if item is not model and (part := _part(writer, item, method)) is not None:
            config |= part
            parts.append((item, part))
    if _KEYS[_TOKENS] not in config and method != "mtp":
        config[_KEYS[_TOKENS]] = DEFAULT_TOKENS
    writer.add((_CONFIG, compact(config)))
    for item, part in parts:
        writer.translate(item, f"{_CONFIG} {compact(part)}")


def _part(writer: CommandWriter, item: Given, method: str) -> dict[str, Any] | None:
    """The part of the JSON that a field becomes; None where it was settled otherwise."""
    if item.flag in _LOOKUP and method != "ngram":
        writer.give_up(item, "is read by the method ngram only")
        return None
    if item.flag == _QUANTIZATION and (
        reason := why_value_missing("--quantization", item.value, writer.version)
    ):
        writer.give_up(item, reason)
        return None
    if item.flag in _KEYS:
        return {_KEYS[item.flag]: item.value}
    key = _OLD_KEYS[item.flag]
    if writer.release < _V1_ALONE:
        if wants_v1(writer):
            writer.give_up(item, why_v0(item.flag))
            return None
        return {key: item.value}
    if item.flag == _ACCEPTANCE and item.value == "rejection_sampler":
        writer.translate(item, "nothing: rejection sampling is how this version accepts tokens")
    elif item.value is False:
        writer.translate(item, f"nothing: vLLM {writer.version} does not do it")
    else:
        reason = f"vLLM {writer.version} does not read {key!r}: only the V0 engine did, to 0.9.2"
        if key == "disable_by_batch_size":
            reason += ". Nearest: num_speculative_tokens_per_batch_size, from 0.24.0 on"
        writer.give_up(item, reason)
    return None


def _draft(writer: CommandWriter) -> str:
    path = writer.plan.companions.get("draft_model")
    return str(path or writer.request.value(_MODEL))
