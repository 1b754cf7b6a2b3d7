from __future__ import annotations

import pytest

from common.errors import ModelError, ModelFormatError, ModelNotFoundError
from common.models.selection import (
    ListedFile,
    select_gguf,
    select_repository,
    select_tokenizer,
    sibling_parts,
)

FILES = [
    ListedFile(path, 10**9)
    for path in (
        "README.md",
        "Q4/Llama-Q4.gguf",
        "Q8_0/Llama-00001-of-00002.gguf",
        "Q8_0/Llama-00002-of-00002.gguf",
        "mmproj-f16.gguf",
        "broken-00001-of-00003.gguf",
    )
]
SPLIT = ["Q8_0/Llama-00001-of-00002.gguf", "Q8_0/Llama-00002-of-00002.gguf"]


@pytest.mark.parametrize(
    ("wanted", "paths"),
    [
        ("Q4/Llama-Q4.gguf", ["Q4/Llama-Q4.gguf"]),
        ("Q8_0/L*.gguf", SPLIT),
        ("Q8_0/Llama-00002-of-00002.gguf", SPLIT),
        ("Q8_0/*00001*", SPLIT),
        ("Q8_0", SPLIT),
        ("*Q4.gguf", ["Q4/Llama-Q4.gguf"]),
        ("Q4/Llama-Q?.gguf", ["Q4/Llama-Q4.gguf"]),
        ("mmproj-f16.gguf", ["mmproj-f16.gguf"]),
    ],
)
def test_select_brings_one_model_with_all_its_parts(wanted: str, paths: list[str]) -> None:
    assert [file.path for file in select_gguf(FILES, wanted, "org/repo")] == paths


def test_select_of_a_repository_with_one_model_needs_no_path() -> None:
    files = [ListedFile("a.gguf"), ListedFile("mmproj-a.gguf"), ListedFile("config.json")]
    assert [file.path for file in select_gguf(files, "", "org/repo")] == ["a.gguf"]


def test_select_refuses_what_is_ambiguous_and_lists_it() -> None:
    with pytest.raises(ModelError) as caught:
        select_gguf(FILES, "*Llama*", "org/repo")
    assert "2 GGUF models that match '*Llama*'" in str(caught.value)
    assert "Q4/Llama-Q4.gguf (1.0 GB)" in str(caught.value)
    assert "Q8_0/Llama-00001-of-00002.gguf (2.0 GB)" in str(caught.value)
    with pytest.raises(ModelError, match="Name one of them"):
        select_gguf(FILES, "", "org/repo")


def test_select_lists_what_there_is_when_nothing_matches() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        select_gguf(FILES, "Q4/LLama-Q4.gguf", "org/repo")
    assert "Did you mean 'Q4/Llama-Q4.gguf'?" in str(caught.value)
    assert "mmproj-f16.gguf" in str(caught.value)


def test_select_names_the_missing_parts() -> None:
    with pytest.raises(ModelFormatError, match="'broken-00002-of-00003.gguf'"):
        select_gguf(FILES, "broken*", "org/repo")


def test_select_says_what_a_repository_without_gguf_has() -> None:
    safetensors = [ListedFile("model.safetensors"), ListedFile("config.json")]
    with pytest.raises(ModelFormatError, match="no GGUF file, only safetensors weights"):
        select_gguf(safetensors, "", "org/repo")
    with pytest.raises(ModelFormatError, match="'model.safetensors' in org/repo is not a GGUF"):
        select_gguf(safetensors, "model.safetensors", "org/repo")
    with pytest.raises(ModelFormatError, match="PyTorch"):
        select_gguf([ListedFile("pytorch_model.bin")], "a.gguf", "org/repo")
    with pytest.raises(ModelFormatError, match=r"org/repo has no GGUF file\.$"):
        select_gguf([], "", "org/repo")


def test_sibling_parts() -> None:
    assert sibling_parts("a.gguf") == ("a.gguf",)
    assert sibling_parts("d/a-00002-of-00003.gguf") == tuple(
        f"d/a-0000{number}-of-00003.gguf" for number in (1, 2, 3)
    )
    with pytest.raises(ModelFormatError):
        sibling_parts("a-00004-of-00003.gguf")


def listed(*names: str) -> list[ListedFile]:
    return [ListedFile(name) for name in names]


def test_select_repository_takes_the_weights_once() -> None:
    names = [
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "model.gguf",
        "original/a.pth",
    ]
    files = listed(*names)
    assert [file.path for file in select_repository(files, "", "org/repo")] == names[:2]
    only_bin = listed("config.json", "pytorch_model.bin")
    assert select_repository(only_bin, "", "org/repo") == tuple(only_bin)


def test_select_repository_takes_one_folder() -> None:
    files = listed("config.json", "a/config.json", "a/model.safetensors", "ab/config.json")
    assert [file.path for file in select_repository(files, "a", "r")] == [
        "a/config.json",
        "a/model.safetensors",
    ]
    with pytest.raises(ModelNotFoundError, match="r has no files in 'c'"):
        select_repository(files, "c", "r")
    with pytest.raises(ModelFormatError, match="'a/config.json' in r is a file"):
        select_repository(files, "a/config.json", "r")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("m.gguf", "README.md"), "a model for llama.cpp"),
        (("a/config.json", "b/config.json"), "its folder 'a', 'b' has"),
        (("model.safetensors",), r"has no config.json.*It has: model\.safetensors"),
    ],
)
def test_select_repository_says_what_is_there_instead(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(ModelFormatError, match=words):
        select_repository(listed(*names), "", "org/repo")


def test_select_tokenizer_leaves_the_weights() -> None:
    names = ["config.json", "tokenizer.json", "chat_template.jinja", "code.py", "sub/x.json"]
    weights = ["model.safetensors", "a.bin", "m.gguf", "original/x.pth"]
    chosen = select_tokenizer(listed(*names, *weights), "", "org/repo")
    assert [file.path for file in chosen] == names
    assert select_tokenizer(listed("t/a.tiktoken"), "t", "r")
    with pytest.raises(ModelFormatError, match="org/repo has no tokenizer"):
        select_tokenizer(listed("config.json", "sub/tokenizer.json"), "", "org/repo")
