"""The table of metrics in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from common.cli.docs import docs
from common.errors import UserError
from common.telemetry.names import METRICS
from common.telemetry.reference_docs import BEGIN, END, render_table, with_table

PAGE = Path(__file__).parents[2] / "docs" / "telemetry.md"


def test_the_page_has_the_table_of_today() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page


def test_every_metric_has_a_row_of_six_cells() -> None:
    rows = [line for line in render_table().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [metric.name for metric in METRICS]
    assert {row.count("|") for row in rows} == {7}


def test_only_what_is_between_the_marks_is_made_anew() -> None:
    page = with_table(f"before\n{BEGIN}\nSTALE\n{END}\nafter\n")
    assert page.startswith("before\n")
    assert page.endswith("\nafter\n")
    assert "STALE" not in page
    assert with_table(page) == page


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}\n{BEGIN}"])
def test_a_page_without_a_place_for_the_table_is_told(page: str) -> None:
    with pytest.raises(UserError, match="no place for their table"):
        with_table(page)


def test_a_stale_table_is_found_and_renewed(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(docs, ["build", "--folder", str(tmp_path)]).exit_code == 0
    assert run(docs, ["check", "--folder", str(tmp_path)]).exit_code == 0
    page = tmp_path / "telemetry.md"
    page.write_text(f"# Ours\n\n{BEGIN}\n{END}\n", encoding="utf-8")
    found = run(docs, ["check", "--folder", str(tmp_path)])
    assert found.exit_code == 1
    assert "stale" in found.output
    assert "telemetry.md" in found.output
    assert run(docs, ["build", "--folder", str(tmp_path)]).exit_code == 0
    assert page.read_text(encoding="utf-8").startswith("# Ours\n")
    assert METRICS[0].name in page.read_text(encoding="utf-8")
