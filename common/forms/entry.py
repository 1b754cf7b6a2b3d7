"""What a form sends, and the task that it makes: an entry to parameters and back. Pure.

An entry is ``{field_name: value, "models": [{field_name: value, ...}, ...]}``, with the names of
`common.forms.names`; empty values are fields that were left alone. The same happens on a server with
application forms, by the targets of the form's fields.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from common.errors import ConfigurationError, Problem
from common.forms.names import MODELS_FIELD, field_name, has_model_list
from common.options.declaration import Option
from common.options.loading import FOREIGN_SECTIONS, MODELS_PATH, nearest, render_value
from common.options.settings import AppSettings

AnySettings = type[AppSettings[Any, Any]]

# Entry field, as the forms call it -> attribute of the instance.
_ATTRIBUTES = {
    "instance_name": "name",
    "task_name": "name",
    "service_project": "project",
    "project_name": "project",
    "queue": "queue",
}


@dataclass(frozen=True)
class Attributes:
    """What a form says about the instance's task beside its parameters; empty where it does not.

    Attributes:
        name: The instance's name.
        project: Its project.
        queue: The queue to launch through.
    """

    name: str = ""
    project: str = ""
    queue: str = ""


def parameters_of_entry(
    settings: AnySettings, entry: Mapping[str, Any]
) -> tuple[Attributes, dict[str, str]]:
    """Turn what a form sends into what the task carries.

    Args:
        settings: The app's settings class.
        entry: Field name to value, typed or text.

    Returns:
        The instance's attributes, and its parameters: ``Section/name`` to the text that ClearML stores,
        in the order of the form; ``Models/models`` is a JSON list. Only what was filled in.

    Raises:
        ConfigurationError: Every field that the form does not have, with the nearest one that it has.
    """
    fields_of = _Fields(settings)
    problems = fields_of.unknown(entry)
    models, wrong = _read_models(fields_of, entry.get(MODELS_FIELD))
    problems += wrong
    if problems:
        raise ConfigurationError(problems)
    attributes = {
        _ATTRIBUTES[name]: str(entry[name]) for name in fields_of.entry if not is_empty(entry, name)
    }
    flat = _model_values(fields_of, entry)
    if not has_model_list(settings) and len(models) == 1:
        flat, models = flat | models[0], []
    parameters = {fields_of.model[name].path: render_value(flat[name]) for name in flat}
    if models:
        parameters[MODELS_PATH] = json.dumps(models, ensure_ascii=False)
    for name, option in fields_of.shared.items():
        if not is_empty(entry, name):
            parameters[option.path] = render_value(entry[name])
    return Attributes(**attributes), parameters


def entry_of_parameters(
    settings: AnySettings,
    parameters: Mapping[str, Any],
    attributes: Attributes | None = None,
) -> dict[str, Any]:
    """Turn what a task carries into what a form would have sent for it.

    Args:
        settings: The app's settings class.
        parameters: ``Section/name`` to value; sections that are not the user's are passed over.
        attributes: The instance's attributes.

    Returns:
        Field name to value in the order of the form, with the types of the options; text that is not
        of its option's type stays text. Only what is set. ``Models/models`` wins over ``Model/*``.

    Raises:
        ConfigurationError: Every parameter that the app does not have, with the nearest one; models that
            are no list of objects.
    """
    fields_of = _Fields(settings)
    given = {
        path: value
        for path, value in parameters.items()
        if not is_empty(parameters, path) and path.partition("/")[0] not in FOREIGN_SECTIONS
    }
    models, problems = _read_models(fields_of, given.get(MODELS_PATH))
    if not models:
        flat = {
            name: next((given[path] for path in paths if path in given), None)
            for name, paths in fields_of.model_paths.items()
        }
        flat = _model_values(fields_of, flat)
        models = [flat] if flat else []
    problems += fields_of.unknown_paths(given)
    if problems:
        raise ConfigurationError(problems)
    entry: dict[str, Any] = {}
    if attributes is not None:
        said = {f.name: getattr(attributes, f.name) for f in fields(attributes)}
        entry |= {name: said[_ATTRIBUTES[name]] for name in fields_of.entry}
    if has_model_list(settings) or len(models) > 1:
        entry[MODELS_FIELD] = models
    elif models:
        entry |= models[0]
    for name, option in fields_of.shared.items():
        entry[name] = _typed(option, given.get(option.path))
    return {name: value for name, value in entry.items() if value not in (None, "", [])}


def is_empty(values: Mapping[str, Any], name: str) -> bool:
    """Whether a field was left alone: it is not there, null, or only white space."""
    value = values.get(name)
    return value is None or (isinstance(value, str) and not value.strip())


class _Fields:
    """The fields of an app's form by name, as the instance's own, a model's, and the shared ones."""

    def __init__(self, settings: AnySettings) -> None:
        options = list(settings.options())
        self.has_list = has_model_list(settings)
        self.entry = {field_name(option): option for option in options if not option.group}
        self.model = {field_name(option): option for option in options if option.per_model}
        self.shared = {
            field_name(option): option
            for option in options
            if option.group and not option.per_model
        }

    @property
    def model_paths(self) -> dict[str, tuple[str, ...]]:
        """The parameters that may carry each field of a model: its own, or in the section Model."""
        return {name: (option.path, f"Model/{option.name}") for name, option in self.model.items()}

    def unknown(self, entry: Mapping[str, Any]) -> list[Problem]:
        """Names of an entry that no field has."""
        own = {*self.entry, *self.shared}
        known = {*own, MODELS_FIELD} if self.has_list else {*own, *self.model, MODELS_FIELD}
        found = []
        for name in entry:
            if name in known:
                continue
            if name in self.model:
                message = f'belongs to one model: put it into an item of "{MODELS_FIELD}"'
            else:
                message = f"there is no such field{nearest(name, known | set(self.model))}"
            found.append(Problem(message, path=name))
        return found

    def unknown_paths(self, given: Iterable[str]) -> list[Problem]:
        """Parameters that no option has."""
        known = {MODELS_PATH, *(option.path for option in self.shared.values())}
        known.update(path for paths in self.model_paths.values() for path in paths)
        return [
            Problem(f"there is no such parameter{nearest(path, known)}", path=path)
            for path in given
            if path not in known
        ]


