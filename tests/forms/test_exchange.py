"""Configurations as files: what an export holds, and how files of any making are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from common.cli.inputs import APP_NAMES, load_app
from common.errors import ConfigurationError
from common.forms.entry import Attributes
from common.forms.exchange import ReadDocument, export_configuration, read_document
from common.forms.names import field_name
from common.options.loading import load_settings, render_value
from common.options.settings import AppSettings
from tests.forms.full_configuration import ATTRIBUTES, SECRET, full_parameters

Settings = type[AppSettings[Any, Any]]
DOCS = Path(__file__).resolve().parents[2] / "docs"
SMALL = {"Model/model": "org/repo/a.gguf", "Model/context_size": "1024"}


def settings_of(app: str) -> Settings:
    return load_app(app).settings


def read(document: Any, app: str = "llamacpp") -> ReadDocument:
    return read_document(app, settings_of(app), document)


def stored(parameters: dict[str, Any]) -> dict[str, str]:
    """Parameters the way they come back from a server."""
    return {path: render_value(value) for path, value in parameters.items()}


@pytest.mark.parametrize("app", APP_NAMES)
def test_an_export_with_every_field_comes_back_byte_for_byte(app: str) -> None:
    settings = settings_of(app)
    parameters = full_parameters(settings)
    first = export_configuration(app, settings, parameters, ATTRIBUTES)
    secrets = [field_name(o) for o in settings.options() if o.secret]
    assert first.document["left_out"] == secrets
    assert len(first.secrets) == len(secrets)
    assert SECRET not in first.text

    imported = read_document(app, settings, json.loads(first.text))
    assert not imported.problems
    assert imported.attributes == ATTRIBUTES
    paths = {o.path for o in settings.options(entry=False) if o.secret}
    assert stored(imported.parameters).keys() == parameters.keys() - paths
    again = export_configuration(app, settings, stored(imported.parameters), imported.attributes)
    assert again.text == first.text


@pytest.mark.parametrize("app", APP_NAMES)
def test_the_published_schema_knows_every_field_and_no_secret(app: str) -> None:
    settings = settings_of(app)
    schema = json.loads((DOCS / f"export.schema.{app}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    document = export_configuration(app, settings, full_parameters(settings), ATTRIBUTES).document
    checker.validate(document)
    checker.validate(export_configuration(app, settings, {}).document)
    for option in settings.options():
        if option.secret:
            values = {**document["values"], field_name(option): SECRET}
            assert not checker.is_valid({**document, "values": values})
    assert not checker.is_valid({**document, "app": "another"})
    assert not checker.is_valid({**document, "values": {"no_such_field": 1}})


def test_values_get_the_types_of_their_options() -> None:
    parameters = {
        **SMALL,
        "Model/temperature": "0.70",
        "Model/verbose": "True",
        "Model/no_mmap": "no",
        "Model/split_mode": "Layer",
        "Model/top_k": "many",
        "General/port": "8800",
        "Status/api_key": "generated",
        "properties/status": "active",
        "General/engine": "",
        "Args/learning_rate": "1",
    }
    exported = export_configuration("llamacpp", settings_of("llamacpp"), parameters)
    (model,) = exported.document["values"]["models"]
    assert model == {
        "verbose": True,
        "no_mmap": False,
        "model": "org/repo/a.gguf",
        "temperature": 0.7,
        # A mistake in the task stays what it is: the file is where it can be corrected.
        "top_k": "many",
        "context_size": 1024,
        "split_mode": "layer",
    }
    assert exported.document["values"] == {"models": [model], "general_port": "8800"}
    assert exported.notes == ()


def test_what_an_export_leaves_out_is_named() -> None:
    listed = {"Models/models": '[{"model": "a/b/c.gguf"}]', "General/nonsense": "1", **SMALL}
    exported = export_configuration("llamacpp", settings_of("llamacpp"), listed)
    assert exported.document["values"] == {"models": [{"model": "a/b/c.gguf"}]}
    assert any("General/nonsense" in note for note in exported.notes)
    assert any("Model/context_size, Model/model" in note for note in exported.notes)


def test_models_that_are_no_list_cannot_be_exported() -> None:
    with pytest.raises(ConfigurationError, match="not valid JSON"):
        export_configuration("llamacpp", settings_of("llamacpp"), {"Models/models": "[{"})


@pytest.mark.parametrize(
    "document",
    [
        {"Model/model": "org/repo/a.gguf", "Model/context_size": 1024, "General/port": 8800},
        {"model/MODEL": "org/repo/a.gguf", "Model/Context Size": "1024", "general/port": "8800"},
        {"Model": "org/repo/a.gguf", "Context Size": 1024, "Port": "8800"},
        {"model": "org/repo/a.gguf", "context_size": 1024, "general_port": "8800"},
        {"Model": {"Model": "org/repo/a.gguf", "context_size": 1024}, "General": {"Port": 8800}},
        {"Model Configuration": {"model": "org/repo/a.gguf", "Context Size": 1024}, "port": 8800},
        {"app": "llamacpp", "version": 0, "values": {**SMALL, "general_port": 8800}},
        {"app": "llamacpp", **SMALL, "Port": 8800, "left_out": ["General/api_key"], "Top-K": None},
    ],
)
def test_files_by_title_path_or_wizard_name_flat_or_in_sections(document: Any) -> None:
    found = read(document)
    assert not found.problems
    assert stored(found.parameters) == {**SMALL, "General/port": "8800"}


@pytest.mark.parametrize(
    "models",
    [
        {"models": [{"model": "a/b/c.gguf", "top_k": 3}, {"Model": "a/b/d.gguf", "Top-K": ""}]},
        {
            "Models": {
                "models": [{"Model/model": "a/b/c.gguf", "Top-K": 3}, {"model": "a/b/d.gguf"}]
            }
        },
        {"Models/models": '[{"model": "a/b/c.gguf", "top_k": 3}, {"model": "a/b/d.gguf"}]'},
    ],
)
def test_lists_of_models(models: Any) -> None:
    found = read(models)
    assert not found.problems
    wanted = [{"model": "a/b/c.gguf", "top_k": 3}, {"model": "a/b/d.gguf"}]
    assert found.parameters == {"Models/models": wanted}
    settings = load_settings(settings_of("llamacpp"), found.parameters).settings
    assert [model.reference for model in settings.models] == ["a/b/c.gguf", "a/b/d.gguf"]


def test_the_instances_own_fields_are_attributes() -> None:
    assert read({"Instance Name": "mine", "queue": "gpu"}).attributes == Attributes(
        name="mine", queue="gpu"
    )
    legacy = read({"project_name": "there", "Task Name": "mine"}, "legacy_model")
    assert legacy.attributes == Attributes(name="mine", project="there")


def test_what_is_not_understood_is_named_with_the_nearest_known_name() -> None:
    found = read(
        {
            "Contxt Size": 1,
            "Model/temprature": "s3cret",
            "General/top_k": 3,
            "general_prot": 1,
            "Modell": {"temperature": 1},
            "xyzzy": 1,
            "models": [{"modle": "a"}],
            "Status/status": "active",
        }
    )
    problems = {problem.path: problem.message for problem in found.problems}
    assert '"Context Size" (Model/context_size)' in problems["Contxt Size"]
    assert "Model/temperature" in problems["Model/temprature"]
    assert "Model/top_k" in problems["General/top_k"]
    assert "General/port" in problems["general_prot"]
    assert "Model/temperature" in problems["Modell/temperature"]
    assert problems["xyzzy"] == "there is no such option"
    assert "Model/model" in problems["Models/models[0].modle"]
    assert not any("s3cret" in str(problem) for problem in found.problems)
    assert found.parameters == {"Models/models": [{}]}
    assert found.notes == ["Status/status is no configuration and is not read"]


def test_a_title_of_two_options_is_asked_about() -> None:
    found = read({"Trust Remote Code": True}, "vllm")
    (problem,) = found.problems
    assert "Model/trust_remote_code" in problem.message
    assert "General/trust_remote_code" in problem.message
    # A wizard name says which: the bare one is the model's.
    exact = read({"trust_remote_code": True, "general_trust_remote_code": False}, "vllm")
    assert exact.parameters == {"Model/trust_remote_code": True, "General/trust_remote_code": False}
    assert not exact.problems


def test_parameters_may_be_flat_or_nested() -> None:
    flat = {"Model/model": "a/b/c.gguf", "General/port": 8800}
    nested = {"Model": {"model": "a/b/c.gguf"}, "General": {"port": 8800}}
    assert read(flat).parameters == read(nested).parameters == flat
    listed = read({"models": [{"model": "x"}]}).parameters
    assert listed == {"Models/models": [{"model": "x"}]}
    with pytest.raises(ConfigurationError):
        read([1])


def test_a_flat_configuration_may_hold_an_object() -> None:
    given = {"Model/rope_scaling": {"a": 1}}
    assert read(given, "vllm").parameters == given


def test_an_object_is_an_options_value_or_a_section() -> None:
    scaling = {"rope_type": "dynamic", "factor": 2.0}
    assert read({"RoPE Scaling": scaling}, "vllm").parameters == {"Model/rope_scaling": scaling}


def test_one_option_given_twice_with_two_values_is_a_problem() -> None:
    (problem,) = read({"Context Size": 1, "Model/context_size": 2}).problems
    assert "Context Size" in problem.message
    assert not read({"Context Size": "1", "Model/context_size": 1}).problems
    (twice,) = read({"models": [{"top_k": 1, "Top-K": 2}]}).problems
    assert "twice" in twice.message


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"app": "vllm", "version": 1, "values": {}}, "configuration of vllm, not of llamacpp"),
        ({"app": "llamacpp", "version": 2, "values": {}}, "newer"),
        (
            {"app": "llamacpp", "version": "1", "values": {}},
            "version = '1': must be a whole number",
        ),
        ({"app": "vllm", "version": 2, "values": {}}, "has 2 problems"),
        ([], "must be a JSON object"),
    ],
)
def test_files_that_are_refused(document: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read(document)
