"""Hyperparameters to settings: values, lists, aliases, and every problem at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apps.llamacpp.options import LlamaCppSettings
from common.errors import ConfigurationError, Problem
from common.options.loading import Loaded, load_settings, render_value
from tests.declarations import problems_of

MODEL = {"Model/model": "provider/repo/model.gguf"}


def load(parameters: dict[str, Any]) -> Loaded[LlamaCppSettings]:
    return load_settings(LlamaCppSettings, parameters)


def problems(parameters: dict[str, Any]) -> list[Problem]:
    return problems_of(LlamaCppSettings, parameters)


def test_strings_become_typed_values() -> None:
    settings = load(
        {
            **MODEL,
            "Model/temperature": "0.5",
            "Model/top_k": "40",
            "Model/embedding": "false",
            "Model/verbose": "True",
            "General/drain_seconds": "5",
            "Idle/idle_time_limit_hours": "0.5",
        }
    ).settings
    (model,) = settings.models
    assert (model.temperature, model.top_k, model.embedding, model.verbose) == (
        0.5,
        40,
        False,
        True,
    )
    assert settings.general.drain_seconds == 5
    assert settings.idle.idle_time_limit_hours == 0.5


def test_empty_means_not_set_for_booleans_too() -> None:
    (model,) = load({**MODEL, "Model/embedding": "", "Model/temperature": "  "}).settings.models
    assert model.embedding is None
    assert model.temperature is None
    assert set(model.given()) == {"model"}


def test_choices_are_accepted_in_any_case() -> None:
    (model,) = load(
        {**MODEL, "Model/split_mode": "Layer", "Advanced/type_k": "Q8_0"}
    ).settings.models
    assert model.split_mode == "layer"
    assert model.type_k == "q8_0"


@pytest.mark.parametrize("url", ["http://x/<script>", "http://x/'y", "http://x/a b", 'http://x"'])
def test_an_address_that_a_page_would_read_as_markup_is_refused(url: str) -> None:
    (problem,) = problems_of(
        LlamaCppSettings, {"Model/model": "a/b/c.gguf", "General/public_url": url}
    )
    assert (problem.path, problem.value) == ("General/public_url", url)
    assert "must not contain" in problem.message


def test_a_waiting_room_needs_a_limit_and_a_size() -> None:
    model = {"Model/model": "a/b/c.gguf"}
    assert [
        (problem.path, problem.value)
        for problem in problems({**model, "Model/max_waiting_requests": "5"})
    ] == [("Model/max_waiting_requests", 5)]
    (problem,) = problems(
        {**model, "Model/max_concurrent_requests": "2", "Model/max_queue_seconds": "9"}
    )
    assert problem.path == "Model/max_queue_seconds"
    assert "Max Waiting Requests" in problem.message


def test_all_problems_are_reported_together() -> None:
    found = problems(
        {
            "Model/temprature": "1",
            "Model/temperature": "hot",
            "Model/top_k": "1.5",
            "Model/min_p": "3",
            "Model/split_mode": "diagonal",
            "Model/tensor_split": "3;2",
            "Model/model_endpoint_name": "../admin",
            "General/port": "99999",
            "General/enable_disk_swapping": "true",
            "General/enable_automatic_cpu_offloading": "true",
            "Idle/idle_time_limit_hours": "-1",
            "Ideal/idle_time_limit_hours": "1",
        }
    )
    by_path = {problem.path: problem for problem in found}
    assert set(by_path) == {
        "Model/temprature",
        "Model/temperature",
        "Model/top_k",
        "Model/min_p",
        "Model/split_mode",
        "Model/tensor_split",
        "Model/model_endpoint_name",
        "Model/model",
        "General/port",
        "General/enable_disk_swapping",
        "Idle/idle_time_limit_hours",
        "Ideal/idle_time_limit_hours",
    }
    assert 'did you mean "Model/temperature"' in by_path["Model/temprature"].message
    assert (
        'did you mean "Idle/idle_time_limit_hours"'
        in by_path["Ideal/idle_time_limit_hours"].message
    )
    assert by_path["Model/temperature"].title == "Temperature"
    assert by_path["Model/temperature"].value == "hot"
    assert "a number" in by_path["Model/temperature"].message
    assert "a whole number" in by_path["Model/top_k"].message
    assert "at most 1" in by_path["Model/min_p"].message
    assert "'none', 'layer', 'row'" in by_path["Model/split_mode"].message
    assert (
        "General/enable_automatic_cpu_offloading" in by_path["General/enable_disk_swapping"].message
    )


@pytest.mark.parametrize("value", ["nan", "inf", "1e999"])
def test_numbers_that_are_none_are_refused(value: str) -> None:
    (problem,) = problems({**MODEL, "Model/temperature": value})
    assert problem.path == "Model/temperature"


def test_secret_values_never_reach_a_problem() -> None:
    found = problems({"General/api_key": "sesame-open", "Model/cli": "--api-key sesame-open"})
    assert "sesame" not in str(ConfigurationError(found))


def test_models_list_gives_several_models_and_wins_over_the_flat_section() -> None:
    listed = [
        {"model": "a/b/c.gguf", "temperature": 0.5},
        {"model": "a/b/d*.gguf", "parallel": "2"},
    ]
    loaded = load(
        {"Models/models": json.dumps(listed), "Model/temperature": "1", "Model/model": "x/y/z.gguf"}
    )
    first, second = loaded.settings.models
    assert (first.temperature, second.parallel) == (0.5, 2)
    (warning,) = loaded.warnings
    assert "Model/model, Model/temperature" in warning


def test_problems_in_the_list_name_the_item() -> None:
    listed = [{"model": "a/b/c.gguf", "temprature": 1}, {"temperature": "hot"}, 7]
    paths = {p.path for p in problems({"Models/models": json.dumps(listed)})}
    assert paths == {
        "Models/models[0].temprature",
        "Models/models[1].temperature",
        "Models/models[1].model",
        "Models/models[2]",
    }


@pytest.mark.parametrize("value", ["{", '{"model": "a/b/c.gguf"}', "7"])
def test_a_list_that_is_none_is_refused(value: str) -> None:
    (problem,) = problems({"Models/models": value})
    assert problem.path == "Models/models"


def test_two_models_cannot_have_one_endpoint_name() -> None:
    listed = [{"model": "a/b/c.gguf"}, {"model": "x/y/z.gguf", "model_endpoint_name": "a/b/c.gguf"}]
    (problem,) = problems({"Models/models": json.dumps(listed)})
    assert problem.path == "Models/models[1]"
    assert "a/b/c.gguf" in problem.message


def test_an_advanced_option_may_stand_in_the_model_section_but_not_contradict() -> None:
    (model,) = load({**MODEL, "Model/flash_attention": "true"}).settings.models
    assert model.flash_attention is True
    (problem,) = problems({**MODEL, "Model/type_k": "q8_0", "Advanced/type_k": "f16"})
    assert problem.path == "Advanced/type_k"


def test_contradicting_twins_are_refused() -> None:
    paths = {
        p.path
        for p in problems(
            {
                **MODEL,
                "Model/parallel": "4",
                "Advanced/max_batch_size": "2",
                "Model/no_mmap": "true",
                "Advanced/use_mmap": "true",
                "Advanced/max_input_tokens": "100",
                "Advanced/max_total_tokens": "100",
            }
        )
    }
    assert paths == {"Advanced/max_batch_size", "Advanced/use_mmap", "Advanced/max_input_tokens"}


def test_sections_of_clearml_are_left_alone() -> None:
    loaded = load({**MODEL, "Status/status": "idle", "properties/x": "1", "Args/y": "2"})
    assert len(loaded.settings.models) == 1


def test_further_checks_see_models_that_have_other_problems() -> None:
    seen = []

    def check(where: str, model: Any, settings: Any) -> list[Problem]:
        seen.append((where, model.cli))
        return [Problem("no such flag", path="cli", value=model.cli)]

    with pytest.raises(ConfigurationError) as caught:
        load_settings(
            LlamaCppSettings, {**MODEL, "Model/cli": "--bogus", "Model/temperature": "hot"}, check
        )
    assert seen == [("Model", "--bogus")]
    assert {p.path for p in caught.value.problems} == {"Model/cli", "Model/temperature"}


@pytest.mark.parametrize(
    ("text", "ports"),
    [("8800", range(8800, 8801)), ("8800-8802", range(8800, 8803)), ("", range(8800, 8900))],
)
def test_ports(text: str, ports: range) -> None:
    assert load({**MODEL, "General/port": text}).settings.general.ports() == ports


@pytest.mark.parametrize("text", ["x", "0", "70000", "8802-8800", "1-", "-5"])
def test_ports_that_are_none_are_refused(text: str) -> None:
    (problem,) = problems({**MODEL, "General/port": text})
    assert problem.path == "General/port"


def test_values_are_stored_as_strings_that_load_again() -> None:
    assert [render_value(v) for v in (None, True, False, 3, 0.5, "x", [{"a": 1}])] == [
        "",
        "true",
        "false",
        "3",
        "0.5",
        "x",
        '[{"a": 1}]',
    ]


def test_value_under_an_unknown_name_is_not_shown() -> None:
    found = problems({**MODEL, "General/huging_face_token": "hf_SECRET"})
    found += problems({"Models/models": [{"model": "a/b/c.gguf", "api_ky": "hf_SECRET"}]})
    assert len(found) == 2
    assert 'did you mean "General/hugging_face_token"' in str(found[0])
    assert "SECRET" not in "".join(map(str, found))


def test_numbers_of_a_json_file_are_text_where_text_is_meant() -> None:
    assert load({**MODEL, "General/port": 8800}).settings.general.port == "8800"
    (problem,) = problems({"Model/model": ["a"]})
    assert problem.message == "must be text"


def test_an_option_in_the_wrong_section_is_found_in_its_own() -> None:
    found = problems({**MODEL, "Advanced/temperature": "1", "Idle/Port": "8800"})
    assert 'did you mean "Model/temperature"?' in found[0].message
    assert 'did you mean "General/port"?' in found[1].message
    (problem,) = problems({"Models/models": [{"model": "a/b/c.gguf", "drain_seconds": 3}]})
    assert 'did you mean "General/drain_seconds"?' in problem.message


def test_groups_with_wrong_values_still_take_part_in_the_checks() -> None:
    seen = []

    def check(where: str, model: Any, settings: Any) -> list[Problem]:
        seen.append((settings.general.engine, settings.general.max_body_mib))
        return []

    with pytest.raises(ConfigurationError):
        load_settings(
            LlamaCppSettings,
            {**MODEL, "General/engine": "llama-server", "General/max_body_mib": "big"},
            check,
        )
    assert seen == [("llama-server", 64.0)]


@pytest.mark.parametrize("given", ["tls_certificate_file", "tls_key_file"])
def test_a_certificate_needs_its_key_and_the_reverse(given: str) -> None:
    other = {"tls_certificate_file": "tls_key_file", "tls_key_file": "tls_certificate_file"}[given]
    [problem] = problems_of(
        LlamaCppSettings, {"Model/model": "a/b/c.gguf", f"General/{given}": "/tls/x.pem"}
    )
    assert problem.path == f"General/{other}"


@pytest.mark.parametrize(
    ("given", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        (
            "https://a.example.com, http://localhost:3000/",
            ("https://a.example.com", "http://localhost:3000"),
        ),
    ],
)
def test_origins_are_told_one_by_one(given: str, origins: tuple[str, ...]) -> None:
    assert load({**MODEL, "General/cors_origins": given}).settings.general.origins() == origins


@pytest.mark.parametrize("given", ["app.example.com", "https://a.example.com/path", "null", "**"])
def test_what_is_no_origin_is_told(given: str) -> None:
    (problem,) = problems({"Model/model": "a/b/c.gguf", "General/cors_origins": given})
    assert problem.path == "General/cors_origins"
    assert given in problem.message
