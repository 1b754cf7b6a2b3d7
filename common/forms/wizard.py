"""The wizard of a form: its fields, from the declarations of the options. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from common.forms.conditions import MODEL_THREE_WAY, NEEDS, SOURCES, THREE_WAY
from common.forms.names import MODELS_FIELD, field_name, has_model_list
from common.forms.outline import AnySettings, Group, ModelList, Outline, Part, parts_of
from common.options.declaration import Option
from common.options.loading import MODELS_PATH

Entry = dict[str, Any]

_NOT_SET = "The engine's default"
_AS_FOR_ALL = "As in General"


def write_wizard(outline: Outline, settings: AnySettings) -> Entry:
    """Write the section ``wizard`` of an app's form."""
    return {"entries": [*_Writer(settings).entries(outline)]}


def offers_a_checkbox(option: Option, settings: AnySettings) -> bool:
    """Whether a switch is a checkbox; else it can be left alone as well, and is a dropdown."""
    three_way = THREE_WAY | (MODEL_THREE_WAY if has_model_list(settings) else frozenset())
    return option.type == "boolean" and option.path not in three_way


class _Writer:
    def __init__(self, settings: AnySettings) -> None:
        self._settings = settings
        self._by_path = {option.path: option for option in settings.options(entry=False)}

    def entries(self, outline: Outline) -> Iterator[Entry]:
        for part in parts_of(outline, self._settings):
            if part.at is None:
                yield self._field(part.options[0])
            elif isinstance(part.at, Group):
                yield self._group(part.at, part)
            else:
                yield self._list(part.at, part)

    def _group(self, group: Group, part: Part) -> Entry:
        return {
            "name": group.name,
            "title": group.title,
            "type": "group",
            "collapsible": True,
            "item_template": [self._field(option) for option in part.options],
        }

    def _list(self, models: ModelList, part: Part) -> Entry:
        section, _, name = MODELS_PATH.partition("/")
        return {
            "name": MODELS_FIELD,
            "title": models.title,
            "info": models.info,
            "type": "list",
            "required": True,
            "collapsible": True,
            "collapsibleTitleTemplate": "${model}",
            "item_template": [self._field(option, in_list=True) for option in part.options],
            "target": _target(section, name) | {"format": "json"},
        }

    def _field(self, option: Option, *, in_list: bool = False) -> Entry:
        entry: Entry = {
            "name": field_name(option),
            "title": option.title,
            "info": option.help,
            "type": self._type(option),
            "required": option.required,
        }
        if self._type(option) == "checkbox":
            entry["default"] = bool(option.default)
        elif (default := form_default(option)) is not None:
            entry["default"] = default
        placeholder = option.placeholder or (_NOT_SET if self._is_three_way(option) else "")
        if option.path in MODEL_THREE_WAY and self._is_three_way(option):
            placeholder = _AS_FOR_ALL
        if placeholder:
            entry["placeholder"] = placeholder
        if option.secret:
            entry["secret"] = True
        entry |= self._choices(option) | self._conditional(option)
        if not in_list:
            entry["target"] = _target_of(option)
        return entry

    def _is_three_way(self, option: Option) -> bool:
        return option.type == "boolean" and not offers_a_checkbox(option, self._settings)

    def _type(self, option: Option) -> str:
        if option.type == "boolean":
            return "dropdown" if self._is_three_way(option) else "checkbox"
        if option.choices or SOURCES.get(field_name(option), "model") != "model":
            return "dropdown"
        if option.type in ("integer", "float"):
            return option.type
        return "multiline_text" if option.multiline else "string"

    def _choices(self, option: Option) -> Entry:
        if self._is_three_way(option):
            return {"choices": ["true", "false"]}
        if option.choices:
            return {"choices": [*option.choices]}
        source = SOURCES.get(field_name(option))
        if source is None:
            return {}
        # A registry's names are not unique; projects and queues are launched into by name.
        value = "id" if source == "model" else "name"
        choices = {"source": source, "value_field": value, "display_field": "name"}
        return {"autocomplete": True, "choices": choices}

    def _conditional(self, option: Option) -> Entry:
        switch, value = NEEDS.get(option.path, ("", False))
        needed = self._by_path.get(switch)
        if needed is None:
            return {}
        return {"conditional": {"entries": [{"name": field_name(needed), "value": value}]}}


def form_default(option: Option) -> Any:
    """What the form is prefilled with; None: nothing."""
    return option.form_default if option.form_default is not None else option.default


def _target_of(option: Option) -> Entry:
    section, _, name = option.path.partition("/")
    if not section:  # an attribute of the task, which no documented target names
        return {"field": "configuration", "name": option.name}
    return _target(section, name)


def _target(section: str, name: str) -> Entry:
    return {"field": "hyperparams", "section": section, "name": name}
