"""Fields that name files: fetched beforehand, so the engine gets paths."""

from __future__ import annotations

import json

from apps.vllm.lora import parse_lora_modules
from apps.vllm.request import Given
from apps.vllm.translation.plain import give_up_missing
from apps.vllm.translation.writer import CommandWriter
from common.errors import ModelError
from common.models.reference import ReferenceKind, parse_reference


def write_revision(writer: CommandWriter) -> None:
    """Settle "Revision": it says what is downloaded, and the engine gets a folder."""
    item = writer.one("--revision")
    if item is not None:
        _write_revision(writer, item, writer.request.model.reference)


def write_tokenizer(writer: CommandWriter) -> None:
    """Settle "Tokenizer" and "Tokenizer Revision"."""
    item, revision = writer.one("--tokenizer"), writer.one("--tokenizer-revision")
    path = writer.plan.companions.get("tokenizer")
    if item is not None:
        writer.pass_(item, ("--tokenizer", str(path or item.value)))
    elif path is not None:
        writer.offer(("--tokenizer", str(path)))
    if revision is not None:
        reference = str(item.value) if item else writer.request.model.reference
        _write_revision(writer, revision, reference)


def write_adapters(writer: CommandWriter) -> None:
    """Settle "LoRA Modules": the adapters that are this model's."""
    item = writer.one("--lora-modules")
    if item is None:
        return
    if "--lora-modules" not in writer.catalogue:
        give_up_missing(writer, item)
        return
    modules = [
        module
        for module in parse_lora_modules(str(item.value)).modules
        if module.endpoint in (None, writer.plan.name)
    ]
    if not modules:
        writer.translate(item, "nothing: its adapters are those of other models")
        return
    values = []
    for module in modules:
        path = str(writer.plan.companions.get(f"lora:{module.name}", module.reference))
        if module.base_model_name:
            adapter = {
                "name": module.name,
                "path": path,
                "base_model_name": module.base_model_name,
            }
            values.append(json.dumps(adapter, ensure_ascii=False))
        else:
            values.append(f"{module.name}={path}")
    writer.pass_(item, ("--lora-modules", *values))


def _write_revision(writer: CommandWriter, item: Given, reference: str) -> None:
    try:
        kind = parse_reference(reference).kind
    except ModelError:
        kind = ReferenceKind.HUB  # told where the reference is checked
    if kind is ReferenceKind.HUB:
        writer.translate(item, f"what is downloaded: {reference} at {item.value}")
    else:
        where = "a ClearML model" if kind is ReferenceKind.CLEARML else "a local path"
        writer.give_up(item, f"{reference} is {where}; only repositories have revisions")
