"""From parameters to what would run: every problem at once, nothing fetched, no secret shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from apps.llamacpp.app import app
from common.errors import ConfigurationError, EngineMissingError
from common.options.loading import load_settings
from common.runtime.app import AnySettings, InstalledEngine
from common.runtime.checking import check_parameters
from common.runtime.preview import preview
from common.runtime.run import without_effect
from tests.runtime.stub_app import StubApp


def missing(settings: AnySettings, environ: Mapping[str, str]) -> InstalledEngine:
    raise EngineMissingError("No llama.cpp is installed here.")


def test_a_missing_engine_is_told_beside_the_problems_of_the_options() -> None:
    both = {"Model/model": "a/b/c.gguf", "Model/temperature": "hot"}
    with pytest.raises(ConfigurationError) as raised:
        check_parameters(StubApp({}), both, {}, missing)
    assert "temperature" in str(raised.value)
    with pytest.raises(EngineMissingError, match="is installed here"):
        check_parameters(StubApp({}), {"Model/model": "a/b/c.gguf"}, {}, missing)


def test_a_right_configuration_comes_with_its_engine_and_warnings() -> None:
    both = {
        "Model/model": "a/b/c.gguf",
        "Models/models": json.dumps([{"model": "d/e/f.gguf"}]),
    }
    checked = check_parameters(StubApp({}), both, {})
    assert checked.engine.label == "stub engine"
    assert any("Model/model" in warning for warning in checked.warnings)


def test_a_preview_needs_no_file_and_shows_no_secret(tmp_path: Path) -> None:
    shown = preview(
        app(),
        {
            "Model/model": "a/b/c.gguf",
            "Model/temperature": "0.25",
            "General/hugging_face_token": "hf_secret123",
            "General/engine": "xllamacpp",
        },
        {"HOME": str(tmp_path), "PATH": ""},
        None,
    )
    (model,) = shown["models"]
    assert model["name"] == "a/b/c.gguf"
    assert model["argv"][model["argv"].index("--temp") + 1] == "0.25"
    assert "<a/b/c.gguf>" in model["argv"]
    assert "hf_secret123" not in json.dumps(shown)
    assert list(tmp_path.iterdir()) == []


def test_an_app_without_catalogue_says_so() -> None:
    with pytest.raises(ConfigurationError, match="takes no --flags catalogue"):
        preview(StubApp({}), {"Model/model": "a/b/c.gguf"}, {}, Path("flags.json"))


def test_options_of_the_form_that_wait_for_their_work_are_named() -> None:
    given = {"Model/model": "a/b/c.gguf", "General/enable_disk_swapping": "true"}
    lines = without_effect(load_settings(app().settings, given).settings)
    assert len(lines) == 1
    assert "General/enable_disk_swapping" in lines[0]
    none = without_effect(load_settings(app().settings, {"Model/model": "a/b/c.gguf"}).settings)
    assert none == []