def _read_models(fields_of: _Fields, value: Any) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The models of a list, in the order of the form and without empty values; what is wrong with it."""
    if value is None:
        return [], []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            return [], [Problem(f"is not valid JSON: {error}", path=MODELS_FIELD)]
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        message = 'must be a list of objects such as [{"model": "provider/repo"}]'
        return [], [Problem(message, path=MODELS_FIELD)]
    problems = [
        Problem(
            f"there is no such field of a model{nearest(str(name), fields_of.model)}",
            path=f"{MODELS_FIELD}[{index}].{name}",
        )
        for index, item in enumerate(value)
        for name in item
        if name not in fields_of.model
    ]
    return [_model_values(fields_of, item) for item in value], problems


def _model_values(fields_of: _Fields, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _typed(option, values[name])
        for name, option in fields_of.model.items()
        if not is_empty(values, name)
    }


def _finite(number: float, text: str) -> float | str:
    # JSON has no word for the others; the validation names them as they were typed.
    return number if math.isfinite(number) else text


def _typed(option: Option, value: Any) -> Any:
    """Give a text the type of its option, if it is one of that type."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        if option.type == "boolean":
            return {"true": True, "false": False}.get(text.lower(), value)
        if option.type == "integer":
            return int(text)
        if option.type == "float":
            return int(text) if text.lstrip("-").isdigit() else _finite(float(text), value)
    except (ValueError, OverflowError):
        pass
    return value
