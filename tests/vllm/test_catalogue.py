"""Catalogues: their files, and what may be asked of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apps.vllm.catalogue import (
    OLDEST,
    SHIPPED,
    Catalogue,
    CatalogueFlag,
    load_catalogue,
    parse_catalogue,
    render_catalogue,
)
from common.errors import ConfigurationError

SHIPPED_FILES = sorted(SHIPPED.glob("*.json"))
TYPES = {
    None, "str", "int", "float", "bool", "json", "json_or_str", "kv_list", "human_int",
    "human_int_or_auto", "list[str]", "list[int]", "list[float]", "append[str]",
}  # fmt: skip


def test_the_ends_of_the_supported_range_are_shipped() -> None:
    names = {path.stem for path in SHIPPED_FILES}
    assert {str(OLDEST), "0.7.2", "0.33.0"} <= names


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.stem)
def test_a_shipped_file_is_what_rendering_it_writes(path: Path) -> None:
    catalogue = load_catalogue(path)
    assert catalogue.version == path.stem
    assert render_catalogue(catalogue) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.stem)
def test_a_shipped_file_keeps_to_the_documented_form(path: Path) -> None:
    catalogue = load_catalogue(path)
    assert catalogue.release >= OLDEST
    names = [name for flag in catalogue for name in (flag.name, *flag.aliases, *flag.negations)]
    assert len(names) == len(set(names))
    for flag in catalogue:
        assert flag.type in TYPES, flag
        assert (flag.takes_value == "none") == (flag.type is None), flag
        assert not (flag.negations and flag.takes_value != "none"), flag


def catalogue() -> Catalogue:
    flags = (
        CatalogueFlag("--dtype", choices=("auto", "half")),
        CatalogueFlag("--size", aliases=("-s",), type="int", choices=("1", "2")),
        CatalogueFlag("--eager", negations=("--no-eager",), takes_value="none", type=None),
        CatalogueFlag("--names", type="list[str]"),
        CatalogueFlag("--parser", registered=("a", "b")),
        CatalogueFlag("--old", type="append[str]", deprecated=True),
    )
    return Catalogue("1.2.3+cpu", {flag.name: flag for flag in flags})


def test_a_flag_is_found_by_its_positive_names() -> None:
    found = catalogue().find("-s")
    assert found is not None
    assert found.name == "--size"
    assert "--eager" in catalogue()
    assert "--no-eager" not in catalogue()
    assert "--siz" not in catalogue()


def test_what_is_asked_of_a_flag() -> None:
    flags = catalogue().flags
    assert flags["--names"].is_list
    assert flags["--old"].is_appended
    assert flags["--size"].accepts(2)
    assert not flags["--size"].accepts("3")
    assert flags["--names"].accepts("anything")
    assert catalogue().lives("-s")
    assert not catalogue().lives("--old")
    assert not catalogue().lives("--none")
    assert str(catalogue().release) == "1.2.3"


def test_rendered_and_parsed_it_is_the_same() -> None:
    text = render_catalogue(catalogue())
    assert parse_catalogue(json.loads(text)) == catalogue()
    assert '"choices":[1,2]' in text
    assert json.loads(text)["values"] == {"--parser": ["a", "b"]}
    assert "registered" not in text


def test_registered_names_may_be_left_out() -> None:
    opened = catalogue().without_values({"--parser", "--none"})
    assert opened.flags["--parser"] == CatalogueFlag("--parser")
    assert {**opened.flags, "--parser": None} == {**catalogue().flags, "--parser": None}
    assert '"values"' not in render_catalogue(opened)
    assert parse_catalogue(json.loads(render_catalogue(opened))) == opened


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no catalogue of vLLM flags: Expecting"),
        ("[]", "is no catalogue of vLLM flags"),
        ('{"flags": {}}', "'version' is missing"),
        ('{"version": "new", "flags": {}}', "'new' is no version"),
        ('{"version": "1", "flags": {"--a": {}}}', "'takes_value' is missing"),
        (
            '{"version": "1", "flags": {"--a": {"takes_value": "none"}}, "values": {"--a": 1}}',
            "its values are no list",
        ),
        ('{"version": "1", "flags": {"--a": {}}, "values": [1]}', "is no catalogue of vLLM flags"),
        ('{"version": "1", "flags": {"--a": {"takes_value": 1}}}', "takes_value 1 is none of"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "flags.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_catalogue(path)
    assert caught.value.problems[0].path == str(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        load_catalogue(tmp_path / "none.json")
