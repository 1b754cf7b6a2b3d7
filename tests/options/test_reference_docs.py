"""The options reference: what a page holds, and that the committed one is not stale."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.cli.docs import docs
from common.cli.inputs import APP_NAMES, load_app
from common.options.declaration import OptionGroup, describe_options, option
from common.options.reference_docs import render_options


class Sample(OptionGroup):
    section = "General"

    mode: str | None = option("Mode", help="One | two\nlines of <b> and a_name*.", flag="--mode")
    share: float | None = option(
        "Share", help="Part of it.", ge=0, le=1, default=0.5, flag="--share", no_flag="--no-share"
    )
    count: int | None = option("Count", help="See `a_b|c`.", gt=2, required=True, secret=True)
    kind: str | None = option("Kind", help="Its kind.", choices=("one", "two"))
    more: str | None = option("More", help="More of it.", structure="object")


def table(page: str) -> dict[str, list[str]]:
    """The rows of a page by title; a cell separator is a pipe that is not escaped."""
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in page.splitlines()
        if line.startswith("| ")
    ]
    return {row[0]: row[1:] for row in rows}


def test_a_row_has_every_column_of_the_declaration() -> None:
    rows = table(render_options("Sample", describe_options(Sample)))
    assert rows["Title"] == ["Parameter", "Value", "Default", "Engine flag", "What it does"]
    assert rows["Mode"] == [
        "`General/mode`",
        "text",
        "",
        "`--mode`",
        "One \\| two lines of &lt;b> and a\\_name\\*.",
    ]
    assert rows["Share"][1:4] == [
        "number, at least 0, at most 1",
        "`0.5`",
        "`--share` / `--no-share`",
    ]
    assert rows["Count"][1] == "whole number, more than 2, required, secret"
    assert rows["Count"][4] == "See `a_b\\|c`."
    assert rows["Kind"][1] == "`one`, `two`, or another that the engine has"
    assert rows["More"][1] == "JSON object"


def test_the_page_says_how_several_models_are_given() -> None:
    assert "`Models/models`" in render_options("Sample", describe_options(Sample))
    one = render_options("Sample", describe_options(Sample), max_models=1)
    assert "`Models/models`" not in one
    assert "serves one model" in one


@pytest.mark.parametrize("name", APP_NAMES)
def test_every_option_of_an_app_is_on_its_page_once(name: str) -> None:
    app = load_app(name)
    page = render_options(app.title, app.settings.options())
    options = list(app.settings.options())
    assert page.endswith("|\n")
    for listed in options:
        row = f"| {listed.title} | {f'`{listed.path}`' if listed.path else ''} |"
        assert page.count(row) == 1, row
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) == len(options) + len({listed.group for listed in options})  # their headers


def test_the_committed_pages_are_not_stale() -> None:
    result = CliRunner().invoke(docs, ["check"])
    assert result.exit_code == 0, result.output


def test_check_names_a_stale_page_and_build_renews_it(tmp_path: Path) -> None:
    folder = ["--folder", str(tmp_path)]
    pages = [tmp_path / f"options-{name}.md" for name in APP_NAMES]
    pages += [tmp_path / f"export.schema.{name}.json" for name in APP_NAMES]
    pages.append(tmp_path / "telemetry.md")
    missing = CliRunner().invoke(docs, ["check", *folder])
    assert missing.exit_code == 1
    assert all(str(page) in missing.output for page in pages)

    assert CliRunner().invoke(docs, ["build", *folder]).exit_code == 0
    assert sorted(tmp_path.iterdir()) == sorted(pages)
    assert CliRunner().invoke(docs, ["check", *folder]).exit_code == 0

    pages[0].write_text(pages[0].read_text(encoding="utf-8") + "\n", encoding="utf-8")
    stale = CliRunner().invoke(docs, ["check", *folder])
    assert stale.exit_code == 1
    assert str(pages[0]) in stale.output
