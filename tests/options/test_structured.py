"""Values of more than a word: one form whatever they came as, and what is wrong said with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.options.structured import Structure, read_structure


@pytest.mark.parametrize(
    ("kind", "given", "text"),
    [
        ("object", '{"a":1, "b": [true]}', '{"a": 1, "b": [true]}'),
        ("object", {"a": 1, "b": [True]}, '{"a": 1, "b": [true]}'),
        ("object", '{"name": "Größe"}', '{"name": "Größe"}'),
        ("overrides", {"enforce_eager": True}, '{"enforce_eager": true}'),
        ("overrides", '{"enforce_eager": true}', '{"enforce_eager": true}'),
        (
            "overrides",
            "enforce_eager: true\n\n# more\nseed: 3",
            '{"enforce_eager": true, "seed": 3}',
        ),
        ("overrides", "a: True  # why\nb: 0.5\nc: 1e3", '{"a": true, "b": 0.5, "c": 1000.0}'),
        ("overrides", "revision: 0123\ncode: 'no'", '{"revision": "0123", "code": "no"}'),
        ("overrides", 'url: http://x:1/y\nh: {"a": 1}', '{"url": "http://x:1/y", "h": {"a": 1}}'),
        ("overrides", "a:\nb: null", '{"a": null, "b": null}'),
        ("limits", "image=16,video=2", '{"image": 16, "video": 2}'),
        ("limits", "image = 16, video=2", '{"image": 16, "video": 2}'),
        ("limits", "image=16\nvideo=0", '{"image": 16, "video": 0}'),
        ("limits", '{"image": 16}', '{"image": 16}'),
        ("limits", {"image": {"count": 1, "width": 9}}, '{"image": {"count": 1, "width": 9}}'),
        ("list", "2.0,4.0", "2.0,4.0"),
        ("list", " a/**  b\nc ", "a/**,b,c"),
        ("list", '["a", "b"]', "a,b"),
        ("list", [2.0, 4], "2.0,4"),
        ("list", 2.5, "2.5"),
        ("list", ", ,", ""),
        ("modules", "a=b/c", "a=b/c"),
        ("modules", [{"name": "a", "path": "b/c"}], '[{"name": "a", "path": "b/c"}]'),
    ],
)
def test_a_value_has_one_form(kind: Structure, given: Any, text: str) -> None:
    assert read_structure(kind, given) == text
    assert read_structure(kind, text) == text


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("object", '{"a": 1,}', "at line 1, column 9"),
        ("object", '{\n"a" 1}', "at line 2, column 5"),
        ("object", "rope", "is not valid JSON"),
        ("object", "[1]", "must be a JSON object"),
        ("object", [1], "must be a JSON object"),
        ("object", 5, "must be a JSON object"),
        ("object", True, "must be a JSON object"),
        ("object", '{"a": NaN}', "NaN is no number"),
        ("object", '{"a": 1, "a": 2}', "has 'a' twice"),
        ("object", "[" * 100_000, "is not valid JSON"),
        ("overrides", "a: 1\nenforce eager", "line 2 is not written as name: value"),
        ("overrides", "a: 1\nb: {1}", "line 2: the value is not valid JSON"),
        ("overrides", "a: 1\na: 2", "has 'a' twice"),
        ("overrides", "[1]", "must be a JSON object"),
        ("limits", "image", "must be items such as image=16,video=2"),
        ("limits", "image=many", "image must be a whole number"),
        ("limits", "image=-1", "image must be a whole number"),
        ("limits", "image=1,image=2", "has 'image' twice"),
        ("limits", {"image": True}, "image must be a whole number"),
        ("limits", '{"image": 1.5}', "image must be a whole number"),
        ("list", {"a": 1}, "must be a list of values"),
        ("list", [["a"]], "must be a list of values"),
        ("list", "[1", "is not valid JSON"),
        ("list", True, "must be a list of values"),
        ("modules", 5, "must be text or a list"),
    ],
)
def test_what_is_none_is_refused_in_words(kind: Structure, given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        read_structure(kind, given)
    assert words in str(caught.value)


def test_what_was_read_is_json() -> None:
    text = read_structure("overrides", 'a: 1\nb: x, y: z\nc: "q"')
    assert json.loads(text) == {"a": 1, "b": "x, y: z", "c": "q"}
