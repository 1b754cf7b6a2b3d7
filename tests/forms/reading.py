"""The committed forms, read the way that a server reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyhocon import ConfigFactory

from common.cli.inputs import load_app

FOLDER = Path(__file__).resolve().parents[2] / "app_forms"
APPS = ("llamacpp", "vllm", "legacy_model")

Entry = dict[str, Any]


def read_form(app: str) -> dict[str, Any]:
    text = (FOLDER / f"{app}.app.conf").read_text(encoding="utf-8")
    plain = ConfigFactory.parse_string(text).as_plain_ordered_dict()
    return dict(plain)


def fields_of(app: str) -> Iterator[tuple[str, Entry]]:
    """Every field that holds a value, with the title of its group or list."""
    for entry in read_form(app)["wizard"]["entries"]:
        inner = entry.get("item_template")
        if inner is None:
            yield "", entry
        else:
            yield from ((entry["title"], item) for item in inner)


def settings_of(app: str) -> Any:
    return load_app(app).settings
