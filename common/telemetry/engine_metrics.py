"""Read token totals from an engine's own Prometheus text.

The engine counts tokens exactly; counting them from the answers would mean parsing every chunk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

# Sample names as llama.cpp (tools/server, /metrics) and vLLM (V0 and V1 engines) expose them.
PROMPT_TOTALS = frozenset({"llamacpp:prompt_tokens_total", "vllm:prompt_tokens_total"})
GENERATED_TOTALS = frozenset({"llamacpp:tokens_predicted_total", "vllm:generation_tokens_total"})


@dataclass(frozen=True)
class EngineTokens:
    """Token totals since the engine's start; they fall back to zero when it restarts."""

    prompt: int
    generated: int


def parse_engine_tokens(text: str) -> EngineTokens | None:
    """Return the engine's token totals, summed over its labels.

    Args:
        text: Prometheus text exposition of one engine.

    Returns:
        The totals, or None when the text has neither of the two counters (another program, or an
        engine started without metrics).

    Raises:
        ValueError: The text is not Prometheus exposition.
    """
    return tokens_of(text_string_to_metric_families(text))


def tokens_of(families: Iterable[Family]) -> EngineTokens | None:
    """As `parse_engine_tokens`, of a text that was parsed already."""
    prompt = generated = 0.0
    is_known = False
    for family in families:
        for sample in family.samples:
            if sample.name in PROMPT_TOTALS:
                prompt += sample.value
                is_known = True
            elif sample.name in GENERATED_TOTALS:
                generated += sample.value
                is_known = True
    return EngineTokens(int(prompt), int(generated)) if is_known else None
