"""Options whose value is more than one word: JSON objects, numbers by name, lists. Pure.

A form and a cloned task give them as text, a JSON file as what they are. Either becomes one text that
the rest of the program can rely on.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

Structure = Literal["object", "overrides", "limits", "list", "modules"]
"""What the text of an option holds, and what it is normalised to.

``object``: a JSON object. ``overrides``: the same, also typed as lines of ``name: value``. ``limits``: a
JSON object, also typed as ``image=16,video=2``. ``list``: values separated by commas, spaces or line
ends, or a JSON list; normalised to commas. ``modules``: text as it is, a JSON list as JSON.
"""

_SEPARATORS = re.compile(r"[\s,]+")


def read_structure(kind: Structure, value: Any) -> str:
    """Bring a value into its one form.

    Args:
        kind: What the option holds.
        value: The text, or what a JSON file gave.

    Returns:
        The text; empty when there is nothing in it.

    Raises:
        ValueError: It is not what the option holds; says what is wrong, and where.
    """
    if kind == "list":
        return ",".join(_read_list(value))
    if kind == "modules":
        if not isinstance(value, (str, dict, list)):
            raise ValueError("must be text or a list")
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if kind == "limits":
        return _dump(_read_limits(value))
    if kind == "overrides" and isinstance(value, str) and not value.lstrip().startswith(("{", "[")):
        return _dump(_read_lines(value))
    return _dump(read_object(value))


def read_object(value: Any) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: It is no JSON, or no object; says where it stops being JSON.
    """
    read = read_json(value) if isinstance(value, str) else value
    if not isinstance(read, dict):
        raise ValueError('must be a JSON object such as {"name": "value"}')
    return read


def read_json(text: str) -> Any:
    """Read JSON as the standard has it: no NaN, no name twice.

    Raises:
        ValueError: It is none; says where.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_twins)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"is not valid JSON: {error.msg} at {where}") from error
    except RecursionError as error:
        raise ValueError("is not valid JSON: it is nested too deeply") from error


def split_values(text: str) -> list[str]:
    """Split at commas, spaces and line ends."""
    return [part for part in _SEPARATORS.split(text) if part]


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"is not valid JSON: {name} is no number there")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has {twice!r} twice")
    return read


def _read_list(value: Any) -> list[str]:
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            return split_values(value)
        value = read_json(value)
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(i, (str, int, float)) and not isinstance(i, bool) for i in items):
        raise ValueError("must be a list of values, separated by commas or as JSON")
    return [part for item in items for part in split_values(str(item))]


def _read_limits(value: Any) -> dict[str, Any]:
    if isinstance(value, str) and not value.lstrip().startswith(("{", "[")):
        pairs = [part.partition("=") for part in split_values(re.sub(r"\s*=\s*", "=", value))]
        if not all(name and equals for name, equals, _ in pairs):
            raise ValueError("must be items such as image=16,video=2, or a JSON object")
        limits: dict[str, Any] = _without_twins([(name, number) for name, _, number in pairs])
    else:
        limits = read_object(value)
    return {name: _limit(name, number) for name, number in limits.items()}


def _limit(name: str, value: Any) -> Any:
    # Newer engines also take an object, with a count and sizes.
    if isinstance(value, dict):
        return value
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal():
        raise ValueError(f"{name} must be a whole number, 0 or more")
    return int(text)


def _read_lines(text: str) -> dict[str, Any]:
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not name or " " in name:
            raise ValueError(
                f"line {number} is not written as name: value; JSON is allowed as well"
            )
        pairs.append((name, _scalar(value, number)))
    return _without_twins(pairs)


def _scalar(text: str, line: int) -> Any:
    if text.startswith(("{", "[")):
        try:
            return read_json(text)
        except ValueError as error:
            raise ValueError(f"line {line}: the value {error}") from error
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    text = re.sub(r"\s+#.*", "", text)
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    # Only what JSON has as a number is one: a revision such as 0123 stays text.
    if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", text):
        return json.loads(text)
    return None if text in ("", "null") else text
