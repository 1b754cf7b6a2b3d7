from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from apps.legacy_model.app import app as legacy_app
from apps.legacy_model.options import LegacySettings
from apps.vllm import discovery
from apps.vllm.app import app as vllm_app
from apps.vllm.environments import installer
from apps.vllm.extras import adapter_names, adapters_in_cli, model_extras
from apps.vllm.options import VllmSettings
from common.cli.inputs import APP_NAMES, load_app
from common.errors import ConfigurationError, EngineMissingError
from common.options.loading import load_settings
from common.runtime.app import App, Companion
from tests.fakes.package_index import PackageIndex
from tests.vllm.fake_vllm import environ_of, vllm
from tests.vllm.samples import SHIPPED

BASE = {"Model/model": "org/repo"}


def settings_of(parameters: Mapping[str, Any], form: type[Any] = VllmSettings) -> Any:
    return load_settings(form, parameters).settings


def extras_of(parameters: Mapping[str, Any], form: type[Any] = VllmSettings) -> Any:
    return model_extras(["org/repo"], settings_of({**BASE, **parameters}, form))["org/repo"]


def test_both_forms_are_apps_over_the_same_engine() -> None:
    assert {"vllm", "legacy_model"} < set(APP_NAMES)
    apps: list[App] = [vllm_app(), legacy_app()]
    assert [app.name for app in apps] == ["vllm", "legacy_model"]
    assert [load_app(app.name).title for app in apps] == [app.title for app in apps]
    assert [app.settings for app in apps] == [VllmSettings, LegacySettings]
    assert {app.wants for app in apps} == {"repository"}


def test_a_version_is_installed_and_tells_its_own_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "NEEDED_BYTES", {"cpu": 1, "gpu": 1})
    monkeypatch.setattr(installer, "RESERVE_BYTES", 0)
    monkeypatch.setattr(discovery, "visible_gpu_count", lambda environ: 1)
    settings = settings_of({**BASE, "General/vllm_version": "9.0.0"})
    said: list[str] = []
    with PackageIndex() as index:
        index.add(vllm("9.0.0"))
        environ = environ_of(index.url, tmp_path, "uv")
        app = vllm_app()
        found = app.find_engine(settings, environ)
        engine = app.install_engine(found, settings, environ, said.append, threading.Event())
        again = app.install_engine(
            app.find_engine(settings, environ), settings, environ, said.append, threading.Event()
        )
    assert index.fetched == ["vllm-9.0.0-py3-none-any.whl"]
    assert not found.is_installed
    assert engine.is_installed
    assert engine == again
    assert engine.version == "9.0.0"
    assert "--max-model-len" in engine.facts.catalogue
    assert "--enable-lora" not in engine.facts.catalogue
    assert said[-1].startswith("Reading the flags of vLLM 9.0.0")


def test_flags_of_a_file_are_shown_and_never_run(tmp_path: Path) -> None:
    app = vllm_app().with_catalogue(SHIPPED / "0.7.2.json")
    settings = settings_of(BASE)
    for engine in (app.find_engine(settings, {}), app.preview_engine(settings, {})):
        assert engine.version == "0.7.2"
        assert engine.facts.program == ("vllm",)
        assert engine.facts.gpus is None
    with pytest.raises(EngineMissingError, match="known by its flags alone"):
        app.install_engine(engine, settings, {}, lambda line: None, threading.Event())
    missing = vllm_app().with_catalogue(tmp_path / "none.json")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        missing.preview_engine(settings, {})


def test_a_preview_is_of_the_newest_release(tmp_path: Path) -> None:
    environ = {"CLEARML_DEPLOY_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"}
    newest = max((path.stem for path in SHIPPED.glob("*.json")), key=Version)
    assert vllm_app().preview_engine(settings_of(BASE), environ).version == newest


def test_the_companions_of_a_model_are_fetched_beside_it() -> None:
    found = extras_of(
        {
            "Model/tokenizer": "org/words",
            "Model/tokenizer_revision": "v2",
            "Model/speculative_model": "org/draft",
            "LoRA/enable_lora": "true",
            "LoRA/lora_modules": "sql=org/sql, poems=/adapters/poems",
        }
    )
    assert found.companions == (
        Companion("tokenizer", "org/words", "Tokenizer", "Model/tokenizer", "v2", "tokenizer"),
        Companion("draft_model", "org/draft", "Speculative model", "Model/speculative_model"),
        Companion("lora:sql", "org/sql", "LoRA Modules", "LoRA/lora_modules"),
        Companion("lora:poems", "/adapters/poems", "LoRA Modules", "LoRA/lora_modules"),
    )
    assert found.adapters == ("sql", "poems")


def test_a_tokenizer_revision_alone_is_of_the_models_own_repository() -> None:
    path = "Model/tokenizer_revision"
    found = extras_of({path: "v2"}, LegacySettings)
    assert found.companions == (
        Companion("tokenizer", "org/repo", "Tokenizer Revision", path, "v2", "tokenizer"),
    )
    assert extras_of({path: "v2", "Model/revision": "v2"}).companions == ()
    assert extras_of({"Model/speculative_model": "[ngram]"}).companions == ()


def test_the_path_of_a_listed_model_is_its_place_in_the_list() -> None:
    models = [{"model": "org/one"}, {"model": "org/two", "tokenizer": "org/words"}]
    settings = settings_of({"Models/models": models})
    found = model_extras(["org/one", "org/two"], settings)
    assert found["org/one"].companions == ()
    assert found["org/two"].companions[0].path == "Models/models[1].tokenizer"


def test_cli_and_overrides_bring_their_own_adapters_and_replace_the_forms() -> None:
    form = {
        "Model/tokenizer": "org/words",
        "LoRA/enable_lora": "true",
        "LoRA/lora_modules": "sql=org/sql",
    }
    cli = "--enable-lora --lora-modules a=/x 'b=/y z' --max-loras 2 --lora_modules=c=/z"
    found = extras_of({**form, "Model/cli": cli})
    assert found.companions == ()
    assert found.adapters == ("a", "b", "c")
    overrides = '{"lora-modules": {"name": "d", "path": "/d"}, "tokenizer": "/words"}'
    found = extras_of({**form, "Model/model_overrides": overrides})
    assert found.companions == ()
    assert found.adapters == ("d",)


def test_names_of_adapters_in_every_form() -> None:
    assert adapter_names("a=/x b=/y") == ("a", "b")
    assert adapter_names(["a=/x", {"name": "b", "path": "/y"}, '{"name": "c", "path": "/z"}']) == (
        "a",
        "b",
        "c",
    )
    assert adapter_names(3) == ()
    assert adapters_in_cli("--lora-modules 'never closed") == ()
