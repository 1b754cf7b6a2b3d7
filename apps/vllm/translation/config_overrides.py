"""What overrides the model's own config.json: RoPE, "HF Overrides" and "Config Overrides" in one flag."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.version import Version

from apps.vllm.history import why_missing
from apps.vllm.request import Given
from apps.vllm.translation.plain import lives
from apps.vllm.translation.writer import CommandWriter, compact
from common.options.structured import read_object

_FLAG = "--hf-overrides"
_SCALING = "--rope-scaling"
_THETA = "--rope-theta"

# Transformers 5 keeps RoPE in `rope_parameters`. vLLM 0.19 to 0.23 run with either, later ones need it.
_ROPE_PARAMETERS = Version("0.19")
_ROPE_PARAMETERS_ALONE = Version("0.24")


def write_config_overrides(writer: CommandWriter) -> None:
    """Settle the fields that become --hf-overrides."""
    stated = writer.open(_FLAG)
    rope = [item for item in writer.open(_SCALING, _THETA) if not lives(writer, item.flag)]
    if not stated and not rope:
        return
    if _FLAG not in writer.catalogue:
        for item in (*stated, *rope):
            writer.give_up(item, why_missing(item.flag, writer.version))
        return
    if obstacle := writer.obstacle((_FLAG, "{}")):
        writer.give_up([*stated, *rope], obstacle)
        return
    merged: dict[str, Any] = {}
    passed = [item for item in stated if _merge(writer, merged, read_object(item.value), [item])]
    translated: dict[str, Any] = {}
    if rope:
        translated = _rope_overrides(writer, rope)
        if translated and not _merge(writer, merged, translated, rope):
            translated = {}
    if merged:
        writer.add((_FLAG, compact(merged)))
    writer.pass_(passed)
    if translated:
        writer.translate(rope, f"{_FLAG} {compact(translated)}")


def _merge(
    writer: CommandWriter, merged: dict[str, Any], more: Mapping[str, Any], items: list[Given]
) -> bool:
    """Add overrides to others; two that say different things for one key are a mistake."""
    for key, value in more.items():
        if key in merged and merged[key] != value:
            others = ", ".join(
                f'"{other.option.title}" ({other.option.path})'
                for other in writer.request.of(_FLAG)
                if other not in items
            )
            for item in items:
                writer.refuse(item, f"says another {key!r} than {others}: name it in one of them")
            return False
    merged.update(more)
    return True


def _rope_overrides(writer: CommandWriter, items: list[Given]) -> dict[str, Any]:
    """RoPE as a model's config.json has it; empty when the fields were settled otherwise."""
    scaling = next((read_object(item.value) for item in items if item.flag == _SCALING), None)
    theta = next((item.value for item in items if item.flag == _THETA), None)
    if writer.release < _ROPE_PARAMETERS:
        old = {"rope_scaling": scaling, "rope_theta": theta}
        return {key: value for key, value in old.items() if value is not None}
    config = read_config(writer.plan.path)
    own, is_nested = _own_rope(config)
    if any(isinstance(value, dict) for value in own.values()):
        reason = (
            "the model has RoPE parameters for each kind of its layers, which one field cannot "
            'replace: write rope_parameters in "HF Overrides"'
        )
        writer.give_up(items, reason)
        return {}
    # The override replaces the whole object, so what the model has is said again. Scaling of another
    # kind starts anew, but for the base frequency.
    rope = dict(own)
    if scaling is not None:
        kept = {"rope_theta": own["rope_theta"]} if "rope_theta" in own else {}
        rope = {**kept, **scaling}
        rope.setdefault("rope_type", rope.pop("type", "default"))
        rope.pop("type", None)
    if theta is not None:
        rope["rope_theta"] = theta
    rope.setdefault("rope_type", "default")
    found: dict[str, Any] = {"rope_parameters": rope}
    if writer.release < _ROPE_PARAMETERS_ALONE:
        # With Transformers 4 the older keys win over `rope_parameters`; with 5 they say the same.
        found["rope_scaling"] = rope
        found |= {key: rope[key] for key in ("rope_theta",) if key in rope}
    return {"text_config": found} if is_nested else found


def read_config(path: Path) -> dict[str, Any]:
    """Read the model's config.json; empty while it is not there or cannot be read."""
    try:
        read = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _own_rope(config: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The RoPE parameters that a config has, and whether they are those of its text part."""
    text = config.get("text_config")
    for part, is_nested in ((config, False), (text, True)):
        if not isinstance(part, dict):
            continue
        own = dict(part.get("rope_parameters") or part.get("rope_scaling") or {})
        if "rope_theta" in part and not any(isinstance(value, dict) for value in own.values()):
            own.setdefault("rope_theta", part["rope_theta"])
        if "type" in own:
            own.setdefault("rope_type", own.pop("type"))
        if own:
            return own, is_nested
    return {}, False
