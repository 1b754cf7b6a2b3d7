"""``clearml-deploy docs``: pages, and parts of them, that are derived from declarations."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import click

from common.cli.inputs import APP_NAMES, load_app
from common.errors import UserError
from common.forms.schema import render_schema
from common.options.reference_docs import render_options
from common.telemetry.reference_docs import BEGIN, END, with_table

_METRICS_PAGE = "telemetry.md"
_FOLDER = Path(__file__).resolve().parents[2] / "docs"
_FOLDER_OPTION = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=_FOLDER,
    help="Where the pages are; default: docs/ of this checkout.",
)


@click.group()
def docs() -> None:
    """Write or check the pages that are derived from the options' declarations."""


@docs.command()
@_FOLDER_OPTION
def build(folder: Path) -> None:
    """Write every derived page that is missing or stale, and name it.

    \b
    Example:
      clearml-deploy docs build
    """
    for name, text in _pages(folder).items():
        if not _is_current(folder / name, text):
            _write(folder / name, text)
            click.echo(f"written: {folder / name}")


@docs.command()
@_FOLDER_OPTION
def check(folder: Path) -> None:
    """Name every derived page that is missing or stale; exit code 1 if there is one.

    \b
    Example:
      clearml-deploy docs check
    """
    stale = [name for name, text in _pages(folder).items() if not _is_current(folder / name, text)]
    for name in stale:
        click.echo(f"stale: {folder / name} (clearml-deploy docs build)", err=True)
    if stale:
        sys.exit(1)


def _pages(folder: Path) -> dict[str, str]:
    """Every derived page by its file name.

    Raises:
        UserError: There is no such folder: the program does not run from a checkout.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Run this in a checkout, or give --folder.")
    apps = {name: load_app(name) for name in APP_NAMES}
    options = {
        f"options-{name}.md": render_options(
            app.title, app.settings.options(), max_models=app.settings.max_models
        )
        for name, app in apps.items()
    }
    schemas = {
        f"export.schema.{name}.json": render_schema(name, app.title, app.settings)
        for name, app in apps.items()
    }
    return options | schemas | {_METRICS_PAGE: _metrics_page(folder / _METRICS_PAGE)}


def _metrics_page(path: Path) -> str:
    """The page as it is, but for its table."""
    is_there = path.is_file()
    page = path.read_text(encoding="utf-8") if is_there else f"# Telemetry\n\n{BEGIN}\n{END}\n"
    return with_table(page)


def _is_current(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _write(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
