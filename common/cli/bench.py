"""``clearml-deploy bench``: the benchmarks of a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from common.errors import UserError

_ROOT = Path(__file__).resolve().parents[2]


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("name", default="")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(name: str, arguments: tuple[str, ...]) -> None:
    """Run a benchmark of this checkout; without a name, list them.

    \b
    Examples:
      clearml-deploy bench
      clearml-deploy bench instance --help
    """
    folder = _ROOT / "benchmarks"
    files = (*folder.glob("*.py"), *folder.glob("*/__main__.py"))
    known = sorted(_name(path) for path in files if _is_program(path))
    if not known:
        raise UserError(
            f"There are no benchmarks in {folder}: run this from a clone of the repository."
        )
    if name not in known:
        click.echo(f"Benchmarks: {', '.join(known)}. Each has --help.")
        sys.exit(0 if name in ("", "--help", "-h") else 2)
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], cwd=_ROOT)
    sys.exit(done.returncode)


def _name(path: Path) -> str:
    return path.parent.name if path.stem == "__main__" else path.stem


def _is_program(path: Path) -> bool:
    return '__name__ == "__main__"' in path.read_text(encoding="utf-8")
