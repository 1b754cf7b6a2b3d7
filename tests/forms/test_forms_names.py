"""The wizard names are public: none disappears, and each new one is put on record."""

from __future__ import annotations

import pytest

from tests.forms.reading import APPS, read_form
from tests.forms.record_names import current, recorded


@pytest.mark.parametrize("app", APPS)
def test_no_published_name_disappears(app: str) -> None:
    gone = set(recorded(app)) - set(current(app))
    assert not gone, f"published names, which overrides and exported files use: {sorted(gone)}"


@pytest.mark.parametrize("app", APPS)
def test_every_name_is_on_record(app: str) -> None:
    new = [name for name in current(app) if name not in recorded(app)]
    assert not new, f"run python -m tests.forms.record_names for: {new}"


@pytest.mark.parametrize("app", APPS)
def test_the_file_has_these_names_in_this_order(app: str) -> None:
    found = []
    for entry in read_form(app)["wizard"]["entries"]:
        found.append(entry["name"])
        prefix = "models." if entry["type"] == "list" else ""
        found += [f"{prefix}{item['name']}" for item in entry.get("item_template", [])]
    assert found == current(app)


@pytest.mark.parametrize("app", APPS)
def test_a_name_is_that_of_one_field(app: str) -> None:
    bare = [name.rpartition(".")[2] for name in current(app)]
    assert len(bare) == len(set(bare))
