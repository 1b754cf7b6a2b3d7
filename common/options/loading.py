"""Hyperparameters to settings: all problems of a configuration found in one pass.

Values arrive as strings (ClearML stores strings) or, from a JSON file, typed. Empty means not set.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from common.errors import ConfigurationError, Problem
from common.options.declaration import Option, OptionGroup
from common.options.no_effect import without_effect
from common.options.settings import AppSettings, ModelOptions

# Sections that ClearML or this program writes, never the user's options.
FOREIGN_SECTIONS = frozenset({"Status", "properties", "Args", "Hydra", "Datasets"})
MODELS_PATH = "Models/models"

SettingsT = TypeVar("SettingsT", bound="AppSettings[Any, Any]")

# Path of a model, its options (those that are valid), the settings without models -> problems whose
# `path` is a bare field name.
ModelCheck = Callable[[str, ModelOptions, Any], list[Problem]]


@dataclass(frozen=True)
class Loaded(Generic[SettingsT]):
    """Settings, and what the user should know of them: what was ignored, and what has no effect."""

    settings: SettingsT
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _ReadModel:
    """One model: without the values that are wrong by themselves, which are reported already."""

    where: str
    model: ModelOptions
    is_valid: bool


@dataclass
class _Reading:
    """Problems and warnings collected while one configuration is read."""

    options: tuple[Option, ...]
    check: Callable[[str, ModelOptions], list[Problem]] = lambda where, model: []
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def option(self, path: str) -> Option | None:
        return next((option for option in self.options if option.path == path), None)

    @property
    def example(self) -> str:
        """A model reference, as the form shows one."""
        declared = self.option("Model/model")
        return declared.placeholder if declared else ""

    def add(self, path: str, message: str, value: Any = None, *, shown: str | None = None) -> None:
        declared = self.option(path)
        # Free text for the engine may hold a key as well.
        hidden = declared is not None and (
            declared.secret
            or declared.name == "cli"
            or declared.structure in ("object", "overrides")
        )
        problem = Problem(
            message,
            title=declared.title if declared else "",
            path=shown or path,
            value=None if hidden else value,
        )
        if problem not in self.problems:
            self.problems.append(problem)


def load_settings(
    cls: type[SettingsT], parameters: Mapping[str, Any], check: ModelCheck | None = None
) -> Loaded[SettingsT]:
    """Validate an instance's parameters.

    Args:
        cls: The app's settings class.
        parameters: ``Section/name`` to value, strings or typed; ``Models/models`` is a JSON list or a
            list of objects.
        check: Further checks of each model, such as its CLI against the engine's own flags.

    Returns:
        The settings and warnings.

    Raises:
        ConfigurationError: With every problem there is.
    """
    reading = _Reading(tuple(cls.options(entry=False)))
    given = {path: value for path, value in parameters.items() if not _is_empty(value)}
    _check_names(reading, given)
    groups = {name: _load_group(reading, group, given) for name, group in cls.group_types().items()}
    partial = cls.of_parts((), groups)
    reading.check = lambda where, model: [
        *partial.model_problems(model),
        *(check(where, model, partial) if check is not None else ()),
    ]
    models = _load_models(reading, cls, given)
    reading.problems += cls.cross_problems(
        [(item.where, item.model) for item in models if item.is_valid and item.model.reference]
    )
    for problem in cls.of_parts([item.model for item in models], groups).group_problems():
        reading.add(problem.path, problem.message, problem.value)
    if reading.problems:
        raise ConfigurationError(reading.problems)
    settings = cls.of_parts([item.model for item in models], groups)
    unused = without_effect(settings, [item.where for item in models])
    return Loaded(settings, (*reading.warnings, *unused))


def render_value(value: Any) -> str:
    """Write a typed value the way ClearML stores it, as a string."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False)


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause naming the known name closest to a misspelt one, or an empty string."""
    candidates = list(known)
    lowered = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f'; did you mean "{lowered[close[0]]}"?' if close else ""


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _check_names(reading: _Reading, given: Mapping[str, Any]) -> None:
    known = {option.path for option in reading.options}
    aliases = {f"Model/{option.name}" for option in reading.options if option.per_model}
    for path in given:
        section = path.partition("/")[0]
        if section in FOREIGN_SECTIONS or path in known or path in aliases or path == MODELS_PATH:
            continue
        # Without its value: it may be a secret under a misspelt name.
        hint = _elsewhere(reading, path) or nearest(path, known | {MODELS_PATH})
        reading.add(path, f"there is no such parameter{hint}")


def _elsewhere(reading: _Reading, path: str) -> str:
    """A clause naming the same option in its own section, or an empty string."""
    name = path.rpartition("/")[2].lower()
    paths = [f'"{option.path}"' for option in reading.options if option.name == name]
    return f"; did you mean {' or '.join(paths)}?" if paths else ""


def _load_group(
    reading: _Reading, group: type[OptionGroup], given: Mapping[str, Any]
) -> OptionGroup:
    prefix = f"{group.section}/"
    raw = {
        path.removeprefix(prefix): value
        for path, value in given.items()
        if path.startswith(prefix) and path.removeprefix(prefix) in group.model_fields
    }
    return _validate(reading, group, raw, lambda name: f"{prefix}{name}", None)[0]


def _load_models(
    reading: _Reading, cls: type[AppSettings[Any, Any]], given: Mapping[str, Any]
) -> list[_ReadModel]:
    model_type: type[ModelOptions] = cls.model_type()
    flat = _flat_model(reading, given)
    entries = _models_list(reading, given.get(MODELS_PATH))
    if entries is None:  # the list itself is broken; that problem is reported already
        return []
    if cls.max_models is not None and len(entries) > cls.max_models:
        reading.problems.append(Problem(cls.too_many_models(), path=MODELS_PATH))
    if entries:
        if flat:
            names = ", ".join(sorted(_own_path(reading, name) for name in flat))
            reading.warnings.append(f"{MODELS_PATH} is set: these are ignored: {names}")
        return [
            _load_listed_model(reading, model_type, entry, f"{MODELS_PATH}[{index}]")
            for index, entry in enumerate(entries)
        ]
    if "model" not in flat:
        reading.add(
            "Model/model",
            f"is required: a ClearML model ID, a Hugging Face reference such as {reading.example}, or "
            "a local path",
        )
    path_of = functools.partial(_own_path, reading)
    return [_ReadModel("Model", *_validate(reading, model_type, flat, path_of, None))]


def _flat_model(reading: _Reading, given: Mapping[str, Any]) -> dict[str, Any]:
    """The one model described by the flat sections; a per-model option may also stand in ``Model/``."""
    flat: dict[str, Any] = {}
    for option in reading.options:
        if not option.per_model:
            continue
        paths = dict.fromkeys((option.path, f"Model/{option.name}"))
        values = {path: given[path] for path in paths if path in given}
        if len(set(map(str, values.values()))) > 1:
            reading.add(option.path, f"differs from the same option given as Model/{option.name}")
        if values:
            flat[option.name] = next(iter(values.values()))
    return flat


def _own_path(reading: _Reading, name: str) -> str:
    return next(
        (o.path for o in reading.options if o.per_model and o.name == name), f"Model/{name}"
    )


def _models_list(reading: _Reading, value: Any) -> list[Any] | None:
    if value is None:
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            reading.problems.append(Problem(f"is not valid JSON: {error}", path=MODELS_PATH))
            return None
    if not isinstance(value, list):
        message = f'must be a list of objects such as [{{"model": "{reading.example}"}}]'
        reading.problems.append(Problem(message, path=MODELS_PATH))
        return None
    return value


def _load_listed_model(
    reading: _Reading, model_type: type[ModelOptions], entry: Any, where: str
) -> _ReadModel:
    if not isinstance(entry, dict):
        reading.problems.append(Problem("must be an object", path=where, value=entry))
        return _ReadModel(where, model_type(), is_valid=False)
    known = model_type.model_fields
    for name in entry:
        if name not in known:
            hint = _elsewhere(reading, str(name)) or nearest(str(name), known)
            message = f"there is no such model option{hint}"
            reading.problems.append(Problem(message, path=f"{where}.{name}"))
    raw = {name: value for name, value in entry.items() if name in known and not _is_empty(value)}
    if "model" not in raw:
        reading.add("Model/model", "is required", shown=f"{where}.model")
    path_of = functools.partial(_own_path, reading)
    return _ReadModel(where, *_validate(reading, model_type, raw, path_of, where))


GroupT = TypeVar("GroupT", bound=OptionGroup)


def _validate(
    reading: _Reading,
    group: type[GroupT],
    raw: Mapping[str, Any],
    path_of: Callable[[str], str],
    where: str | None,
) -> tuple[GroupT, bool]:
    """Validate one group; its problems are reported under the paths the user knows.

    Returns:
        The group without the values that are wrong by themselves, and whether it has no problem.
    """

    def shown(name: str) -> str | None:
        return f"{where}.{name}" if where else None

    before = len(reading.problems)
    remaining = dict(raw)
    try:
        checked = group.model_validate(remaining)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            name = str(details["loc"][0])
            reading.add(path_of(name), _wording(details), raw.get(name), shown=shown(name))
            remaining.pop(name, None)
        # The fields that are right still take part in the checks between fields.
        checked = group.model_validate(remaining)
    further = reading.check(where or "Model", checked) if isinstance(checked, ModelOptions) else []
    for problem in [*checked.problems(), *further]:
        path, message, value = problem.path, problem.message, problem.value
        if "/" in path:  # a shared option's: an engine finds its problem with every model
            reading.add(path, message, value)
        else:
            reading.add(path_of(path), message, value, shown=shown(path))
    return checked, len(reading.problems) == before


def _wording(details: ErrorDetails) -> str:
    """Say what is allowed, in the user's words instead of the validator's."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "literal_error":
        return f"must be one of {context.get('expected', '')}".replace(" or ", ", ")
    bounds = {
        "greater_than_equal": ("at least", "ge"),
        "greater_than": ("more than", "gt"),
        "less_than_equal": ("at most", "le"),
        "less_than": ("less than", "lt"),
    }
    if kind in bounds:
        word, key = bounds[kind]
        return f"must be {word} {context[key]:g}"
    wanted = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "finite": "a number",
        "string": "text",
    }
    for prefix, noun in wanted.items():
        if kind.startswith(prefix):
            return f"must be {noun}"
    return str(details["msg"])
