"""An instance's configuration as a file: written from its parameters, read back into them. Pure.

A file holds the values by their wizard names, in the form's order, and never a secret: `left_out` names
the fields that such a file does not hold. Files that people wrote by hand are read as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import ConfigurationError, Problem
from common.forms.entry import Attributes, entry_of_parameters, is_empty, parameters_of_entry
from common.forms.lookup import FieldNames, shown_path
from common.forms.names import MODELS_FIELD, field_name
from common.options.declaration import Option
from common.options.loading import FOREIGN_SECTIONS, MODELS_PATH, render_value
from common.options.settings import AppSettings

VERSION = 1

_ENVELOPE = frozenset({"app", "version", "left_out", "$schema"})
# What the validation takes for a boolean beside true and false.
_WORDS = {"1": True, "yes": True, "y": True, "on": True, "t": True}
_WORDS |= {"0": False, "no": False, "n": False, "off": False, "f": False}

AnySettings = type[AppSettings[Any, Any]]


@dataclass(frozen=True)
class Exported:
    """A configuration that can be written to a file.

    Attributes:
        document: What the file holds.
        secrets: Titles and paths of the secrets that were set, and are not in it.
        notes: What else is not in it.
    """

    document: dict[str, Any]
    secrets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The file's text."""
        return json.dumps(self.document, indent=2, ensure_ascii=False) + "\n"


@dataclass
class ReadDocument:
    """What a configuration file says.

    Attributes:
        parameters: ``Section/name`` to value; a list of models in ``Models/models``.
        attributes: The instance's name, project and queue.
        notes: What the user should know about how it was read.
        problems: Names that no option has, and names that several have; their values are left out.
    """

    parameters: dict[str, Any] = field(default_factory=dict)
    attributes: Attributes = field(default_factory=Attributes)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def export_configuration(
    app_name: str,
    settings_cls: AnySettings,
    parameters: Mapping[str, Any],
    attributes: Attributes | None = None,
) -> Exported:
    """Describe an instance's configuration for a file.

    Values become what their options' types say; one that cannot (a mistake in the task) stays text.

    Args:
        app_name: The app, as the command line calls it.
        settings_cls: Its settings.
        parameters: ``Section/name`` to value, as the task has them.
        attributes: The instance's name, project and queue.

    Raises:
        ConfigurationError: The models are no list of objects, or have names that no option has.
    """
    options = tuple(settings_cls.options())
    of_model = {path for option in options if option.per_model for path in _paths_of(option)}
    known = {MODELS_PATH, *of_model, *(option.path for option in options)}
    given = {path: parameters[path] for path in parameters if not is_empty(parameters, path)}
    entry = entry_of_parameters(
        settings_cls, {path: given[path] for path in given if path in known}, attributes
    )
    document = {
        "app": app_name,
        "version": VERSION,
        "values": _tidied_entry(options, entry),
        "left_out": [field_name(option) for option in options if option.secret],
    }
    secrets = [f'"{o.title}" ({o.path})' for o in options if o.secret and o.path in given]
    notes = [
        f"{path} is no option of {app_name} and is left out"
        for path in sorted(given.keys() - known)
        if path.partition("/")[0] not in FOREIGN_SECTIONS
    ]
    if entry.get(MODELS_FIELD) and MODELS_PATH in given and of_model & given.keys():
        ignored = ", ".join(sorted(of_model & given.keys()))
        notes.append(f"{MODELS_PATH} is set: these have no effect and are left out: {ignored}")
    return Exported(document, tuple(secrets), tuple(notes))


def read_document(app_name: str, settings_cls: AnySettings, document: Any) -> ReadDocument:
    """Read a configuration file: an exported one, or one that somebody wrote.

    Names may be wizard names, parameter paths or titles, flat or in sections.

    Args:
        app_name: The app that the file is for, as the command line calls it.
        settings_cls: Its settings.
        document: The file's JSON.

    Raises:
        ConfigurationError: It is no object, or was made for another app or by a newer version.
    """
    if not isinstance(document, dict):
        raise ConfigurationError([Problem("the configuration must be a JSON object")])
    _check_envelope(app_name, document)
    reading = _Reading(FieldNames(settings_cls))
    for name, value in document.items():
        if name == "values" and isinstance(value, dict):
            reading.read(value)
        elif name not in _ENVELOPE:
            reading.read({name: value})
    read = reading.result
    read.attributes = parameters_of_entry(settings_cls, reading.entry)[0]
    return read


