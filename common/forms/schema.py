"""The JSON Schema of an app's exported configurations, derived from the options' declarations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from common.forms.exchange import VERSION
from common.forms.names import MODELS_FIELD, field_name, has_model_list
from common.options.declaration import Option
from common.options.settings import AppSettings

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = {"string": "string", "integer": "integer", "float": "number", "boolean": "boolean"}
_CHOICES: Mapping[str, Callable[[str], Any]] = {"string": str, "integer": int, "float": float}


def schema_of(
    app_name: str, title: str, settings_cls: type[AppSettings[Any, Any]]
) -> dict[str, Any]:
    """Describe what `export` writes for an app; a secret is no property, so no such file holds one."""
    options = tuple(settings_cls.options())
    secrets = [field_name(option) for option in options if option.secret]
    models = {
        "title": "Models",
        "type": "array",
        "items": _object({o.name: _property(o) for o in options if o.per_model}),
    }
    has_list = has_model_list(settings_cls)
    values: dict[str, Any] = {}
    for option in options:
        if option.per_model and has_list:
            values.setdefault(MODELS_FIELD, models)
        elif not option.secret:
            values[field_name(option)] = _property(option)
    document = _object(
        {
            "app": {"const": app_name},
            "version": {"const": VERSION},
            "values": {
                "description": "What was set, by wizard name, in the form's order.",
                **_object(values),
            },
            "left_out": {
                "description": "Secrets, which such a file never holds.",
                "type": "array",
                "items": {"enum": secrets},
                "uniqueItems": True,
            },
        }
    )
    required = ["app", "version", "values", "left_out"]
    return {
        "$schema": _DRAFT,
        "title": f"{title}: an exported configuration",
        **document,
        "required": required,
    }


def render_schema(app_name: str, title: str, settings_cls: type[AppSettings[Any, Any]]) -> str:
    """The schema's file."""
    return json.dumps(schema_of(app_name, title, settings_cls), indent=2, ensure_ascii=False) + "\n"


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _property(option: Option) -> dict[str, Any]:
    found: dict[str, Any] = {"title": option.title, "description": option.help}
    if option.choices and not option.open_choices:
        return {**found, "enum": [_CHOICES[option.type](choice) for choice in option.choices]}
    found["type"] = _TYPES[option.type]
    if option.choices:
        found["examples"] = [*option.choices]
    bounds = {
        "minimum": option.minimum,
        "exclusiveMinimum": option.exclusive_minimum,
        "maximum": option.maximum,
    }
    return {**found, **{word: bound for word, bound in bounds.items() if bound is not None}}
