from __future__ import annotations

import pytest

from common.options.cli_field import Flag, FlagTable, last_value, parse_cli, split_cli

TABLE = FlagTable(
    [
        Flag("--size", ("-s",), min_values=1, max_values=1),
        Flag("--map", negatives=("--no-map", "-nm")),
        Flag("--range", min_values=2, max_values=2),
        Flag("--modules", min_values=1, max_values=None),
        Flag("--level", min_values=0, max_values=1),
        Flag("--two-words", min_values=1, max_values=1),
    ]
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("--a 1\n--b 2", ["--a", "1", "--b", "2"]),
        ("--a 1 \\\n  --b 2", ["--a", "1", "--b", "2"]),
        ('--a \'x y\' "z\\"" c\\ d', ["--a", "x y", 'z"', "c d"]),
        ('--a \'{"k": "#v"}\' # b', ["--a", '{"k": "#v"}', "#", "b"]),
    ],
)
def test_split_follows_the_shell(text: str, tokens: list[str]) -> None:
    assert split_cli(text) == tokens


@pytest.mark.parametrize(
    ("text", "words"),
    [("--a 'b", "a quote that is never closed"), ("--a \\", "ends in a backslash")],
)
def test_split_explains_what_is_unbalanced(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        split_cli(text)


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("-s 5", [("--size", "5")]),
        ("--size=5 --size=", [("--size", "5"), ("--size", "")]),
        ("--size -1", [("--size", "-1")]),
        ("--size --odd", [("--size", "--odd")]),
        ("-nm --map", [("--no-map",), ("--map",)]),
        ("--range 1 2 --map", [("--range", "1", "2"), ("--map",)]),
        ("--modules a b=c d --map", [("--modules", "a", "b=c", "d"), ("--map",)]),
        ("--modules=a b", [("--modules", "a", "b")]),
        ("--level --map", [("--level",), ("--map",)]),
        ("--level 2 --map", [("--level", "2"), ("--map",)]),
        ("--two_words x", [("--two-words", "x")]),
    ],
)
def test_parse_gives_canonical_flags(text: str, argv: list[tuple[str, ...]]) -> None:
    parsed = parse_cli(text, TABLE)
    assert not parsed.problems
    assert [item.argv for item in parsed.items] == argv


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("--sizes 5", "--sizes is no flag of this engine; did you mean --size?"),
        ("--qqq 5 6", "--qqq is no flag of this engine"),
        ("--size", "--size needs a value"),
        ("--size --map", "--size needs a value"),
        ("--range 1", "--range needs 2 values"),
        ("--map=1", "--map takes no value"),
        ("5", "'5' is not a flag, and no flag before it takes it"),
    ],
)
def test_parse_reports(text: str, problem: str) -> None:
    assert parse_cli(text, TABLE).problems == (problem,)


def test_refused_flags_are_named_and_their_values_kept_to_ourselves() -> None:
    refused = {"--size": "may not be set", "--key": "is ours"}
    parsed = parse_cli("-s hush --key hush --map", TABLE, refuse=refused.get)
    assert parsed.problems == ("-s may not be set", "--key is ours")
    assert [item.argv for item in parsed.items] == [("--map",)]


def test_the_last_of_a_flag_counts() -> None:
    parsed = parse_cli("-s 1 --size 2", TABLE)
    item = parsed.last("--size")
    assert item is not None
    assert item.values == ("2",)
    assert parsed.last("--map") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("--alias a --alias=b", "b"),
        ("-a 'x y'", "x y"),
        ("--alias", None),
        ("--other a", None),
        ("--alias 'a", None),
    ],
)
def test_last_value_needs_no_table(text: str, value: str | None) -> None:
    assert last_value(text, ("--alias", "-a")) == value
