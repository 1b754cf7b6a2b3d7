"""The field "LoRA Modules": which adapters there are, and which model serves each. Pure.

Accepted, several of them separated by line ends, commas or spaces::

    name=reference
    endpoint:name=reference
    {"name": "name", "path": "reference"}      (also as a JSON list)

A reference is one of `common.models.reference` and may hold ``=``; one with a space or a comma in it
needs the JSON form. An endpoint name may hold slashes, dots and colons: the last colon ends it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigurationError, ModelError, Problem
from common.models.reference import parse_reference
from common.options.structured import read_json, split_values

PATH = "LoRA/lora_modules"
TITLE = "LoRA Modules"

_KEYS = ("name", "path", "base_model_name")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class LoraModule:
    """One adapter.

    Attributes:
        name: What clients call it in the `model` field.
        reference: Where it comes from.
        endpoint: The endpoint name of its model; None = the only model.
        base_model_name: The model that it was trained on, where the user says so.
    """

    name: str
    reference: str
    endpoint: str | None = None
    base_model_name: str | None = None


@dataclass(frozen=True)
class ParsedModules:
    """The field, read: its adapters and what is wrong with it, in words."""

    modules: tuple[LoraModule, ...] = ()
    problems: tuple[str, ...] = ()


def parse_lora_modules(text: str | None) -> ParsedModules:
    """Read the field; finds every problem in one pass."""
    text = (text or "").strip()
    modules: list[LoraModule] = []
    problems: list[str] = []
    try:
        items = _json_items(text) if text.startswith(("{", "[")) else _plain_items(text)
    except ValueError as error:
        return ParsedModules(problems=(str(error),))
    for item in items:
        try:
            modules.append(_module(item))
        except (ValueError, ModelError) as error:
            problems.append(str(error))
    problems += [f"the name {name!r} is given twice" for name in _twice([m.name for m in modules])]
    return ParsedModules(tuple(modules), tuple(problems))


def assignment_problems(
    modules: Sequence[LoraModule], endpoint_names: Sequence[str]
) -> tuple[str, ...]:
    """Why adapters cannot be assigned to these endpoints, in words."""
    known = ", ".join(f'"{name}"' for name in endpoint_names)
    problems = []
    for module in modules:
        if module.name in endpoint_names:
            problems.append(f"the name {module.name!r} is the endpoint name of a model")
        if module.endpoint is None and len(endpoint_names) > 1:
            problems.append(
                f"which of the {len(endpoint_names)} models {module.name!r} belongs to is not said: "
                f"write endpoint:{module.name}=..., with one of the endpoint names {known}"
            )
        elif module.endpoint is not None and module.endpoint not in endpoint_names:
            problems.append(
                f"{module.name!r} is for the endpoint {module.endpoint!r}, which no model has; "
                f"known: {known}"
            )
    return tuple(problems)


def assign_adapters(
    modules: Sequence[LoraModule], endpoint_names: Sequence[str]
) -> Mapping[str, tuple[LoraModule, ...]]:
    """Tell which adapters each model serves.

    Args:
        modules: The adapters.
        endpoint_names: Those of the instance's models.

    Returns:
        The adapters by endpoint name, every endpoint included, in the order given.

    Raises:
        ConfigurationError: One belongs to no model, to none of several, or has a model's name.
    """
    problems = assignment_problems(modules, endpoint_names)
    if problems:
        raise ConfigurationError([Problem(text, title=TITLE, path=PATH) for text in problems])
    return {
        name: tuple(module for module in modules if module.endpoint in (None, name))
        for name in endpoint_names
    }


def _plain_items(text: str) -> list[Any]:
    return split_values(re.sub(r"[ \t]*=[ \t]*", "=", text))


def _json_items(text: str) -> list[Any]:
    """The items of a JSON list, or of JSON values one after the other, as vLLM's own flag takes them."""
    if text.startswith("["):
        read = read_json(text)
        return list(read)
    items = []
    while text:
        try:
            _, end = _DECODER.raw_decode(text)
        except (json.JSONDecodeError, RecursionError):
            end = len(text)  # read again below, which says where it stops being JSON
        items.append(read_json(text[:end]))
        text = text[end:].lstrip(", \t\r\n")
    return items


def _module(item: Any) -> LoraModule:
    if isinstance(item, dict):
        return _from_object(item)
    if not isinstance(item, str):
        raise ValueError(f"{item!r} is neither name=reference nor an object with name and path")
    target, equals, reference = (part.strip() for part in item.partition("="))
    if not equals:
        raise ValueError(f"{item!r} is not written as name=reference")
    return _checked(target, reference, item)


def _from_object(item: Mapping[str, Any]) -> LoraModule:
    unknown = [key for key in item if key not in _KEYS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of the keys {', '.join(_KEYS)}")
    if not all(isinstance(value, str) for value in item.values()):
        raise ValueError("name, path and base_model_name must be text")
    shown = json.dumps(item, ensure_ascii=False)
    return _checked(
        item.get("name", ""), item.get("path", ""), shown, item.get("base_model_name") or None
    )


def _checked(
    target: str, reference: str, shown: str, base_model_name: str | None = None
) -> LoraModule:
    endpoint, colon, name = target.strip().rpartition(":")
    if not name:
        raise ValueError(f"{shown!r} has no name")
    if colon and not endpoint:
        raise ValueError(f"{shown!r} has no endpoint name before the colon")
    if any(char.isspace() or not char.isprintable() for char in name):
        raise ValueError(f"the name {name!r} has a space or a control character in it")
    if not reference.strip():
        raise ValueError(f"{shown!r} has no reference")
    parse_reference(reference)
    return LoraModule(name, reference.strip(), endpoint or None, base_model_name)


def _twice(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]
