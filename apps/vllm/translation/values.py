"""One value as the arguments that a vLLM's parser takes, or the reason why it takes none of the kind."""

from __future__ import annotations

import difflib
import json
import re

from apps.vllm.catalogue import CatalogueFlag
from apps.vllm.history import why_value_missing
from apps.vllm.registered_names import shipped_values, unregistered
from apps.vllm.request import Given
from apps.vllm.translation.writer import Argument, compact
from common.options.structured import split_values

_HUMAN = re.compile(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_LISTS = frozenset({"--ignore-patterns", "--long-lora-scaling-factors"})


class UnfitValueError(ValueError):
    """This vLLM does not take the value.

    Attributes:
        is_mistake: No vLLM that is known takes it.
    """

    def __init__(self, reason: str, *, is_mistake: bool = False) -> None:
        super().__init__(reason)
        self.is_mistake = is_mistake


def arguments_for(found: CatalogueFlag, item: Given, version: str) -> tuple[Argument, ...]:
    """Write a field that is no switch as the arguments of a flag.

    Args:
        found: The flag.
        item: The field.
        version: The vLLM's version, for words.

    Raises:
        UnfitValueError: The flag does not take the value.
    """
    if found.takes_value == "none":
        raise UnfitValueError(f"{found.name} of vLLM {version} takes no value")
    if found.is_list or found.is_appended or found.name in _LISTS:
        values = [_scalar(found, part, item, version) for part in split_values(str(item.value))]
        if found.is_appended:
            return tuple((found.name, value) for value in values)
        if not found.is_list:
            return ((found.name, ",".join(values)),)
        if len(values) > 1 and any(value.startswith("-") for value in values):
            reason = f"a value of {found.name} may not begin with a dash"
            raise UnfitValueError(reason, is_mistake=True)
        return ((found.name, *values),)
    return ((found.name, _scalar(found, item.value, item, version)),)


def plain_number(text: str) -> int | None:
    """Read ``32k`` (thousands) or ``32K`` (1024s) as vLLM does; None where it is no such number."""
    read = _HUMAN.fullmatch(text.strip())
    if read is None:
        return None
    number, suffix = read.groups()
    base = 1024 if suffix.isupper() else 1000
    return int(float(number) * base ** _POWERS[suffix.lower()])


def check_choice(found: CatalogueFlag, value: str, item: Given, version: str) -> None:
    """Check a value against what the parser enforces, what is registered, and what is known to have left.

    Raises:
        UnfitValueError: It is not among the values.
    """
    if reason := why_value_missing(found.name, value, version):
        raise UnfitValueError(reason)
    if names := unregistered(found, value):
        reason = f"vLLM {version} has no {value!r} for {found.name}{names}"
        if value in shipped_values(found.name):
            raise UnfitValueError(reason)
        raise UnfitValueError(f"is known to no vLLM: {reason}", is_mistake=True)
    if found.accepts(value):
        return
    known = shipped_values(found.name) | set(item.option.choices)
    is_size = item.option.type in ("integer", "float")  # newer versions take any
    near = difflib.get_close_matches(value, found.choices, n=1)
    hint = f"; did you mean {near[0]}?" if near and value not in known else ""
    reason = f"vLLM {version} takes {', '.join(found.choices)} for {found.name}{hint}"
    if value in known or is_size:
        raise UnfitValueError(f"{reason}, not {value!r}")
    raise UnfitValueError(f"is known to no vLLM: {reason}", is_mistake=True)


def _scalar(found: CatalogueFlag, value: object, item: Given, version: str) -> str:
    kind = re.sub(r"^(?:list|append)\[(.*)\]$", r"\1", found.type or "str")
    text = _by_kind(kind, found, value, version)
    check_choice(found, text, item, version)
    return text


def _by_kind(kind: str, found: CatalogueFlag, value: object, version: str) -> str:
    if kind == "json" and not isinstance(value, str):
        return compact(value)
    if kind == "json":
        try:
            json.loads(str(value))
        except ValueError as error:
            raise UnfitValueError(f"is not valid JSON: {error}", is_mistake=True) from error
        return str(value)
    if kind == "bool":
        return str(value)
    if kind in ("int", "human_int", "human_int_or_auto"):
        return _whole(kind, found, value, version)
    if kind == "float":
        try:
            return str(float(value) if isinstance(value, str) else value)
        except ValueError as error:
            raise UnfitValueError("must be a number", is_mistake=True) from error
    return value if isinstance(value, str) else str(value)


def _whole(kind: str, found: CatalogueFlag, value: object, version: str) -> str:
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if re.fullmatch(r"-?\d+", text) and not (text == "-1" and kind == "human_int"):
        return text
    if text in ("auto", "-1"):
        if kind == "human_int_or_auto":
            return text
        reason = f"{found.name} of vLLM {version} takes a number; without one it chooses itself"
        raise UnfitValueError(reason)
    number = plain_number(text)
    if number is None:
        raise UnfitValueError(f"{found.name} takes a whole number", is_mistake=True)
    # A fraction without a suffix is a number for newer parsers only.
    return text if kind.startswith("human") and text[-1].isalpha() else str(number)
