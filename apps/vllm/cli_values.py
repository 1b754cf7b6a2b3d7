"""Whether vLLM's parser would take a value, told before vLLM is started."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from apps.vllm.catalogue import CatalogueFlag
from apps.vllm.registered_names import unregistered

_DECIMAL = re.compile(r"\d+(\.\d+)?[kmgt]|\d+[KMGT]")
ZERO = "cannot hold a zero character: no argument can"
_SHOWN = 24
"""As many choices are listed; more would bury the message."""


def value_problem(flag: CatalogueFlag, value: str) -> str | None:
    """Say what is wrong with a value of a flag, without the flag's name; None where nothing is."""
    if "\0" in value:
        return ZERO
    # The help of many versions lists a choice "None" that their parser then refuses.
    if value == "None" and (flag.choices or flag.type not in ("str", "json_or_str", "list[str]")):
        return "cannot be 'None'; to leave it to vLLM, leave the flag out"
    if not flag.accepts(value):
        choices = [choice for choice in flag.choices if choice != "None"]
        more = len(choices) - _SHOWN
        listed = ", ".join(choices[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        return f"cannot be {value!r}; vLLM knows {listed}"
    if names := unregistered(flag, value):
        return f"cannot be {value!r}{names}"
    wanted = _wanted(flag.type or "str", value)
    return f"cannot be {value!r}: {wanted} is needed" if wanted else None


def _wanted(kind: str, value: str) -> str:
    """Describe what a type reads, if this value is not of it."""
    kind = re.sub(r"^(?:list|append)\[(.*)\]$", r"\1", kind)
    if kind == "int":
        return "" if _is(int, value) else "a whole number"
    if kind == "float":
        return "" if _is(float, value) else "a number"
    if kind in ("human_int", "human_int_or_auto"):
        return _wanted_size(value.strip(), may_be_auto=kind.endswith("auto"))
    if kind == "bool":
        return "" if value.lower() in ("true", "false") else "true or false"
    if kind == "json":
        return "" if _is(_object_or_list, value) else 'JSON such as {"key": 1}'
    if kind == "json_or_str":
        looks_so = value.strip().startswith("{")
        return "JSON" if looks_so and not _is(json.loads, value) else ""
    if kind == "kv_list":
        is_list = all(re.fullmatch(r"[^=]+=\d+", part) for part in value.split(","))
        return "" if is_list else "a list such as image=2,video=1"
    return ""


def _wanted_size(value: str, *, may_be_auto: bool) -> str:
    if _is(int, value) or _DECIMAL.fullmatch(value) or (may_be_auto and value.lower() == "auto"):
        return ""
    return f"a whole number, one such as 32k or 32K{', or auto' if may_be_auto else ''}"


def _object_or_list(value: str) -> object:
    read = json.loads(value)
    if not isinstance(read, (dict, list)):
        raise ValueError(value)
    return read


def _is(read: Callable[[str], object], value: str) -> bool:
    try:
        read(value)
    except ValueError:
        return False
    return True
