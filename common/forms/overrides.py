"""An administrator's changes to the fields of the forms (``app_wizard_overrides``). Pure."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from common.errors import ConfigurationError, Problem
from common.forms.syntax import check_form

SECTION = "app_wizard_overrides"
PROPERTIES = ("options", "default", "placeholder", "hint", "info")

Form = dict[str, Any]


def apply_overrides(forms: Mapping[str, Form], overrides: Any) -> dict[str, Form]:
    """Apply overrides to forms; those given stay as they are.

    Args:
        forms: The content of the configuration files by application ID.
        overrides: The file's content: ``app_wizard_overrides`` -> application ID -> field -> property.

    Raises:
        ConfigurationError: Every application, field and property that there is not, with the nearest
            one, and every value that a field cannot have.
    """
    if not isinstance(overrides, Mapping) or not isinstance(overrides.get(SECTION), Mapping):
        raise ConfigurationError([Problem("there is no such section", path=SECTION)])
    changed = {name: copy.deepcopy(form) for name, form in forms.items()}
    problems: list[Problem] = []
    for name, fields in overrides[SECTION].items():
        path = f"{SECTION}.{name}"
        if name not in changed:
            problems.append(_unknown("application", path, name, changed))
        elif not isinstance(fields, Mapping):
            problems.append(Problem("must be an object of fields", path=path))
        else:
            problems += _override_form(changed[name], fields, path)
    if problems:
        raise ConfigurationError(problems)
    return changed


def _override_form(form: Form, fields: Mapping[str, Any], path: str) -> Iterator[Problem]:
    entries = {entry["name"]: entry for entry in _walk(form["wizard"]["entries"])}
    for name, properties in fields.items():
        where = f"{path}.{name}"
        if name not in entries:
            yield _unknown("field", where, name, entries)
        elif not isinstance(properties, Mapping):
            yield Problem(f"must be an object of {', '.join(PROPERTIES)}", path=where)
        else:
            yield from _override_field(entries[name], properties, where)
    yield from (Problem(text, path=path) for text in check_form(form))


def _override_field(entry: Form, properties: Mapping[str, Any], path: str) -> Iterator[Problem]:
    if unknown := [name for name in properties if name not in PROPERTIES]:
        for name in unknown:
            yield _unknown("property", f"{path}.{name}", name, PROPERTIES)
        return
    if "options" in properties:
        if problem := _override_options(entry, properties["options"], f"{path}.options"):
            yield problem
            return
    for name in ("placeholder", "hint", "info"):
        if name in properties:
            entry[name] = str(properties[name])
    if "default" in properties:
        if entry["type"] in ("group", "list") or entry.get("secret"):
            yield Problem("this field has no default", path=f"{path}.default")
        elif (value := properties["default"]) is None:
            entry.pop("default", None)
        else:
            entry["default"] = _fitting(entry, value)


def _override_options(entry: Form, options: Any, path: str) -> Problem | None:
    if entry["type"] not in ("dropdown", "string") or entry.get("secret"):
        return Problem(f"a field of the type {entry['type']} has no options", path=path)
    if not isinstance(options, list) or not options:
        return Problem('must be a list such as ["one", "two"]', path=path)
    entry.pop("autocomplete", None)
    # A text field becomes a dropdown: the administrator says what there is to choose from.
    entry |= {"type": "dropdown", "choices": [*options]}
    return None


def _fitting(entry: Form, value: Any) -> Any:
    """Write a value the way that the field's own are written: HOCON reads ``8800`` as a number."""
    is_text = entry["type"] in ("string", "multiline_text", "dropdown")
    choices = entry.get("choices")
    if not is_text or isinstance(value, str) or (isinstance(choices, list) and value in choices):
        return value
    return json.dumps(value, ensure_ascii=False)


def _walk(entries: list[Form]) -> Iterator[Form]:
    for entry in entries:
        yield entry
        yield from _walk(entry.get("item_template", []))


def _unknown(kind: str, path: str, name: str, known: Any) -> Problem:
    shown: Callable[[str], str] = lambda text: f'; the nearest is "{text}"'  # noqa: E731
    close = difflib.get_close_matches(name, [*known], n=1, cutoff=0.0)
    return Problem(f"there is no such {kind}{shown(close[0]) if close else ''}", path=path)
