"""Add new wizard names to the record of those that were published: ``python -m tests.forms.record_names``.

A name is never taken out: administrators' overrides and exported files use it.
"""

from __future__ import annotations

from pathlib import Path

from common.forms.outline import form_names, outline_of
from tests.forms.reading import APPS, settings_of

FOLDER = Path(__file__).with_name("names")


def recorded(app: str) -> list[str]:
    path = FOLDER / f"{app}.txt"
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def current(app: str) -> list[str]:
    return list(form_names(outline_of(app), settings_of(app)))


def record() -> None:
    FOLDER.mkdir(exist_ok=True)
    for app in APPS:
        names = [*recorded(app), *(name for name in current(app) if name not in recorded(app))]
        (FOLDER / f"{app}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
