"""The field "CLI": arguments a user types for the engine, read against the engine's own flags.

Nothing here knows an engine. An app gives the flags its engine has (`FlagTable`) and those it
refuses; it gets back canonical flags with their values, and every problem in words.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

_NUMBER = re.compile(r"-(\d|\.\d)")


@dataclass(frozen=True)
class Flag:
    """One flag of an engine.

    Attributes:
        name: The name it is passed by, ``--ctx-size``.
        aliases: Its other names, short ones included.
        negatives: Names that switch it off (``--no-mmap`` of ``--mmap``), the preferred one first.
        min_values: Values it takes at least; 0 for a switch.
        max_values: Values it takes at most; None = any number.
        env: The environment variable that the engine reads instead of it, empty where none.
        has_effect: False where the engine accepts it for old times' sake and ignores it.
    """

    name: str
    aliases: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    min_values: int = 0
    max_values: int | None = 0
    env: str = ""
    has_effect: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that means it, switched on or off."""
        return (self.name, *self.aliases, *self.negatives)


@dataclass(frozen=True)
class CliItem:
    """One flag as it was given, under its canonical name.

    Attributes:
        flag: Which one.
        is_negated: It was given by one of its negative names.
        values: Its values, as strings.
    """

    flag: Flag
    is_negated: bool = False
    values: tuple[str, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        """The flag and its values as arguments."""
        name = self.flag.negatives[0] if self.is_negated else self.flag.name
        return (name, *self.values)


@dataclass(frozen=True)
class ParsedCli:
    """A CLI field, read.

    Attributes:
        items: What it asks the engine for.
        problems: What is wrong with it.
        notes: What is right and yet not passed on, and why.
    """

    items: tuple[CliItem, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def last(self, name: str) -> CliItem | None:
        """Return the last item of a flag, by canonical name: engines let the last one win."""
        return next((item for item in reversed(self.items) if item.flag.name == name), None)


class FlagTable:
    """The flags of one engine, found by any of their names."""

    def __init__(self, flags: Iterable[Flag]) -> None:
        self._flags = tuple(flags)
        self._by_name = {name: flag for flag in reversed(self._flags) for name in flag.names}

    def __iter__(self) -> Iterator[Flag]:
        return iter(self._flags)

    def __len__(self) -> int:
        return len(self._flags)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

    def find(self, name: str) -> Flag | None:
        """Return the flag of this name; ``--ctx_size`` is accepted for ``--ctx-size``."""
        found = self._by_name.get(name)
        if found is None and name.startswith("--"):
            found = self._by_name.get(name.replace("_", "-"))
        return found

    def first(self, *names: str) -> Flag | None:
        """Return the first of these flags that this engine has."""
        return next((flag for name in names if (flag := self.find(name))), None)

    def nearest(self, name: str) -> str:
        """Return the real flag closest to a misspelt one, empty where none is close."""
        close = difflib.get_close_matches(name.lower(), self._by_name, n=1, cutoff=0.6)
        return close[0] if close else ""

    def only(self, names: Collection[str]) -> FlagTable:
        """Return a table of the flags with these canonical names."""
        return FlagTable(flag for flag in self._flags if flag.name in names)


@dataclass
class _Parsing:
    """The state of one parse: tokens to come, results so far."""

    tokens: Sequence[str]
    table: FlagTable
    position: int = 0
    items: list[CliItem] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def next_value(self) -> str | None:
        """Take the next token if it can be a value: a flag's name cannot."""
        if self.position >= len(self.tokens):
            return None
        token = self.tokens[self.position]
        if (
            token.startswith("-")
            and not _NUMBER.match(token)
            and token.partition("=")[0] in self.table
        ):
            return None
        self.position += 1
        return token

    def more_values(self, count: int, flag: Flag) -> list[str]:
        """Take values of a flag that already has `count` of them."""
        values: list[str] = []
        while flag.max_values is None or count + len(values) < flag.max_values:
            is_optional = count + len(values) >= flag.min_values
            if is_optional and self._looks_like_a_flag():
                break
            value = self.next_value()
            if value is None:
                break
            values.append(value)
        return values

    def skip_values(self) -> None:
        """Step over what an unknown flag was given, so that one mistake is one problem."""
        while not self._looks_like_a_flag():
            self.position += 1

    def _looks_like_a_flag(self) -> bool:
        token = self.tokens[self.position] if self.position < len(self.tokens) else "-"
        return token.startswith("-") and not _NUMBER.match(token)


def split_cli(text: str) -> list[str]:
    """Split the field into arguments by the rules of a POSIX shell (quotes and backslashes).

    Line breaks separate like spaces; a backslash before one joins the lines, as pasted commands do.

    Raises:
        ValueError: A quote is never closed, or the text ends in a backslash; says so in words.
    """
    joined = re.sub(r"\\\r?\n", " ", text)
    try:
        return shlex.split(joined, comments=False, posix=True)
    except ValueError as error:
        reason = (
            "ends in a backslash" if "escaped" in str(error) else "has a quote that is never closed"
        )
        raise ValueError(f"{reason}; the rules of a shell apply") from error


def last_value(text: str, names: Collection[str]) -> str | None:
    """Return the value of a flag in the field without knowing the engine's other flags.

    Returns:
        The last value given to one of `names` (``--name value`` or ``--name=value``); None where
        there is none, or where the field cannot be split.
    """
    try:
        tokens = split_cli(text)
    except ValueError:
        return None
    found = None
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        name, equals, value = token.partition("=")
        if name in names:
            found = value if equals else following
    return found


def mentions(text: str, names: Collection[str]) -> bool:
    """Tell whether the field holds one of `names`, flags without a value; False where it cannot be split."""
    try:
        return any(token in names for token in split_cli(text))
    except ValueError:
        return False


def parse_cli(
    text: str, table: FlagTable, *, refuse: Callable[[str], str | None] = lambda name: None
) -> ParsedCli:
    """Read the field against an engine's flags. Pure; finds every problem in one pass.

    Args:
        text: The field as the user typed it.
        table: The flags of the engine that will run.
        refuse: Gets a flag's canonical name, or an unknown name as given; returns why it may not
            be set here, None where it may. What it refuses never reaches `ParsedCli.items`.

    Returns:
        The flags in the order given; those with a problem are left out.
    """
    try:
        parsing = _Parsing(split_cli(text), table)
    except ValueError as error:
        return ParsedCli(problems=(str(error),))
    while parsing.position < len(parsing.tokens):
        token = parsing.tokens[parsing.position]
        parsing.position += 1
        _read_flag(parsing, token, refuse)
    return ParsedCli(tuple(parsing.items), tuple(parsing.problems))


def _read_flag(parsing: _Parsing, token: str, refuse: Callable[[str], str | None]) -> None:
    # A value can only follow its flag, so a lone one is a mistake; it is not echoed in full, since
    # it may be the value of a key whose flag was mistyped.
    if not token.startswith("-") or _NUMBER.match(token):
        parsing.problems.append(
            f"{_shorten(token)!r} is not a flag, and no flag before it takes it"
        )
        return
    name, equals, attached = token.partition("=")
    flag = parsing.table.find(name)
    reason = refuse(flag.name if flag else name)
    if flag is None:
        parsing.problems.append(f"{name} {reason or _unknown(name, parsing.table)}")
        if not equals:
            parsing.skip_values()
        return
    values = [attached] if equals else []
    if equals and flag.max_values == 0:
        parsing.problems.append(f"{name} takes no value")
        return
    values += [] if equals and flag.max_values == 1 else parsing.more_values(len(values), flag)
    if reason:
        parsing.problems.append(f"{name} {reason}")
    elif len(values) < flag.min_values:
        wanted = "a value" if flag.min_values == 1 else f"{flag.min_values} values"
        parsing.problems.append(f"{name} needs {wanted}")
    else:
        is_negated = name in flag.negatives or name.replace("_", "-") in flag.negatives
        parsing.items.append(CliItem(flag, is_negated, tuple(values)))


def _unknown(name: str, table: FlagTable) -> str:
    near = table.nearest(name)
    return f"is no flag of this engine{f'; did you mean {near}?' if near else ''}"


def _shorten(token: str) -> str:
    return token if len(token) <= 24 else f"{token[:20]}..."
