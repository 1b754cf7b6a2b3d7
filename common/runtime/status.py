"""The values of ``Status/*``: pure rendering of what an instance is doing."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from common.gateway.models import MemoryView
from common.runtime.idle import InstanceStatus
from common.runtime.memory_words import memory_words, status_words, tier_words

# What a person replaces in the access example; the key itself is shown by `clearml-deploy key`.
KEY_PLACEHOLDER = "YOUR_GENERATED_TOKEN"


@dataclass(frozen=True)
class ModelRow:
    """One row of the models table; an embedding model answers another path than the others.

    Attributes:
        name: Endpoint name.
        url: The model's base URL.
        status: As clients see it.
        progress: What is being done for it, in words.
        is_embedding: It answers with vectors.
        memory: Where it is and what it takes; None: it is not moved.
    """

    name: str
    url: str
    status: str
    progress: str = ""
    is_embedding: bool = False
    memory: MemoryView | None = None


def access_example(row: ModelRow, *, is_embedding: bool, key: str | None = KEY_PLACEHOLDER) -> str:
    """The curl command that sends a prompt to a model; without a key where none is asked for."""
    if is_embedding:
        path = "/embeddings"
        body: dict[str, object] = {"model": row.name, "input": "Hello world!"}
    else:
        path = "/chat/completions"
        body = {"model": row.name, "messages": [{"role": "user", "content": "Hello world!"}]}
    text = json.dumps(body, ensure_ascii=False)
    header = f"  -H {shlex.quote(f'Authorization: Bearer {key}')} \\\n" if key else ""
    return (
        f"curl {shlex.quote(row.url + path)} \\\n"
        f"  -H 'Content-Type: application/json' \\\n"
        f"{header}"
        f"  -d {shlex.quote(text)}"
    )


def key_dashboard(name: str, url: str, *, is_embedding: bool, key: str | None) -> dict[str, str]:
    """The part of ``Status/*`` for a dashboard that shows the clients' key; never for the console."""
    row = ModelRow(name, url, "")
    return {
        "api_base": url,
        "test_command": access_example(row, is_embedding=is_embedding, key=key),
    }


def models_table(rows: Sequence[ModelRow], placeholder: str | None = KEY_PLACEHOLDER) -> str:
    """The models and their endpoints as an HTML table, which a dashboard shows as it is.

    Each row carries its access example for the dashboard's picker: models differ in path and body.
    Where models are moved the table tells their tier and memory as well.
    """
    has_memory = any(row.memory for row in rows)
    head = ("Model Name", "Endpoint", "Status", *(("Tier", "Memory") if has_memory else ()))
    titles = "".join(f"<th>{title}</th>" for title in head)
    lines = "".join(
        f'<tr data-example="{html.escape(example_of(row, placeholder))}">'
        + "".join(f"<td>{html.escape(text)}</td>" for text in _cells(row, has_memory=has_memory))
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{titles}</tr>{lines}</table>"


def _cells(row: ModelRow, *, has_memory: bool) -> list[str]:
    memory = row.memory
    cells = [row.name, row.url, row.progress or status_words(row.status, memory)]
    if has_memory:
        cells += [tier_words(memory), memory_words(memory)] if memory is not None else ["", ""]
    return cells


def _entry(row: ModelRow) -> dict[str, object]:
    """A row for programs; tier and memory are there where models are moved only."""
    entry: dict[str, object] = {
        "name": row.name,
        "url": row.url,
        "status": row.status,
        "progress": row.progress,
        "is_embedding": row.is_embedding,
    }
    if row.memory is not None:
        entry |= {
            "tier": row.memory.tier,
            "moving_to": row.memory.moving_to,
            "waiting": row.memory.waiting,
            "bytes_by_pool": dict(row.memory.bytes_by_pool),
        }
    return entry


def example_of(row: ModelRow, placeholder: str | None = KEY_PLACEHOLDER) -> str:
    """The access example of a row, with a placeholder for the key; None: no key is asked for."""
    return access_example(row, is_embedding=row.is_embedding, key=placeholder)


def status_values(
    status: InstanceStatus,
    rows: Sequence[ModelRow],
    *,
    idle_s: float,
    limit_hours: float | None,
    placeholder: str | None = KEY_PLACEHOLDER,
) -> dict[str, str]:
    """The part of ``Status/*`` that changes while an instance runs."""
    values = {
        "status": status,
        "idle_hours": f"{idle_s / 3600:.1f}",
        "idle_limit": f"{limit_hours:g}" if limit_hours else "∞",
        "models_table": models_table(rows, placeholder),
        "models": json.dumps([_entry(row) for row in rows], ensure_ascii=False),
    }
    if rows:
        values["curl_example"] = example_of(rows[0], placeholder)
    return values
