"""Rows of the server's Model Endpoints table, from what the recorder counted. Pure."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from typing import Any

from common.clearml.model_endpoints import EndpointEntry
from common.gateway.models import ModelStatus
from common.models.reference import ReferenceKind, parse_reference
from common.options.settings import ModelOptions
from common.telemetry.machine import MachineUsage, server_units
from common.telemetry.recorder import ModelSnapshot, Snapshot

_WINDOW_S = 60.0
# Where the model's page is, for a reference that somebody clicks.
_HUB = "https://huggingface.co"
_SOURCES = {
    ReferenceKind.CLEARML: "ClearML",
    ReferenceKind.HUB: "Hugging Face",
    ReferenceKind.LOCAL: "local path",
}


class LastMinute:
    """The snapshots of the last minute; add one every few seconds."""

    def __init__(self) -> None:
        self._snapshots: deque[Snapshot] = deque()

    def add(self, snapshot: Snapshot) -> None:
        """Keep a snapshot, and forget those that are not needed any more."""
        self._snapshots.append(snapshot)
        while len(self._snapshots) > 1 and snapshot.at - self._snapshots[1].at >= _WINDOW_S:
            self._snapshots.popleft()

    def start(self, now: Snapshot) -> Snapshot:
        """The snapshot that the last minute is counted from: a minute old, or the oldest there is."""
        return self._snapshots[0] if self._snapshots else now


@dataclass(frozen=True)
class ModelFacts:
    """What does not change about a model of an instance.

    Attributes:
        task_id: The instance's task.
        name: The endpoint's name.
        options: The model's options.
        is_embedding: It answers with vectors.
    """

    task_id: str
    name: str
    options: ModelOptions
    is_embedding: bool = False

    @property
    def container_id(self) -> str:
        """Unique per instance and model, and the same when the instance asks again."""
        return f"{self.task_id}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"

    def info(self) -> dict[str, Any]:
        """The fields of the row that describe the model; each has a value, as the table shows them all."""
        reference = parse_reference(self.options.reference)
        size = self.options.limits.max_input_tokens
        references = [{"type": "task", "value": self.task_id}]
        if reference.kind is ReferenceKind.CLEARML:
            references.append({"type": "model", "value": reference.model_id})
        if reference.kind is ReferenceKind.HUB:
            references.append({"type": "url", "value": f"{_HUB}/{reference.repo}"})
        return {
            "model_source": _SOURCES[reference.kind],
            "model_version": self.options.model_revision or reference.revision or "",
            "preprocess_artifact": "",
            "input_type": "text",
            "input_size": f"{size} tokens" if size else "",
            "reference": references,
        }


def endpoint_entry(
    facts: ModelFacts,
    status: ModelStatus,
    url: str,
    *,
    now: Snapshot,
    before: Snapshot,
    uptime_s: float,
    machine: MachineUsage,
) -> EndpointEntry | None:
    """Return a model's row; None when it has none, as it failed.

    Args:
        facts: The model.
        status: Its tier and state; while it loads its row has no address.
        url: Where clients reach it.
        now: The totals now.
        before: The totals a minute ago, or at the start.
        uptime_s: Seconds since it answers.
        machine: What the machine does.
    """
    if status == "failed":
        return None
    is_loading = status == "loading"
    after, earlier = now.models.get(facts.name), before.models.get(facts.name)
    return EndpointEntry(
        container_id=facts.container_id,
        endpoint_name=facts.name,
        model_name=facts.options.reference,
        info=facts.info(),
        endpoint_url="" if is_loading else url,
        stats={
            "uptime_sec": int(uptime_s),
            "requests_num": after.requests if after else 0,
            "requests_min": _per_minute(after, earlier, now.at - before.at),
            "latency_ms": _mean_ms(after, earlier),
            "machine_stats": server_units(machine),
        },
    )


def _per_minute(
    after: ModelSnapshot | None, before: ModelSnapshot | None, elapsed_s: float
) -> float:
    """Requests of the last minute; a younger instance has had no others."""
    if after is None:
        return 0.0
    ended = after.requests - (before.requests if before else 0)
    return round(ended * _WINDOW_S / max(_WINDOW_S, elapsed_s), 2)


def _mean_ms(after: ModelSnapshot | None, before: ModelSnapshot | None) -> int:
    """Mean latency of the requests answered since `before`; 0 without any, as the server wants a number."""
    if after is None:
        return 0
    mean = after.latency.between(before.latency if before else None).mean
    return round(mean * 1000) if mean is not None else 0
