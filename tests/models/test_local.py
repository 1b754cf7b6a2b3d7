from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ModelError, ModelFormatError, ModelNotFoundError
from common.models.fetch import fetch, peek
from common.models.gguf import read_model
from tests.vllm.tiny_models import make_adapter, make_model

from .gguf_files import write_gguf


def test_local_file_is_used_where_it_is(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    files = fetch(str(path))
    assert (files.first, files.all, files.size_bytes) == (path, (path,), path.stat().st_size)
    assert files.origin == "local"


def test_local_split_pattern_and_folder(tmp_path: Path) -> None:
    parts = [tmp_path / "d" / f"a-0000{number}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        write_gguf(part)
    for reference in (str(parts[1]), f"{tmp_path}/d/a*.gguf", f"{tmp_path}/d"):
        assert fetch(reference).all == tuple(parts)
    parts[1].unlink()
    with pytest.raises(ModelFormatError, match=r"a-00002-of-00002\.gguf"):
        fetch(str(parts[0]))


def test_local_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "models" / "a.gguf")
    monkeypatch.chdir(tmp_path)
    assert fetch("models/a.gguf").first == tmp_path / "models" / "a.gguf"


def test_local_missing_tells_what_is_there(tmp_path: Path) -> None:
    write_gguf(tmp_path / "real.gguf")
    with pytest.raises(ModelNotFoundError, match=r"Its folder has: real\.gguf\."):
        fetch(f"{tmp_path}/reel.gguf")
    with pytest.raises(ModelNotFoundError, match=f"Only {tmp_path} of its path exists"):
        fetch(f"{tmp_path}/a/b/c.gguf")
    write_gguf(tmp_path / "second.gguf")
    with pytest.raises(ModelError, match="2 GGUF models"):
        fetch(str(tmp_path))


def test_local_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.touch()
    with pytest.raises(ModelFormatError, match=r"is empty \(0 bytes\)"):
        read_model(fetch(str(path)).all)


def test_local_repository_is_a_folder_with_a_configuration(tmp_path: Path) -> None:
    model = make_model(tmp_path / "models" / "tiny")
    files = fetch(str(model), want="repository")
    assert files.first == model
    assert {path.name for path in files.all} == {path.name for path in model.iterdir()}
    assert dict(peek(str(model))) == {"config.json": model / "config.json"}
    adapter = make_adapter(tmp_path / "adapter")
    assert fetch(str(adapter), want="repository").first == adapter


def test_local_repository_that_is_none(tmp_path: Path) -> None:
    model = make_model(tmp_path / "tiny")
    with pytest.raises(ModelFormatError, match=f"is a single file.*Give its folder: {model}"):
        fetch(str(model / "model.safetensors"), want="repository")
    with pytest.raises(
        ModelNotFoundError, match=f"no folder .*tinny.*{tmp_path} has the folders: tiny"
    ):
        peek(str(tmp_path / "tinny"))
    with pytest.raises(ModelFormatError, match="its folder 'tiny' has. Name that folder"):
        peek(str(tmp_path))
    (model / "config.json").unlink()
    with pytest.raises(ModelFormatError, match="has no config.json, which the engine needs"):
        fetch(str(model), want="repository")
    assert fetch(str(model), want="tokenizer").first == model
