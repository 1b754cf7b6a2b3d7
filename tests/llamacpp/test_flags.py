from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from apps.llamacpp.app import app
from apps.llamacpp.command import OURS, model_options
from apps.llamacpp.engines.python_server_child import SETTINGS, SWITCHES
from apps.llamacpp.engines.wheel_params import SETTERS
from apps.llamacpp.flags import (
    BUNDLED_CATALOGUE,
    Catalogue,
    load_catalogue,
    parse_help,
    read_flag_table,
    render_catalogue,
)
from common.errors import ConfigurationError, EngineConfigurationError
from tests.llamacpp.samples import OLD_HELP, load, plan_of

HELP = """\
usage: anything

-x,    --exact N          one value
                          --not-a-flag in a description
--long-name-that-fills-its-column <a name>=<type>,...
                          (env: LLAMA_ARG_LONG)
-p,    --pair START END   two values
-y,    --yes, -ny, --no-yes
                          a switch (env: LLAMA_ARG_YES)
--first, --second, --no-first, --no-second
--gone N                  the argument has been removed. use --exact
--faded N                 something (DEPRECATED)
--choice {a,b}            one of them
"""


def test_help_is_read_by_its_layout() -> None:
    table = parse_help(HELP)
    assert [flag.name for flag in table] == [
        "--exact",
        "--long-name-that-fills-its-column",
        "--pair",
        "--yes",
        "--first",
        "--faded",
        "--choice",
    ]
    by_name = {flag.name: flag for flag in table}
    assert by_name["--exact"].aliases == ("-x",)
    assert [by_name[n].min_values for n in ("--exact", "--pair", "--yes", "--choice")] == [
        *(1, 2, 0, 1)
    ]
    assert by_name["--long-name-that-fills-its-column"].min_values == 1
    assert by_name["--long-name-that-fills-its-column"].env == "LLAMA_ARG_LONG"
    assert by_name["--yes"].negatives == ("--no-yes", "-ny")
    assert by_name["--first"].aliases == ("--second",)
    assert by_name["--first"].negatives == ("--no-first", "--no-second")
    assert not by_name["--faded"].has_effect


def test_catalogue_survives_writing_and_reading(tmp_path: Path) -> None:
    table = parse_help(HELP)
    path = tmp_path / "c.json"
    path.write_text(render_catalogue(Catalogue("xllamacpp", "1", table)))
    again = load_catalogue(path)
    assert (again.engine, again.version, list(again.table)) == ("xllamacpp", "1", list(table))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no", "Expecting value"),
        ('{"format": 2, "engine": "llama-server", "flags": []}', "format 2 is not 1"),
        ('{"format": 1, "engine": "vllm", "flags": []}', "'vllm' is none of"),
        ('{"format": 1, "engine": "llama-server"}', "'flags' is missing"),
    ],
)
def test_what_is_no_catalogue_is_explained(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        load_catalogue(path)


def test_bundled_catalogue_has_every_flag_that_options_and_children_use() -> None:
    table = load_catalogue(BUNDLED_CATALOGUE).table
    declared = {o.flag for n, o in model_options().items() if o.flag and n not in OURS}
    declared |= {o.no_flag for o in model_options().values() if o.no_flag}
    for name in {*declared, *SETTERS, *SETTINGS, *SWITCHES}:
        assert name in table, name
    canonical = {flag.name for flag in table}
    assert set(SETTERS) <= canonical
    assert set(SETTINGS) <= canonical


@pytest.mark.parametrize("engine", ["llama-server", "xllamacpp", "llama_cpp.server"])
def test_app_shows_the_command_of_a_catalogue(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(render_catalogue(Catalogue(engine, "b1", parse_help(OLD_HELP))))
    settings = load(number_of_gpu_layers="9999")
    found = app().with_catalogue(path).find_engine(settings, {})
    assert found.version == "b1"
    assert found.kind == engine
    assert "--gpu-layers" in found.command(plan_of(settings), settings).argv


def program(path: Path, text: str, log: Path) -> Path:
    path.write_text(f"#!/bin/sh\necho called >> {log}\ncat <<'END'\n{text}\nEND\n")
    path.chmod(0o755)
    return path


def test_a_binary_is_asked_once_until_it_changes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    binary = program(tmp_path / "llama-server", OLD_HELP, log)
    cache = tmp_path / "cache"
    first = read_flag_table(binary, os.environ, cache)
    again = read_flag_table(binary, os.environ, cache)
    assert list(first) == list(again)
    assert log.read_text() == "called\n"
    program(binary, OLD_HELP + "--newer                          a switch", log)
    assert "--newer" in read_flag_table(binary, os.environ, cache)
    assert log.read_text() == "called\ncalled\n"


def test_damaged_cache_is_read_again(tmp_path: Path) -> None:
    binary = program(tmp_path / "llama-server", OLD_HELP, tmp_path / "log")
    read_flag_table(binary, os.environ, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_text(json.dumps({"format": 1}))
    assert "--model" in read_flag_table(binary, os.environ, tmp_path / "cache")


def test_a_program_that_is_no_llama_server_is_named(tmp_path: Path) -> None:
    binary = program(tmp_path / "other", "hello there", tmp_path / "log")
    with pytest.raises(EngineConfigurationError, match="hello there"):
        read_flag_table(binary, os.environ, tmp_path / "cache")
