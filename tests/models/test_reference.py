from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ModelError
from common.models.reference import ReferenceKind, default_endpoint_name, parse_reference

ID = "0123456789abcdef0123456789abcdef"


def nothing_exists(_: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("text", "repo", "revision", "path"),
    [
        ("org/repo", "org/repo", None, ""),
        ("org/repo/a.gguf", "org/repo", None, "a.gguf"),
        ("org/repo/Q8_0/L*.gguf", "org/repo", None, "Q8_0/L*.gguf"),
        ("org/repo@v1.0/Q8_0/a.gguf", "org/repo", "v1.0", "Q8_0/a.gguf"),
        ("org/repo@refs%2Fpr%2F3/a.gguf", "org/repo", "refs/pr/3", "a.gguf"),
        ("org/repo/dir/", "org/repo", None, "dir"),
        ("org/repo/a@b.gguf", "org/repo", None, "a@b.gguf"),
        ("  org/Re.po_1-x/a.gguf ", "org/Re.po_1-x", None, "a.gguf"),
    ],
)
def test_parse_hub_reference(text: str, repo: str, revision: str | None, path: str) -> None:
    found = parse_reference(text, exists=nothing_exists)
    assert (found.kind, found.repo, found.revision, found.path) == (
        ReferenceKind.HUB,
        repo,
        revision,
        path,
    )


def test_parse_knows_patterns() -> None:
    assert parse_reference("org/repo/L*.gguf", exists=nothing_exists).is_pattern
    assert not parse_reference("org/repo/L.gguf", exists=nothing_exists).is_pattern


def test_parse_clearml_id_in_either_case() -> None:
    assert parse_reference(ID).model_id == ID
    assert parse_reference(ID.upper()).model_id == ID
    assert parse_reference(ID).kind is ReferenceKind.CLEARML


@pytest.mark.parametrize("text", ["/models/a.gguf", "~/a.gguf", "./a.gguf", "../a.gguf"])
def test_parse_local_path_whether_it_exists_or_not(text: str) -> None:
    found = parse_reference(text, exists=nothing_exists)
    assert found.kind is ReferenceKind.LOCAL
    assert found.local == Path(text).expanduser()


def test_parse_relative_path_is_local_only_if_it_exists() -> None:
    assert parse_reference("models/a.gguf", exists=lambda _: True).kind is ReferenceKind.LOCAL
    assert parse_reference("models/a.gguf", exists=nothing_exists).kind is ReferenceKind.HUB
    assert parse_reference("file:///models/a%20b.gguf").local == Path("/models/a b.gguf")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "No model is given"),
        ("   ", "No model is given"),
        ("llama", "no existing path"),
        (ID[:31], "31 hexadecimal digits"),
        ("org//a.gguf", "''"),
        ("org/re po/a.gguf", "'re po'"),
        ("org/repo/../a.gguf", "'..'"),
        ("org/..", "'..'"),
        ("org/repo//a.gguf", "empty"),
        ("-org/repo", "'-org'"),
        ("org/repo@/a.gguf", "revision"),
        ("org/repo@..%2F..%2Fx/a.gguf", "revision"),
        ("org/repo/a\\b.gguf", "backslash"),
        ("org/repo/a\n.gguf", "control character"),
        ("https://huggingface.co/org/repo/blob/main/Q8/a.gguf", "'org/repo/Q8/a.gguf'"),
        ("https://huggingface.co/org/repo/resolve/v2/a.gguf?download=true", "'org/repo@v2/a.gguf'"),
        ("hf://org/repo", "'org/repo'"),
        ("s3://bucket/a.gguf", "register it as a ClearML model"),
    ],
)
def test_parse_refuses_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse_reference(text, exists=nothing_exists)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "clearml_name", "name"),
    [
        ("org/repo/Q8_0/L*.gguf", None, "org/repo/Q8_0/L.gguf"),
        ("org/repo", None, "org/repo"),
        ("/models/SmolLM2.Q4.gguf", None, "SmolLM2.Q4"),
        ("/models/llama-3.1/", None, "llama-3.1"),
        (ID, "My Model", "My Model"),
        (ID, None, ID),
    ],
)
def test_default_endpoint_name(text: str, clearml_name: str | None, name: str) -> None:
    assert default_endpoint_name(text, clearml_name) == name
