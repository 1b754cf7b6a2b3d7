"""From parameters to what would run: every problem at once, nothing fetched, no secret shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from apps.legacy_model.options import LegacySettings
from apps.llamacpp.app import app
from apps.llamacpp.options import LlamaCppSettings
from apps.vllm.options import VllmSettings
from common.errors import ConfigurationError, EngineMissingError, Problem
from common.options.loading import load_settings
from common.runtime.app import AnySettings, Companion, InstalledEngine, ModelExtras
from common.runtime.checking import check_configs, check_engine, check_parameters
from common.runtime.preview import preview
from tests.runtime.stub_app import StubApp, StubEngine

ROOT = Path(__file__).parents[2]


def missing(settings: AnySettings, environ: Mapping[str, str]) -> InstalledEngine:
    raise EngineMissingError("No llama.cpp is installed here.")


def test_a_missing_engine_is_told_beside_the_problems_of_the_options() -> None:
    both = {"Model/model": "a/b/c.gguf", "Model/temperature": "hot"}
    with pytest.raises(ConfigurationError) as raised:
        check_parameters(StubApp({}), both, {}, missing)
    assert "temperature" in str(raised.value)
    with pytest.raises(EngineMissingError, match="is installed here"):
        check_parameters(StubApp({}), {"Model/model": "a/b/c.gguf"}, {}, missing)


def test_what_the_machine_lacks_is_told_beside_the_problems_of_the_options() -> None:
    def no_gpu(settings: AnySettings, environ: Mapping[str, str]) -> InstalledEngine:
        raise ConfigurationError([Problem("no GPU is here", path="General/device")])

    both = {"Model/model": "a/b/c.gguf", "Model/temperature": "hot"}
    with pytest.raises(ConfigurationError) as raised:
        check_parameters(StubApp({}), both, {}, no_gpu)
    assert [p.path for p in raised.value.problems] == ["Model/temperature", "General/device"]
    with pytest.raises(ConfigurationError, match="1 problem"):
        check_parameters(StubApp({}), {"Model/model": "a/b/c.gguf"}, {}, no_gpu)


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
    )
    (model,) = shown["models"]
    assert model["name"] == "a/b/c.gguf"
    assert model["argv"][model["argv"].index("--temp") + 1] == "0.25"
    assert "<a/b/c.gguf>" in model["argv"]
    assert "hf_secret123" not in json.dumps(shown)
    assert list(tmp_path.iterdir()) == []


def test_a_preview_shows_companions_and_ports_without_having_them(tmp_path: Path) -> None:
    words = Companion("tokenizer", "org/words", "Tokenizer", "Model/tokenizer", want="tokenizer")
    local = Companion("lora:sql", str(tmp_path), "LoRA Modules", "LoRA/lora_modules")
    app = StubApp(
        {},
        extra={"m": ModelExtras((words, local), ("sql",))},
        installed={"listens_on_sockets": False},
    )
    given = {"Model/model": "a/b/c.gguf", "Model/model_endpoint_name": "m"}
    (model,) = preview(app, given, {})["models"]
    assert "tokenizer at <org/words>" in model["argv"]
    assert f"lora:sql at {tmp_path}" in model["argv"]
    assert model["argv"][model["argv"].index("--port") + 1] == "8000"
    assert model["env"] == {"STUB_API_KEY": "******"}
    assert "socket" not in json.dumps(model)


def test_adapters_are_checked_before_anything_is_opened() -> None:
    taken = StubApp({}, extra={"a/b/c.gguf": ModelExtras(adapters=("a/b/c.gguf",))})
    with pytest.raises(ConfigurationError, match="is also the name of another"):
        check_parameters(taken, {"Model/model": "a/b/c.gguf"}, {})


def test_adapters_of_a_model_that_is_named_by_the_registry_wait_for_its_name() -> None:
    model_id = "0123456789abcdef" * 2
    taken = StubApp({}, extra={model_id: ModelExtras(adapters=(model_id,))})
    checked = check_parameters(taken, {"Model/model": model_id}, {})
    assert checked.settings.models[0].reference == model_id


def test_an_engine_checked_late_finds_what_it_did_not_know_before() -> None:
    given = {"Model/model": "a/b/c.gguf", "Model/temperature": "0.5"}
    checked = check_parameters(StubApp({}), given, {})
    problem = Problem("is too hot for this engine", path="temperature", value=0.5)
    with pytest.raises(ConfigurationError) as raised:
        check_engine(StubApp({}), checked.parameters, StubEngine({}, problems=(problem,)))
    (found,) = raised.value.problems
    assert (found.title, found.path) == ("Temperature", "Model/temperature")


def test_configurations_belong_to_their_models() -> None:
    models = [{"model": "a/b/1.gguf"}, {"model": "a/b/2.gguf"}, {"model": "a/b/3.gguf"}]
    app = StubApp({}, config_problems=lambda config: [Problem(config["why"], path="model")])
    with pytest.raises(ConfigurationError) as raised:
        check_configs(
            app, {"Models/models": json.dumps(models)}, [{"why": "first"}, None, {"why": "third"}]
        )
    assert [(problem.path, problem.message) for problem in raised.value.problems] == [
        ("Models/models[0].model", "first"),
        ("Models/models[2].model", "third"),
    ]


def cli(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "common.cli.main", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("validate", "llamacpp", "--set", "Model/model=a/b/c.gguf"), 0, "valid: 1 model"),
        (("validate", "llamacpp", "--set", "Model/temperature=x"), 2, "2 problems"),
        (("validate", "llamacpp", "--set", "nothing"), 2, "Section/name=value"),
        (("validate", "llamacpp", "--flags", "none.json"), 2, "does not exist"),
        (("validate", "no-such-app"), 2, "no-such-app"),
        (("command", "llamacpp", "--set", "Model/model=nothing"), 2, "no existing path"),
        (("docs", "check", "--folder", "/dev/null/none"), 2, "Error: There is no folder"),
        (("status", "0" * 32), 1, "Error: "),
    ],
)
def test_exit_codes_tell_what_is_wrong_from_what_failed(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path
) -> None:
    done = cli(tmp_path, *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr


def test_a_task_script_has_the_same_exit_codes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "apps.llamacpp", "--config", "/dev/null/file.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "/dev/null/file.json: cannot be read" in done.stderr


@pytest.mark.parametrize("settings", [LlamaCppSettings, VllmSettings, LegacySettings])
def test_a_reference_that_names_no_endpoint_is_told_at_its_field(
    settings: type[AnySettings],
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_settings(settings, {"Model/model": "admin/repo"})
    (problem,) = raised.value.problems
    assert (problem.title, problem.path) == ("Model", "Model/model")
    assert problem.message.startswith('cannot be served as "admin/repo"')


@pytest.mark.parametrize("settings", [LlamaCppSettings, VllmSettings])
def test_two_models_with_one_name_are_told_at_the_second(settings: type[AnySettings]) -> None:
    listed = [{"model": "org/a/b.gguf"}, {"model": "/x", "model_endpoint_name": "org/a/b.gguf"}]
    with pytest.raises(ConfigurationError) as raised:
        load_settings(settings, {"Models/models": listed})
    (problem,) = raised.value.problems
    assert problem.path == "Models/models[1]"
    assert "also the endpoint name of Models/models[0]" in problem.message
