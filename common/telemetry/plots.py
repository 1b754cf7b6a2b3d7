"""Plots of an instance as Plotly figures: its models as a table, and how long requests took. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from common.telemetry.histogram import DURATION_BOUNDS, HistogramSnapshot

MODELS_PLOT = ("Models", "models")
"""Title and series of the table of models."""

LATENCY_PLOT = ("Latency Histogram", "requests")
"""Title and series of the latency histogram, a bar series per model."""

_HEAD = ("Model", "Status", "Endpoint", "Requests", "Prompt Tokens", "Generated Tokens")
_MEMORY_HEAD = ("Tier", "Memory")

Figure = dict[str, Any]


@dataclass(frozen=True)
class ModelLine:
    """A line of the table of models; tier and memory in words where models are moved."""

    name: str
    status: str
    endpoint: str
    requests: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    tier: str = ""
    memory: str = ""


def models_figure(lines: Sequence[ModelLine]) -> Figure:
    """The models with their status, where they are reached and what they have done; if any of them is
    moved, where they are and what memory they take."""
    has_memory = any(line.tier for line in lines)
    head = _HEAD + _MEMORY_HEAD if has_memory else _HEAD
    rows = [
        (
            *(m.name, m.status, m.endpoint, m.requests, m.prompt_tokens, m.generated_tokens),
            *((m.tier, m.memory) if has_memory else ()),
        )
        for m in lines
    ]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in head]
    table = {
        "type": "table",
        "header": {"values": list(head), "align": "left"},
        "cells": {"values": columns, "align": "left"},
    }
    return {"data": [table], "layout": {"title": MODELS_PLOT[0]}}


def latency_figure(latency: Mapping[str, HistogramSnapshot]) -> Figure:
    """How many answered requests took how long, a bar series per model; empty buckets at both ends go."""
    counts = {name: coarse_counts(histogram) for name, histogram in latency.items()}
    filled = [i for i in range(len(DURATION_BOUNDS) + 1) if any(c[i] for c in counts.values())]
    shown = range(filled[0], filled[-1] + 1) if filled else range(0)
    labels = _labels()
    bars = [
        {
            "type": "bar",
            "name": name,
            "x": [labels[i] for i in shown],
            "y": [each[i] for i in shown],
        }
        for name, each in counts.items()
    ]
    layout = {
        "title": "Latency of answered requests",
        "barmode": "group",
        "xaxis": {"title": "Seconds", "type": "category"},
        "yaxis": {"title": "Requests"},
    }
    return {"data": bars, "layout": layout}


def coarse_counts(histogram: HistogramSnapshot) -> list[int]:
    """Requests per bucket of the plot, not cumulative; the last one is above all bounds."""
    return [high - low for low, high in pairwise((0, *histogram.coarse(DURATION_BOUNDS)))]


def _labels() -> list[str]:
    between = [f"{low:g} to {high:g}" for low, high in pairwise(DURATION_BOUNDS)]
    return [f"up to {DURATION_BOUNDS[0]:g}", *between, f"over {DURATION_BOUNDS[-1]:g}"]
