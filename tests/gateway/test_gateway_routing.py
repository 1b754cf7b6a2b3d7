"""Routing, names and the fields of bodies: pure functions."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from common.errors import ConfigurationError, RequestError
from common.gateway.model_field import json_fields, multipart_field
from common.gateway.names import check_endpoint_name
from common.gateway.routing import ByModelField, Own, RouteTable, ToModel

TABLE = RouteTable(["org/repo/Q8_0/L.gguf", "org/repo", "Plain", "org/repo/tokenize"])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/", Own("page")),
        ("/health", Own("health")),
        ("/service/abc/ready", Own("ready", service_prefix="/service/abc")),
        ("/service/abc", Own("page", service_prefix="/service/abc")),
        ("/v1/models", Own("models")),
        ("/v1/models/org/repo", Own("model", "org/repo")),
        ("/v1/models/org%2Frepo", Own("model", "org/repo")),
        ("/Plain/v1/models", Own("models")),
        ("/admin/models", Own("admin")),
        (
            "/Plain/v1/chat/completions?x=%41",
            ToModel("Plain", "/v1/chat/completions?x=%41", "/v1/chat/completions"),
        ),
        ("/org/repo/v1/x", ToModel("org/repo", "/v1/x", "/v1/x")),
        ("/org%2Frepo/v1/x", ToModel("org/repo", "/v1/x", "/v1/x")),
        ("/org/repo/Q8%5f0/L.gguf/v1/x", ToModel("org/repo/Q8_0/L.gguf", "/v1/x", "/v1/x")),
        ("/service/1/org/repo/v1/x", ToModel("org/repo", "/v1/x", "/v1/x")),
        ("/org/repo/tokenize/v1/x", ToModel("org/repo/tokenize", "/v1/x", "/v1/x")),
        ("/Plain/v1/a%20b/", ToModel("Plain", "/v1/a%20b/", "/v1/a b/")),
        ("/v1/chat/completions", ByModelField("/v1/chat/completions", "/v1/chat/completions")),
        ("/service/1/v1/x?q", ByModelField("/v1/x?q", "/v1/x")),
    ],
)
def test_get_and_post_targets(target: str, expected: object) -> None:
    method = "GET" if isinstance(expected, Own) else "POST"
    assert TABLE.resolve(method, target) == expected


def test_native_route_goes_to_the_shorter_name_where_the_longer_has_no_route() -> None:
    native = ToModel("org/repo", "/tokenize", "/tokenize")
    assert TABLE.resolve("POST", "/org/repo/tokenize") == native
    assert TABLE.resolve("POST", "/detokenize") == ByModelField("/detokenize", "/detokenize")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/plain/v1/x", 404),  # names are case-sensitive
        ("/Plain", 404),
        ("/Plain/", 404),
        ("/Plain/slots", 404),
        ("/Plain/v1/", 404),
        ("/Plain/v1", 404),
        ("/PlainX/v1/x", 404),
        ("/Plain/v1/../slots", 400),
        ("/Plain/v1/%2E%2e/slots", 400),
        ("/Plain/v1/a\\b", 400),
        ("/Plain/v1/a%0d%0ab", 400),
        ("//v1/models", 400),
        ("/Plain//v1/x", 400),
        ("/v1/x#y", 400),
        ("*", 400),
        ("", 400),
        ("/service//v1/x", 400),
    ],
)
def test_refused_targets(target: str, status: int) -> None:
    with pytest.raises(RequestError) as caught:
        TABLE.resolve("POST", target)
    assert caught.value.http_status == status


@pytest.mark.parametrize("names", [["a", "a"], ["a", "a/v1"], ["a", "a/v1/x"], ["x/y/v1", "x/y"]])
def test_names_that_make_paths_ambiguous_are_refused(names: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="endpoint name"):
        RouteTable(names)


@pytest.mark.parametrize(
    "name", ["m", "org/repo/Q8_0/L.gguf", "Ünïcode", "a..b", "x" * 200, "a/v1", "V1", "a:b@c+d"]
)
def test_good_names(name: str) -> None:
    assert check_endpoint_name(name) is None


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("", "empty"),
        ("/a", "slash"),
        ("a/", "slash"),
        ("a//b", "empty part"),
        ("a/../b", "'..'"),
        ("./a", "'.'"),
        ("a\\b", "URL"),
        ("a?b", "URL"),
        ("a#b", "URL"),
        ("a%2fb", "URL"),
        ("a b", "white space"),
        ("a\u00a0b", "white space"),
        ("a\nb", "white space"),
        ("a\x00b", "U+0000"),
        ("a\u202eb", "U+202E"),
        ("x" * 201, "201"),
        ("v1", "'v1'"),
        ("admin/x", "'admin'"),
        ("service", "'service'"),
        ("health", "'health'"),
        ("ready/x", "'ready'"),
        ("metrics", "'metrics'"),
    ],
)
def test_bad_names_say_what_is_wrong(name: str, word: str) -> None:
    problem = check_endpoint_name(name)
    assert problem is not None
    assert word in problem


def test_every_good_name_is_routed() -> None:
    names = ["m", "org/repo/Q8_0/L.gguf", "a..b", "a:b@c+d", "V1"]
    table = RouteTable(names)
    for name in names:
        assert table.resolve("POST", f"/{name}/v1/x") == ToModel(name, "/v1/x", "/v1/x")


FIELDS = frozenset({"model", "stream"})


def random_value(rng: random.Random, depth: int) -> Any:
    kinds: list[Any] = [
        rng.choice(['a"b', "\\", '\\"', "model", "ü\u2028{[", "x" * rng.randrange(50)]),
        rng.choice([True, False, None, -1.5, 10**20]),
    ]
    if depth:
        kinds.append([random_value(rng, depth - 1) for _ in range(rng.randrange(4))])
        kinds.append({k: random_value(rng, depth - 1) for k in ("model", "stream", "b", "c}")})
    return rng.choice(kinds)


@pytest.mark.parametrize("seed", range(200))
def test_fields_of_large_bodies_are_found_as_json_would(seed: int) -> None:
    rng = random.Random(seed)
    keys = ["messages", "x", 'we"ird\\', "{", "model", "stream", "pad"]
    rng.shuffle(keys)
    body = {key: random_value(rng, 3) for key in keys}
    body["pad"] = "p" * 300_000
    text = json.dumps(body, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
    found = json_fields(text.encode(), FIELDS)
    expected = {k: body[k] for k in FIELDS if not isinstance(body[k], (dict, list))}
    assert found == expected


@pytest.mark.parametrize("tail", ['"}', "", '"', '"]}'])
def test_large_bodies_that_are_cut_are_refused(tail: str) -> None:
    body = '{"model": "m", "x": "' + "y" * 300_000 + tail
    if tail == '"}':
        assert json_fields(body.encode(), FIELDS) == {"model": "m"}
    else:
        with pytest.raises(RequestError, match="not valid JSON"):
            json_fields(body.encode(), FIELDS)


@pytest.mark.parametrize("name", ["model", "other"])
def test_multipart_field_wherever_it_stands(name: str) -> None:
    noise = b"\r\n--x\r\n--boundar\r\n\r\n" * 3
    parts = [
        b'Content-Disposition: form-data; name="file"; filename="a\\"b.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n" + noise,
        b'content-disposition: form-data; name="model"\r\n\r\norg/repo',
        b'Content-Disposition: form-data; name="language"\r\n\r\nmodel',
    ]
    for first in range(3):
        order = parts[first:] + parts[:first]
        body = b"".join(b"--boundary\r\n" + part + b"\r\n" for part in order) + b"--boundary--\r\n"
        found = multipart_field(body, 'multipart/form-data; boundary="boundary"', name)
        assert found == ("org/repo" if name == "model" else None)


@pytest.mark.parametrize("body", [b"", b"--b", b"--b\r\n", b"--b\r\nX: y\r\n\r\nz", b"--b--\r\n"])
def test_broken_multipart_has_no_field(body: bytes) -> None:
    assert multipart_field(body, "multipart/form-data; boundary=b", "model") is None


def test_multipart_without_boundary_is_refused() -> None:
    with pytest.raises(RequestError, match="boundary"):
        multipart_field(b"x", "multipart/form-data", "model")
