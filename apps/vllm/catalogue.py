"""The flags of one vLLM: what its own parser takes, as JSON.

::

    {"version": "0.32.0", "flags": {
      "--max-model-len": {"aliases": [], "negations": [], "takes_value": "required",
                          "type": "human_int", "choices": null, "deprecated": false}, ...}}

``aliases`` are other names of the same, ``negations`` the names that switch a boolean off.
``takes_value`` is ``none``, ``required`` or ``optional``. ``type`` is null for a switch, else what the
parser reads: ``str``, ``int``, ``float``, ``bool``, ``json``, ``json_or_str``, ``kv_list`` (``a=1,b=2``),
``human_int`` (``32k``), ``human_int_or_auto``, ``list[...]`` (one or more values after the flag) or
``append[...]`` (the flag once per value). ``choices`` are the values that the parser enforces.
``deprecated`` flags are accepted and announce their end.

Beside ``flags`` there may be ``values``: for flags whose parser takes any text, the names that vLLM has
registered and looks the text up among when it starts, read where nothing else registers more::

    {"version": "0.32.0", "values": {"--tool-call-parser": ["hermes", "mistral"]}, "flags": {...}}
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from packaging.version import InvalidVersion, Version

from common.errors import ConfigurationError, Problem

TakesValue = Literal["none", "required", "optional"]

SHIPPED = Path(__file__).with_name("catalogues")
"""Catalogues of released versions, named ``<version>.json``."""

OLDEST = Version("0.6.6")
"""The oldest vLLM that is supported."""


@dataclass(frozen=True)
class CatalogueFlag:
    """One flag of a vLLM; the module's text says what the attributes mean.

    `registered` are its ``values``, empty where they are not known.
    """

    name: str
    aliases: tuple[str, ...] = ()
    negations: tuple[str, ...] = ()
    takes_value: TakesValue = "required"
    type: str | None = "str"
    choices: tuple[str, ...] = ()
    deprecated: bool = False
    registered: tuple[str, ...] = ()

    @property
    def is_list(self) -> bool:
        """Whether it takes several values after one name."""
        return (self.type or "").startswith("list")

    @property
    def is_appended(self) -> bool:
        """Whether it is given once for each value."""
        return (self.type or "").startswith("append")

    def accepts(self, value: object) -> bool:
        """Whether the parser's choices, if it enforces any, have this value."""
        return not self.choices or str(value) in self.choices


@dataclass(frozen=True)
class Catalogue:
    """The flags of one version of vLLM."""

    version: str
    flags: Mapping[str, CatalogueFlag]

    @cached_property
    def release(self) -> Version:
        """The version to compare with; a build such as ``+cpu`` counts as its release."""
        return Version(Version(self.version).public)

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def __iter__(self) -> Iterator[CatalogueFlag]:
        return iter(self.flags.values())

    def find(self, name: str) -> CatalogueFlag | None:
        """The flag of this name, its own or another of its positive names."""
        return self.flags.get(name) or self._aliases.get(name)

    def lives(self, name: str) -> bool:
        """Whether it has a flag of this name that is not on its way out."""
        found = self.find(name)
        return found is not None and not found.deprecated

    def without_values(self, flags: Collection[str]) -> Catalogue:
        """The same, where names are not known that vLLM has registered for some flags."""
        opened = {f.name: replace(f, registered=()) for f in self if f.name in flags}
        return Catalogue(self.version, {**self.flags, **opened})

    @cached_property
    def _aliases(self) -> Mapping[str, CatalogueFlag]:
        return {alias: flag for flag in self for alias in flag.aliases}


def load_catalogue(path: Path) -> Catalogue:
    """Read a catalogue file.

    Raises:
        ConfigurationError: It cannot be read, or is no catalogue; says what is wrong.
    """
    try:
        return parse_catalogue(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigurationError(
            [Problem(f"cannot be read: {error.strerror}", path=str(path))]
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        problem = Problem(f"is no catalogue of vLLM flags: {reason}", path=str(path))
        raise ConfigurationError([problem]) from error


def parse_catalogue(document: Mapping[str, Any]) -> Catalogue:
    """Make a catalogue of its JSON.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is none.
    """
    version = str(document["version"])
    try:
        Version(version)
    except InvalidVersion as error:
        raise ValueError(f"{version!r} is no version") from error
    values = document.get("values") or {}
    flags = document["flags"].items()
    return Catalogue(version, {name: _flag(name, i, values.get(name)) for name, i in flags})


def render_catalogue(catalogue: Catalogue) -> str:
    """Write a catalogue as JSON, a flag a line, sorted by name."""
    flags = sorted(catalogue, key=lambda flag: flag.name)
    text = json.dumps({"version": catalogue.version})[:-1]
    if values := {flag.name: flag.registered for flag in flags if flag.registered}:
        text += f', "values": {_lines(values)}'
    return f'{text}, "flags": {_lines({flag.name: _flag_to_json(flag) for flag in flags})}}}\n'


def _lines(items: Mapping[str, Any]) -> str:
    lines = (f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in items.items())
    return "{\n" + ",\n".join(lines) + "\n}"


def _flag(name: str, item: Mapping[str, Any], values: object) -> CatalogueFlag:
    takes = item["takes_value"]
    if not isinstance(values, (list, type(None))):
        raise TypeError(f"{name}: its values are no list")
    if takes not in ("none", "required", "optional"):
        raise ValueError(f"{name}: takes_value {takes!r} is none of none, required, optional")
    return CatalogueFlag(
        name=name,
        aliases=tuple(item.get("aliases") or ()),
        negations=tuple(item.get("negations") or ()),
        takes_value=takes,
        type=item.get("type"),
        choices=tuple(map(str, item.get("choices") or ())),
        deprecated=bool(item.get("deprecated")),
        registered=tuple(map(str, values or ())),
    )


def _flag_to_json(flag: CatalogueFlag) -> dict[str, Any]:
    is_number = (flag.type or "").endswith("int")
    choices = [int(c) if is_number and c.lstrip("-").isdigit() else c for c in flag.choices]
    return {
        "aliases": list(flag.aliases),
        "negations": list(flag.negations),
        "takes_value": flag.takes_value,
        "type": flag.type,
        "choices": choices or None,
        "deprecated": flag.deprecated,
    }
