"""What became of vLLM's flags: the words for an option that a version does not have.

Whether a version has a flag is told by its catalogue alone. Here stands what a catalogue cannot tell:
since when a flag is gone, why, and what comes nearest. The parsers of the releases from 0.6.6 to 0.33.0
were read on both sides of each change, so the versions here are those of the change itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from packaging.version import Version


@dataclass(frozen=True)
class FlagHistory:
    """What is known of one flag beside the catalogues.

    Attributes:
        since: First version with it, where that is later than 0.6.6; empty else.
        gone: First version without it again, empty while it is there.
        inert: First version that takes it and does nothing with it.
        why: What happened to the feature, a part of a sentence.
        nearest: What to look at instead.
        values: Values that went although the flag stayed -> first version without each.
    """

    since: str = ""
    gone: str = ""
    inert: str = ""
    why: str = ""
    nearest: str = ""
    values: Mapping[str, str] = field(default_factory=dict)


_V0 = "it belonged to the V0 engine, which was removed"
_SPECULATIVE = "speculative decoding is configured as one JSON value"
_CONFIG = "--speculative-config"
_PROMPT_ADAPTERS = "prompt adapters were removed"
_TOKENIZER_POOL = "the pool of tokenizers was removed"
_SPECULATIVE_FLAG = FlagHistory(gone="0.8.3", why=_SPECULATIVE, nearest=_CONFIG)
_POOL_FLAG = FlagHistory(gone="0.10.0", inert="0.8.5", why=_TOKENIZER_POOL)
_V0_FLAG = FlagHistory(gone="0.11.0", why=_V0)
_HF_OVERRIDES = "--hf-overrides"

HISTORY: Final[Mapping[str, FlagHistory]] = {
    "--device": FlagHistory(gone="0.10.0", inert="0.9.0", why="vLLM detects what it runs on"),
    "--disable-async-output-proc": _V0_FLAG,
    "--disable-log-requests": FlagHistory(
        gone="0.17.0",
        why="requests are no longer logged unless asked for",
        nearest="--enable-log-requests, its opposite",
    ),
    "--disable-logprobs-during-spec-decoding": _SPECULATIVE_FLAG,
    "--enable-lora-bias": FlagHistory(
        gone="0.11.1", why="adapters with a bias are no longer supported"
    ),
    "--enable-prompt-adapter": FlagHistory(
        gone="0.10.2", inert="0.10.0", why=_PROMPT_ADAPTERS, nearest="LoRA adapters"
    ),
    "--enable-reasoning": FlagHistory(
        since="0.7.1",
        gone="0.10.0",
        inert="0.9.0",
        why="a reasoning parser alone turns reasoning on",
        nearest="--reasoning-parser",
    ),
    "--guided-decoding-backend": FlagHistory(
        gone="0.12.0",
        inert="0.11.0",
        why="guided decoding became structured outputs",
        nearest="--structured-outputs-config",
    ),
    "--long-lora-scaling-factors": FlagHistory(gone="0.10.0", why="LongLoRA was removed"),
    "--lora-dtype": FlagHistory(values={"float32": "0.6.6"}),
    "--lora-extra-vocab-size": FlagHistory(
        gone="0.12.0",
        why="adapters with tokens of their own are no longer supported",
    ),
    "--max-paddings": FlagHistory(
        gone="0.4.3", why="batches are no longer padded", nearest="--max-num-batched-tokens"
    ),
    "--max-parallel-loading-workers": FlagHistory(
        inert="0.11.1", why="weights are no longer loaded in batches of workers"
    ),
    "--max-prompt-adapter-token": FlagHistory(
        gone="0.10.0", why=_PROMPT_ADAPTERS, nearest="LoRA adapters"
    ),
    "--max-seq-len-to-capture": FlagHistory(
        gone="0.11.0",
        why="CUDA graphs are sized by the tokens of a batch, not by the length of a sequence",
        nearest="--max-cudagraph-capture-size (in tokens of a batch)",
    ),
    "--model-impl": FlagHistory(since="0.7.2"),
    "--num-lookahead-slots": FlagHistory(
        gone="0.12.0",
        inert="0.11.0",
        why="vLLM derives it from the number of speculative tokens",
    ),
    "--num-scheduler-steps": FlagHistory(gone="0.10.1", why=_V0),
    "--override-pooler-config": FlagHistory(
        gone="0.12.0", why="it was renamed", nearest="--pooler-config"
    ),
    "--preemption-mode": _V0_FLAG,
    "--quantization": FlagHistory(
        values={
            "aqlm": "0.10.1",
            "marlin": "0.10.2",
            "hqq": "0.15.0",
            "gguf": "0.24.0",
            "bitsandbytes": "0.28.0",
        }
    ),
    "--reasoning-parser": FlagHistory(since="0.7.1"),
    "--rope-scaling": FlagHistory(
        gone="0.11.1", why="it is part of the model's config", nearest=_HF_OVERRIDES
    ),
    "--rope-theta": FlagHistory(
        gone="0.11.1", why="it is part of the model's config", nearest=_HF_OVERRIDES
    ),
    "--scheduler-delay-factor": _V0_FLAG,
    "--swap-space": FlagHistory(
        gone="0.18.0",
        inert="0.11.0",
        why="the KV cache no longer swaps",
        nearest="--kv-offloading-size (another feature)",
    ),
    "--task": FlagHistory(
        gone="0.13.0",
        why="it became two flags",
        nearest="--runner and --convert",
    ),
    "--tokenizer-pool-extra-config": _POOL_FLAG,
    "--tokenizer-pool-size": _POOL_FLAG,
    "--tokenizer-pool-type": _POOL_FLAG,
    **dict.fromkeys(
        (
            "--ngram-prompt-lookup-max",
            "--ngram-prompt-lookup-min",
            "--num-speculative-tokens",
            "--spec-decoding-acceptance-method",
            "--speculative-disable-by-batch-size",
            "--speculative-disable-mqa-scorer",
            "--speculative-draft-tensor-parallel-size",
            "--speculative-max-model-len",
            "--speculative-model",
            "--speculative-model-quantization",
            "--typical-acceptance-sampler-posterior-alpha",
            "--typical-acceptance-sampler-posterior-threshold",
        ),
        _SPECULATIVE_FLAG,
    ),
}
"""Flag, in the spelling of 0.7.2 -> what is known of it."""

V0_ONLY: Final = frozenset(
    {
        "--disable-async-output-proc",
        "--enable-prompt-adapter",
        "--max-prompt-adapter-token",
        "--max-seq-len-to-capture",
        "--num-scheduler-steps",
        "--preemption-mode",
        "--scheduler-delay-factor",
    }
)
"""Flags that only the V0 engine honours; up to 0.10 the V1 engine refuses or ignores them."""


def why_missing(flag: str, version: str) -> str:
    """Say that a version has no such flag, and since when, why and what comes nearest where known."""
    known = HISTORY.get(flag, FlagHistory())
    release = Version(Version(version).base_version)
    text = f"vLLM {version} has no {flag}"
    if known.since and release < Version(known.since):
        return f"{text}: it is known from {known.since} on"
    reasons = []
    if known.gone and release >= Version(known.gone):
        reasons.append(f"absent from {known.gone} on")
    return _sentence(text, [*reasons, known.why], known.nearest)


def why_inert(flag: str, version: str) -> str | None:
    """Say that a version takes a flag and does nothing with it; None where it is not known to."""
    known = HISTORY.get(flag)
    if (
        known is None
        or not known.inert
        or Version(Version(version).base_version) < Version(known.inert)
    ):
        return None
    text = f"vLLM {version} accepts {flag} and does nothing with it"
    return _sentence(text, [f"known from {known.inert} on", known.why], known.nearest)


def why_value_missing(flag: str, value: str, version: str) -> str | None:
    """Say that a version no longer has one of a flag's values; None where it is not known to lack it."""
    since = HISTORY.get(flag, FlagHistory()).values.get(value)
    if since is None or Version(Version(version).base_version) < Version(since):
        return None
    return f"vLLM {version} has no {value!r} for {flag}: absent from {since} on"


def _sentence(text: str, reasons: list[str], nearest: str) -> str:
    told = "; ".join(reason for reason in reasons if reason)
    text = f"{text}: {told}" if told else text
    return f"{text}. Nearest: {nearest}" if nearest else text
