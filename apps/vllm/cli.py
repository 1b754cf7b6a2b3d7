"""The fields "CLI" and "Model Overrides", read against the flags of the vLLM that will run.

What comes back is what vLLM's own parser accepts: names that it has (never an abbreviation of one),
values of the types and choices that it enforces. Pure.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from apps.vllm.catalogue import Catalogue, CatalogueFlag
from apps.vllm.cli_rules import IGNORED, refusal
from apps.vllm.cli_values import ZERO, value_problem
from apps.vllm.history import HISTORY, why_missing
from common.options.cli_field import CliItem, Flag, FlagTable, ParsedCli, parse_cli, split_cli

DOTTED_SINCE = Version("0.9.1")
"""The first version that reads a key of a JSON flag from its name, ``--hf-overrides.key value``."""

_NUMBER = re.compile(r"-(\d|\.\d)")
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class ParsedOverrides(ParsedCli):
    """ "Model Overrides", read.

    Attributes:
        removed: Canonical names of the flags that are not to be passed at all, whatever the form says.
    """

    removed: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Canonical names of all flags that it decides, so that the form no longer does."""
        return frozenset((*self.removed, *(base_name(item) for item in self.items)))


def flag_table(catalogue: Catalogue) -> _VllmFlags:
    """Return the flags of a vLLM as the field "CLI" is read against."""
    return _VllmFlags(catalogue)


def read_cli(text: str, catalogue: Catalogue) -> ParsedCli:
    """Read the field "CLI".

    Args:
        text: The field as the user typed it; the rules of a shell apply.
        catalogue: The flags of the vLLM that will run.

    Returns:
        The flags in the order given, without those that are refused, wrong or ignored.
    """
    try:
        tokens = split_cli(text)
    except ValueError as error:
        return ParsedCli(problems=(str(error),))
    text = shlex.join(_shorthand(token) for token in tokens)
    table = flag_table(catalogue)
    parsed = parse_cli(text, table, refuse=table.refusal)
    problems = [*parsed.problems]
    items: list[CliItem] = []
    for item in parsed.items:
        wrong = _item_problems(item, catalogue)
        problems += [f"{item.flag.name} {problem}" for problem in wrong]
        if not wrong and item.flag.name not in IGNORED:
            items.append(item)
    problems += _lost_by_dots(parsed.items)
    return ParsedCli(tuple(items), tuple(problems), tuple(_notes(parsed.items)))


def read_overrides(overrides: Mapping[str, Any], catalogue: Catalogue) -> ParsedOverrides:
    """Read "Model Overrides": names of flags, with ``_`` or ``-``, to values.

    Args:
        overrides: True and false for switches, null to drop what the form set, numbers, texts,
            lists, objects for flags that read JSON.
        catalogue: The flags of the vLLM that will run.
    """
    table = flag_table(catalogue)
    items: list[CliItem] = []
    problems: list[str] = []
    removed: list[str] = []
    keys: dict[str, str] = {}
    for key, value in overrides.items():
        name = _override_name(key, table)
        flag = table.find(name)
        reason = table.refusal(flag.name if flag else name)
        if flag is None or reason:
            problems.append(f"{key} {reason or table.unknown(name)}")
            continue
        if (twin := keys.setdefault(flag.name, key)) != key:
            problems.append(f"{key} is the same option as {twin}: say it once")
            continue
        known = catalogue.flags.get(flag.name)
        made = _override_items(flag, known, name in flag.negatives, value)
        if isinstance(made, str):
            problems.append(f"{key} {made}")
        elif wrong := [p for item in made for p in _item_problems(item, catalogue)]:
            problems += [f"{key} {problem}" for problem in wrong]
        elif made:
            items += made
        else:
            removed.append(flag.name)
    problems += _lost_by_dots(items)
    kept = tuple(item for item in items if item.flag.name not in IGNORED)
    return ParsedOverrides(kept, tuple(problems), tuple(_notes(items)), tuple(removed))


def engine_argv(item: CliItem) -> tuple[str, ...]:
    """Write one flag so that argparse cannot take its value for another flag."""
    if len(item.values) == 1 and item.values[0].startswith("-") and item.flag.max_values == 1:
        return (f"{item.argv[0]}={item.values[0]}",)
    return item.argv


def base_name(item: CliItem) -> str:
    """Return the flag whose value an item sets or is a part of."""
    return item.flag.name.partition(".")[0]


