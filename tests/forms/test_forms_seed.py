"""The forms against the originals: every title, group, order, choice and default."""

from __future__ import annotations

import pytest

from tests.forms.reading import APPS, Entry, fields_of, read_form
from tests.forms.seed_fields import SeedField, seed_fields

EVERY_FIELD = [(app, field) for app in APPS for field in seed_fields(app)]


def find(app: str, field: SeedField) -> Entry:
    found = [
        entry
        for group, entry in fields_of(app)
        if (group, entry["title"]) == (field.group, field.title)
    ]
    assert len(found) == 1, f"{app}: {field.group}/{field.title} is there {len(found)} times"
    return found[0]


@pytest.mark.parametrize(
    ("app", "field"), EVERY_FIELD, ids=[f"{app}-{f.group}-{f.title}" for app, f in EVERY_FIELD]
)
def test_a_field_of_the_original_is_there(app: str, field: SeedField) -> None:
    entry = find(app, field)
    if field.choices:
        assert entry["type"] == "dropdown"
        assert set(field.choices) <= set(entry["choices"])
    said = " ".join(str(entry.get(key, "")) for key in ("default", "placeholder", "info"))
    assert field.default in said


@pytest.mark.parametrize("app", APPS)
def test_the_fields_have_the_originals_order(app: str) -> None:
    places = [(group, entry["title"]) for group, entry in fields_of(app)]
    wanted = dict.fromkeys((field.group, field.title) for field in seed_fields(app))
    assert [place for place in places if place in wanted] == [*wanted]


@pytest.mark.parametrize("app", APPS)
def test_the_groups_have_the_originals_order_and_can_be_folded(app: str) -> None:
    groups = [e for e in read_form(app)["wizard"]["entries"] if "item_template" in e]
    named = dict.fromkeys(field.group for field in seed_fields(app) if field.group)
    assert [group["title"] for group in groups] == [*named]
    assert all(group["collapsible"] for group in groups)
