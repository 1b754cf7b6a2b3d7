"""Hyperparameters of an app: what a launched or locally run task carries, with types and descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.options.declaration import Option
from common.options.loading import MODELS_PATH, render_value
from common.options.settings import AppSettings

_TYPES = {"integer": "int", "float": "float", "boolean": "bool", "string": "str"}
_MODELS_HELP = (
    'Models: a JSON list, an object each, with the names of the Model section: [{"model": "..."}, ...]. '
    "If set, the Model and per-model Advanced sections are ignored."
)


def parameter_items(
    settings: type[AppSettings[Any, Any]], values: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Every option as ClearML stores it: section, name, value (ours by default, else empty), type, text."""
    items = [_item(option, values) for option in settings.options(entry=False)]
    section, _, name = MODELS_PATH.partition("/")
    listed = {
        "section": section,
        "name": name,
        "value": render_value(values.get(MODELS_PATH)),
        "type": "str",
        "description": _MODELS_HELP,
    }
    return [*items, listed]


def describe(option: Option) -> str:
    """The description shown beside a parameter: title, help, choices, and whether it must be set."""
    choices = option.choices or (("true", "false") if option.type == "boolean" else ())
    others = "; others are left to the engine" if option.open_choices else ""
    sentences = (
        f"{option.title}: {option.help}",
        f"Choices: {', '.join(choices)}{others}." if choices else "",
        f"Required, unless {MODELS_PATH} is set." if option.required and option.per_model else "",
    )
    return " ".join(filter(None, sentences))


def _item(option: Option, values: Mapping[str, Any]) -> dict[str, str]:
    section, _, name = option.path.partition("/")
    return {
        "section": section,
        "name": name,
        "value": render_value(
            values.get(
                option.path,
                values.get(f"Model/{name}", option.default) if option.per_model else option.default,
            )
        ),
        "type": _TYPES[option.type],
        "description": describe(option),
    }