class _VllmFlags(FlagTable):
    """The flags of a catalogue, and the names that vLLM makes of them before argparse sees them."""

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__(_as_flag(flag) for flag in catalogue)
        self._catalogue = catalogue

    def find(self, name: str) -> Flag | None:
        """Return the flag of this name; also a key of a JSON flag, ``--hf-overrides.key``."""
        base, dot, keys = name.partition(".")
        if name == "-O":
            return self._optimisation()
        if not dot:
            return super().find(name)
        known = self._catalogue.flags.get(flag.name) if (flag := super().find(base)) else None
        reads_json = known is not None and (known.type or "").startswith("json")
        if not (known and keys and reads_json and self._catalogue.release >= DOTTED_SINCE):
            return None
        return Flag(f"{known.name}.{keys}", min_values=1, max_values=1)

    def _optimisation(self) -> Flag | None:
        # Another name of --compilation-config at first, then rewritten by vLLM itself, then no
        # argument at all but another word for --optimization-level.
        found = super().find("-O")
        if found is None:
            return super().find("--optimization-level")
        is_rewritten = self._catalogue.release >= DOTTED_SINCE
        return Flag("-O", min_values=1, max_values=1) if is_rewritten else found

    def refusal(self, name: str) -> str | None:
        """Say why a flag may not be given; of an unknown one, what became of it where that is known."""
        reason = refusal(name)
        name = name.partition(".")[0].replace("_", "-")
        if reason or name in self or name not in HISTORY:
            return reason
        return f"is no flag of this engine: {why_missing(name, self._catalogue.version)}"

    def unknown(self, name: str) -> str:
        """Say that there is no such flag, with the nearest that there is."""
        near = self.nearest(name)
        return f"is no flag of this engine{f'; did you mean {near}?' if near else ''}"


def _as_flag(flag: CatalogueFlag) -> Flag:
    least = {"none": 0, "optional": 0, "required": 1}[flag.takes_value]
    most = None if flag.is_list else 0 if flag.takes_value == "none" else 1
    return Flag(flag.name, flag.aliases, flag.negations, least, most)


def _shorthand(token: str) -> str:
    """Write ``-O3`` as ``-O=3``, which is what vLLM makes of it."""
    attached = re.fullmatch(r"-O=?([^.=].*)", token)
    if attached:
        return f"-O={attached.group(1)}"
    return token


def _item_problems(item: CliItem, catalogue: Catalogue) -> list[str]:
    flag = catalogue.find(item.flag.name)
    if flag is None:
        return [ZERO] if any("\0" in value for value in item.values) else []
    if item.flag.max_values is None and any(_looks_like_a_flag(value) for value in item.values):
        return ["takes no value that begins with a dash"]
    if _is_short_form(item, flag, catalogue):
        return []
    return [problem for value in item.values if (problem := value_problem(flag, value))]


def _is_short_form(item: CliItem, flag: CatalogueFlag, catalogue: Catalogue) -> bool:
    """Say whether a value is one of the short texts that vLLM takes, or took, in place of JSON."""
    value = item.values[0] if flag.type == "json" and item.values else ""
    if flag.name == "--compilation-config":
        is_level = re.fullmatch(r"[0-3]", value) is not None
        return is_level and (item.flag.name == "-O" or catalogue.release < DOTTED_SINCE)
    is_old = flag.name == "--limit-mm-per-prompt" and catalogue.release < Version("0.10")
    return is_old and re.fullmatch(r"\w+=\d+(,\w+=\d+)*", value) is not None


def _looks_like_a_flag(value: str) -> bool:
    return value.startswith("-") and not _NUMBER.match(value)


def _lost_by_dots(items: Sequence[CliItem]) -> list[str]:
    """Find flags given whole and by keys: vLLM takes the keys and forgets the rest."""
    whole = {item.flag.name for item in items}
    dotted = dict.fromkeys(base_name(item) for item in items if "." in item.flag.name)
    return [
        f"{name} is given both as a whole and by {name}.<key>: vLLM would forget the former; "
        "give all keys one way"
        for name in dotted
        if name in whole
    ]


def _notes(items: Sequence[CliItem]) -> Iterator[str]:
    for name in dict.fromkeys(item.flag.name for item in items if item.flag.name in IGNORED):
        yield f"{name} {IGNORED[name]}"


def _override_name(key: str, table: FlagTable) -> str:
    """Return the flag that a name in "Model Overrides" means, with its dashes."""
    bare, dot, keys = key.strip().lstrip("-").partition(".")
    long = f"--{bare.replace('_', '-')}{dot}{keys}"
    return next((name for name in (long, f"-{bare}{dot}{keys}") if table.find(name)), long)


def _override_items(
    flag: Flag, known: CatalogueFlag | None, is_negative: bool, value: Any
) -> list[CliItem] | str:
    """Write one override as flags: none of them to drop the flag; a text says what is wrong."""
    if value is None:
        return []
    if flag.max_values == 0:
        return _switch(flag, is_negative, value)
    if known is None or (known.type or "").startswith("json"):
        return [CliItem(flag, values=(_json_text(value),))]
    if isinstance(value, list):
        if known.is_appended:
            return [CliItem(flag, values=(_text(item),)) for item in value]
        if not known.is_list:
            return "takes one value, not a list"
        return [CliItem(flag, values=tuple(map(_text, value)))] if value else []
    if isinstance(value, dict) and known.type == "kv_list":
        return [CliItem(flag, values=(",".join(f"{k}={_text(v)}" for k, v in value.items()),))]
    return [CliItem(flag, values=(_text(value),))]


def _switch(flag: Flag, is_negative: bool, value: Any) -> list[CliItem] | str:
    wanted = _BOOLEANS.get(str(value).strip().lower())
    if wanted is None:
        return "is a switch: true, false, or null to leave it to the engine"
    if wanted != is_negative:
        return [CliItem(flag)]
    return [CliItem(flag, is_negated=True)] if flag.negatives else []


def _json_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (bool, dict, list)):
        return json.dumps(value, separators=(",", ":"))
    return str(value)
