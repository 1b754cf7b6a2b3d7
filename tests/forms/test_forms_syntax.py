"""The rules of a form's syntax: each one finds what breaks it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from common.forms.syntax import assets_of, check_form

Form = dict[str, Any]

_TARGET = {"field": "hyperparams", "section": "General", "name": "a"}

FORM: Form = {
    "id": "sample",
    "name": "Sample",
    "version": "1.0.0",
    "provider": "us",
    "description": "A sample.",
    "icon": "${ASSET:icon.svg}",
    "default_queue": "default",
    "task": {
        "script": {
            "repository": "https://git.example.com/sample.git",
            "branch": "main",
            "entry_point": "main.py",
            "working_dir": ".",
        },
        "hyperparams": {"General": {"a": True, "b": "", "c": "", "list": ""}},
    },
    "wizard": {
        "entries": [
            {"name": "a", "title": "A", "type": "checkbox", "default": True, "target": _TARGET},
            {
                "name": "b",
                "title": "B",
                "type": "dropdown",
                "choices": ["one", {"label": "Two", "value": "two"}],
                "default": "two",
                "conditional": {"entries": [{"name": "a", "value": True}]},
                "target": {**_TARGET, "name": "b"},
            },
            {
                "name": "more",
                "title": "More",
                "type": "group",
                "item_template": [
                    {
                        "name": "c",
                        "title": "C",
                        "type": "dropdown",
                        "autocomplete": True,
                        "choices": {
                            "source": "project",
                            "value_field": "id",
                            "display_field": "name",
                            "filter": {"fields": {"name": "^a"}},
                        },
                        "default_conditional_on": {"name": "b", "value": {"one": "x"}},
                        "target": {**_TARGET, "name": "c"},
                    }
                ],
            },
            {
                "name": "items",
                "title": "Items",
                "type": "list",
                "collapsibleTitleTemplate": "${d}",
                "item_template": [{"name": "d", "title": "D", "type": "integer", "default": 1}],
                "target": {**_TARGET, "name": "list", "format": "json"},
            },
        ]
    },
    "dashboard": {
        "lines": [
            {
                "style": {"height": "initial"},
                "contents": [
                    {"title": "A", "type": "html", "text": "${hyperparams.General.a.value}"},
                    {"title": "Plot", "type": "plot", "metric": "m", "variant": ["v"]},
                ],
            }
        ]
    },
}


def test_every_documented_part_is_accepted() -> None:
    assert check_form(FORM, {"icon.svg"}) == []
    assert assets_of(FORM) == ["icon.svg"]


def _entry(number: int, **changes: Any) -> Callable[[Form], None]:
    return lambda form: form["wizard"]["entries"][number].update(changes)


def _without(number: int, name: str) -> Callable[[Form], None]:
    return lambda form: form["wizard"]["entries"][number].pop(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda form: form.pop("id"), "id: Field required"),
        (lambda form: form.update(version="1"), "version: "),
        (lambda form: form.update(colour="red"), "colour: Extra inputs are not permitted"),
        (lambda form: form["task"]["script"].pop("branch"), "task.script.branch: Field required"),
        (_entry(0, type="password"), "wizard.entries.0.type: "),
        (_entry(0, default="yes"), "wizard.a: cannot be its default, 'yes'"),
        (_entry(0, default=1), "wizard.a: cannot be its default, 1"),
        (_entry(1, default="three"), "wizard.b: cannot be its default, 'three'"),
        (_without(1, "choices"), "wizard.b: a dropdown has choices"),
        (_entry(0, choices=["x"]), "wizard.a: only a dropdown has a list of choices"),
        (_without(0, "target"), "wizard.a: a field outside a list, and no group, has a target"),
        (
            _entry(2, target=_TARGET),
            "wizard.more: a field outside a list, and no group, has a target",
        ),
        (_entry(0, item_template=[]), None),
        (
            _entry(2, item_template=[]),
            "wizard.more: a group or a list, and no other, has an item_template",
        ),
        (
            _entry(3, target={**_TARGET, "name": "list"}),
            "wizard.items: a list, and nothing else, is kept as json",
        ),
        (
            _entry(3, collapsibleTitleTemplate="${e}"),
            "wizard.items: its title names no field of its items",
        ),
        (
            _entry(0, conditional={"entries": [{"name": "b", "value": "one"}]}),
            "wizard.a: depends on b, which is no field above it",
        ),
        (
            _entry(1, conditional={"entries": [{"name": "a", "value": "on"}]}),
            "wizard.b: depends on a being 'on', which it cannot be",
        ),
        (_entry(0, name="d"), "wizard: d is the name of several fields"),
        (
            _entry(0, target={**_TARGET, "name": "z"}),
            "wizard: the target General/z is no parameter of the task",
        ),
        (
            _entry(0, target={**_TARGET, "name": "b"}),
            "wizard: hyperparams/General/b is the target of several fields",
        ),
        (
            _entry(0, target={**_TARGET, "field": "configuration"}),
            "wizard: the target a has a section, and configurations have none",
        ),
        (lambda form: form.update(icon="${ASSET:other.svg}"), "icon: there is no asset other.svg"),
        (
            _entry(0, info="${name}"),
            "wizard.entries[0].info: 'name' is neither an asset nor a parameter",
        ),
    ],
)
def test_what_breaks_a_rule_is_found(change: Callable[[Form], Any], words: str | None) -> None:
    form = copy.deepcopy(FORM)
    change(form)
    found = check_form(form, {"icon.svg"})
    if words is None:
        assert found == []
    else:
        assert any(problem.startswith(words) for problem in found), found


def test_a_field_of_a_group_can_be_depended_on_below_it() -> None:
    form = copy.deepcopy(FORM)
    below = {
        "name": "e",
        "title": "E",
        "type": "string",
        "conditional": {"entries": [{"name": "c", "value": "x"}]},
        "target": {**_TARGET, "field": "configuration", "section": None, "name": "e"},
    }
    form["wizard"]["entries"].append(below)
    assert check_form(form) == []