def assign(
    settings_cls: AnySettings, parameters: dict[str, Any], path: str, value: Any
) -> Problem | None:
    """Set one parameter over those of a file: an option of its only model in that model's place.

    Returns:
        What is wrong: the option is one of a model, and the file lists several of them.
    """
    models = parameters.get(MODELS_PATH)
    names = {p: o.name for o in settings_cls.options() if o.per_model for p in _paths_of(o)}
    if path not in names or not isinstance(models, list) or not models:
        parameters[path] = value
    elif len(models) == 1 and isinstance(models[0], dict):
        parameters[MODELS_PATH] = [{**models[0], names[path]: value}]
    else:
        message = f"which of the file's {len(models)} models is meant? Change it in the file"
        return Problem(message, path=f"--set {path}")
    return None


def _paths_of(option: Option) -> tuple[str, str]:
    # Every option of a model may also stand in the section Model.
    return option.path, f"Model/{option.name}"


def _tidied_entry(options: tuple[Option, ...], entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry's values as the schema has them, without secrets."""
    by_field = {field_name(option): option for option in options}
    values: dict[str, Any] = {}
    for name, value in entry.items():
        if name == MODELS_FIELD:
            values[name] = [{n: _tidied(by_field[n], v) for n, v in m.items()} for m in value]
        elif not by_field[name].secret:
            values[name] = _tidied(by_field[name], value)
    return values


def _tidied(option: Option, value: Any) -> Any:
    """A choice in the option's own spelling, any word for yes as true, a structure as its text."""
    if option.type == "string":
        value = render_value(value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    if option.type == "boolean":
        return _WORDS.get(text.lower(), text)
    return next((choice for choice in option.choices if choice.lower() == text.lower()), text)


def _check_envelope(app_name: str, document: Mapping[str, Any]) -> None:
    app, version = document.get("app"), document.get("version", 0)
    problems = []
    if app is not None and app != app_name:
        message = f"the file is a configuration of {app}, not of {app_name}"
        problems.append(Problem(message, path="app", value=app))
    if not isinstance(version, int):
        problems.append(Problem("must be a whole number", path="version", value=version))
    elif version > VERSION:
        message = f"this program reads files up to version {VERSION}; a newer one wrote this"
        problems.append(Problem(message, path="version", value=version))
    if problems:
        raise ConfigurationError(problems)


class _Reading:
    """One file on its way to parameters; `entry` holds the instance's own fields."""

    def __init__(self, names: FieldNames) -> None:
        self.names = names
        self.result = ReadDocument()
        self.entry: dict[str, Any] = {}
        self._keys: dict[str, str] = {}

    def read(self, values: Mapping[str, Any]) -> None:
        """Take over a file's fields, flat or in sections."""
        for key, value in self._flattened(values):
            if key.partition("/")[0] in FOREIGN_SECTIONS:
                self.result.notes.append(f"{key} is no configuration and is not read")
            elif key.lower() in (MODELS_FIELD, MODELS_PATH.lower()):
                self.result.parameters[MODELS_PATH] = self._models(value)
            elif not _is_blank(value):
                self._field(key, value)

    def _flattened(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            # An option's value may be an object as well.
            is_section = not any(option.structure for option in self.names.find(key))
            if isinstance(value, dict) and is_section:
                section = self.names.section(key) or key
                yield from ((f"{section}/{name}", item) for name, item in value.items())
            else:
                yield key, value

    def _field(self, key: str, value: Any) -> None:
        found = self.names.find(key)
        if len(found) != 1:
            self.result.problems.append(Problem(self._why_not(key, found), path=key))
            return
        option = found[0]
        target = self.result.parameters if option.path else self.entry
        name = option.path or field_name(option)
        if name in target and render_value(target[name]) != render_value(value):
            message = f'differs from the same option given as "{self._keys[name]}"'
            self.result.problems.append(Problem(message, title=option.title, path=key))
            return
        self._keys[name] = key
        target[name] = value

    def _why_not(self, key: str, found: list[Option]) -> str:
        # Without the value: it may be a secret under a misspelt name.
        if not found:
            return f"there is no such option{self.names.hint(key)}"
        return f"may mean {' or '.join(shown_path(option) for option in found)}: use that name"

    def _models(self, value: Any) -> Any:
        """The models' list by the options' own names; what is no list is left to the validation."""
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                return value
        if not isinstance(value, list):
            return value
        return [
            self._model(item, f"{MODELS_PATH}[{index}]") if isinstance(item, dict) else item
            for index, item in enumerate(value)
        ]

    def _model(self, item: Mapping[str, Any], where: str) -> dict[str, Any]:
        model: dict[str, Any] = {}
        for key, value in item.items():
            option = self.names.find_of_model(key)
            if option is None:
                message = f"there is no such model option{self.names.hint(key, per_model=True)}"
                self.result.problems.append(Problem(message, path=f"{where}.{key}"))
            elif option.name in model and model[option.name] != value:
                message = "is given twice, with different values"
                self.result.problems.append(Problem(message, option.title, f"{where}.{key}"))
            elif not _is_blank(value):
                model[option.name] = value
        return model


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
