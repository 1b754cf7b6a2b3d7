"""What a benchmark found, as tables for people or as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.machine import busy_warning

# Wide enough for every table here, also where standard output is a file.
_WIDTH = 130


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Goal:
    """What was to be reached, and whether it was."""

    text: str
    is_met: bool


@dataclass(frozen=True)
class Report:
    """One run of a benchmark.

    Attributes:
        benchmark: Its name.
        machine: See `describe_machine`.
        settings: How it was run.
        tables: For people.
        goals: What the figures are judged by; none where there is no goal.
        figures: Everything measured, for JSON alone.
    """

    benchmark: str
    machine: Mapping[str, str]
    settings: Mapping[str, Any]
    tables: Sequence[Table]
    goals: Sequence[Goal] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


def warn_if_busy() -> None:
    """Tell the person at the terminal that others use the machine."""
    if warning := busy_warning(os.getloadavg()[0], os.cpu_count() or 1):
        say(warning)


def say(text: str) -> None:
    """Tell the person at the terminal how far it is; standard output is for the result."""
    click.echo(text, err=True)


def show(report: Report, *, as_json: bool) -> None:
    """Print a report: Markdown tables, or one JSON document."""
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2, ensure_ascii=False))
        return
    console = Console(width=_WIDTH, highlight=False)
    click.echo(f"{report.benchmark}\n")
    for name, value in {**report.machine, **report.settings}.items():
        click.echo(f"  {name}: {value}")
    for table in report.tables:
        click.echo(f"\n{table.title}\n")
        drawn = RichTable(box=box.MARKDOWN)
        for number, column in enumerate(table.columns):
            drawn.add_column(column, justify="right" if number else "left", no_wrap=True)
        for row in table.rows:
            drawn.add_row(*row)
        with console.capture() as capture:
            console.print(drawn)
        click.echo("\n".join(line.rstrip() for line in capture.get().strip().splitlines()))
    for goal in report.goals:
        click.echo(f"Goal: {goal.text}: {'met' if goal.is_met else 'MISSED'}")
