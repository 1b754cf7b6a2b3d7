"""A form's entry, the parameters that it becomes, and the settings that come of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.errors import ConfigurationError
from common.forms.entry import Attributes, entry_of_parameters, parameters_of_entry
from common.forms.names import MODELS_FIELD, field_name, has_model_list
from common.options.declaration import Option
from common.options.loading import MODELS_PATH, load_settings
from tests.forms.reading import APPS, fields_of, settings_of

# Options whose values mean something more than their type.
_VALUES = {
    "model": "provider/repo/file.gguf",
    "general_port": "8801-8810",
    "general_public_url": "https://models.acme.com",
    "general_cors_origins": "https://app.acme.com",
    "general_vllm_version": "0.7.2",
    "lora_lora_modules": "sql=provider/adapter",
    "lora_long_lora_scaling_factors": "2.0,4.0",
    "multimedia_limit_per_prompt": "image=4",
    "model_overrides": "enforce_eager: true",
    "tensor_split": "3,2",
    "cli": "--verbose",
}
# What another field has to say for a value to be right.
_BESIDE = {
    "lora_lora_modules": {"lora_enable_lora": True},
    "general_tls_certificate_file": {"general_tls_key_file": "/etc/tls/key.pem"},
    "general_tls_key_file": {"general_tls_certificate_file": "/etc/tls/certificate.pem"},
    "enable_auto_tool_choice": {"tool_call_parser": "hermes"},
    "max_waiting_requests": {"max_concurrent_requests": 2},
    "max_queue_seconds": {"max_concurrent_requests": 2, "max_waiting_requests": 2},
}
# The same, of a field of a model that needs one of the instance, which some forms have elsewhere.
_BESIDE_MODELS = {
    "idle_offload_minutes": {
        "llamacpp": {"general_enable_disk_swapping": True},
        "vllm": {"advanced_enable_disk_swapping": True},
    },
}

EVERY_FIELD = [(app, option) for app in APPS for option in settings_of(app).options(entry=False)]
IDS = [f"{app}-{option.path}" for app, option in EVERY_FIELD]


def sample(option: Option) -> Any:
    """A value that the option can have."""
    if (name := field_name(option)) in _VALUES:
        return _VALUES[name]
    if option.choices:
        return option.choices[-1]
    if option.type == "boolean":
        return True
    if option.type == "integer":
        return max(2, int(option.minimum or 0))
    if option.type == "float":
        return 0.5 if option.maximum == 1 else 1.5
    return '{"a": 1}' if option.structure == "object" else "provider/repo"


def _beside_models(app: str, option: Option) -> dict[str, Any]:
    return _BESIDE_MODELS.get(field_name(option), {}).get(app, {})


def entry_with(app: str, option: Option, value: Any) -> dict[str, Any]:
    """What the form sends when this field alone, and what it cannot do without, is filled in."""
    beside = _BESIDE.get(field_name(option), {})
    model: dict[str, Any] = {"model": _VALUES["model"]}
    if option.per_model:
        model |= {**beside, field_name(option): value}
        beside = _beside_models(app, option)
    entry: dict[str, Any] = {"queue": "gpu", **beside}
    if has_model_list(settings_of(app)):
        entry[MODELS_FIELD] = [model]
    else:
        entry |= model
    return entry if option.per_model else entry | {field_name(option): value}


def typed_by_hand(app: str, option: Option, value: Any) -> dict[str, str]:
    """The parameters that somebody would type into a cloned task for the same."""
    paths = {field_name(o): o.path for o in settings_of(app).options(entry=False)}
    typed = {"Model/model": _VALUES["model"], option.path: str(value)}
    beside = _BESIDE.get(field_name(option), {}) | _beside_models(app, option)
    return typed | {paths[name]: str(said) for name, said in beside.items()}


@pytest.mark.parametrize(("app", "option"), EVERY_FIELD, ids=IDS)
def test_a_filled_in_field_gives_the_settings_of_one_typed_by_hand(
    app: str, option: Option
) -> None:
    settings = settings_of(app)
    value = sample(option)
    attributes, parameters = parameters_of_entry(settings, entry_with(app, option, value))
    assert attributes == Attributes(queue="gpu")
    assert all(isinstance(text, str) for text in parameters.values())
    loaded = load_settings(settings, parameters).settings
    assert loaded == load_settings(settings, typed_by_hand(app, option, value)).settings
    if option.name != "model":
        assert loaded != load_settings(settings, {"Model/model": _VALUES["model"]}).settings


@pytest.mark.parametrize(("app", "option"), EVERY_FIELD, ids=IDS)
def test_parameters_become_the_entry_that_they_came_from(app: str, option: Option) -> None:
    settings = settings_of(app)
    entry = entry_with(app, option, sample(option))
    attributes, parameters = parameters_of_entry(settings, entry)
    assert entry_of_parameters(settings, parameters, attributes) == entry


@pytest.mark.parametrize("app", APPS)
def test_a_form_that_is_left_alone_is_a_valid_configuration(app: str) -> None:
    """Every default of the form, and every checkbox that is off."""
    settings = settings_of(app)
    model_fields = {field_name(option) for option in settings.options() if option.per_model}
    defaults = {e["name"]: e["default"] for _, e in fields_of(app) if "default" in e}
    model = {name: value for name, value in defaults.items() if name in model_fields}
    entry = {name: value for name, value in defaults.items() if name not in model_fields}
    model["model"] = _VALUES["model"]
    entry |= {MODELS_FIELD: [model]} if has_model_list(settings) else model
    loaded = load_settings(settings, parameters_of_entry(settings, entry)[1]).settings
    untouched = load_settings(settings, {"Model/model": _VALUES["model"]}).settings
    for mine, theirs in zip(
        (*loaded.models, *loaded.groups), (*untouched.models, *untouched.groups), strict=True
    ):
        said = {name: value for name, value in mine.given().items() if value is not False}
        others = {name: getattr(theirs, name) for name in said}
        assert said == others
    for mine, theirs in zip(loaded.models, untouched.models, strict=True):
        # Off in a checkbox may mean nothing else than not set.
        assert (mine.limits, mine.memory_policy) == (theirs.limits, theirs.memory_policy)
    assert loaded.memory == untouched.memory


def test_empty_fields_are_not_set_and_off_is() -> None:
    entry = {
        "instance_name": " ",
        "queue": "gpu",
        "general_host": "",
        "general_port": None,
        "general_disable_logs": False,
        MODELS_FIELD: [{"model": "a/b/c.gguf", "verbose": False, "cli": "", "temperature": "0.5"}],
    }
    attributes, parameters = parameters_of_entry(settings_of("llamacpp"), entry)
    assert attributes == Attributes(name="", project="", queue="gpu")
    assert list(parameters) == [MODELS_PATH, "General/disable_logs"]
    assert parameters["General/disable_logs"] == "false"
    assert json.loads(parameters[MODELS_PATH]) == [
        {"verbose": False, "model": "a/b/c.gguf", "temperature": 0.5}
    ]


def test_attributes_have_the_names_of_each_form() -> None:
    new = {"instance_name": "chat", "service_project": "LLM", "queue": "gpu"}
    old = {"task_name": "chat", "project_name": "LLM", "queue": "gpu"}
    wanted = Attributes("chat", "LLM", "gpu")
    assert parameters_of_entry(settings_of("vllm"), new) == (wanted, {})
    assert parameters_of_entry(settings_of("legacy_model"), old) == (wanted, {})
    assert entry_of_parameters(settings_of("vllm"), {}, wanted) == new
    assert entry_of_parameters(settings_of("legacy_model"), {}, wanted) == {
        name: old[name] for name in ("project_name", "task_name", "queue")
    }


def test_the_form_of_one_model_has_no_list_and_takes_one_nevertheless() -> None:
    settings = settings_of("legacy_model")
    flat = parameters_of_entry(settings, {"model": "a/b", "tokenizer": "a/c"})[1]
    assert flat == {"Model/model": "a/b", "Model/tokenizer": "a/c"}
    listed = parameters_of_entry(settings, {MODELS_FIELD: [{"model": "a/b", "tokenizer": "a/c"}]})
    assert listed[1] == flat
    two = parameters_of_entry(settings, {MODELS_FIELD: [{"model": "a/b"}, {"model": "a/c"}]})[1]
    with pytest.raises(ConfigurationError, match="this app serves one"):
        load_settings(settings, two)


def test_a_flat_model_becomes_an_item_and_the_list_wins() -> None:
    settings = settings_of("llamacpp")
    flat = {"Model/model": "a/b/c.gguf", "Model/parallel": "4", "Advanced/type_k": "q8_0"}
    item = {"model": "a/b/c.gguf", "parallel": 4, "type_k": "q8_0"}
    assert entry_of_parameters(settings, flat) == {MODELS_FIELD: [item]}
    both = {**flat, MODELS_PATH: '[{"model": "d/e/f.gguf"}]', "Status/status": "active"}
    assert entry_of_parameters(settings, both) == {MODELS_FIELD: [{"model": "d/e/f.gguf"}]}


def test_text_that_is_not_of_its_type_stays_text() -> None:
    settings = settings_of("llamacpp")
    given = {"Idle/idle_time_limit_hours": "soon", "General/drain_seconds": "nan"}
    assert entry_of_parameters(settings, given) == {
        "idle_idle_time_limit_hours": "soon",
        "general_drain_seconds": "nan",
    }


def test_every_unknown_name_is_said_with_the_nearest() -> None:
    entry = {"quue": "x", "verbose": True, MODELS_FIELD: [{"model": "a/b/c.gguf", "temprature": 1}]}
    with pytest.raises(ConfigurationError) as caught:
        parameters_of_entry(settings_of("llamacpp"), entry)
    assert [(p.path, p.message) for p in caught.value.problems] == [
        ("quue", 'there is no such field; did you mean "queue"?'),
        ("verbose", 'belongs to one model: put it into an item of "models"'),
        (
            "models[0].temprature",
            'there is no such field of a model; did you mean "temperature"?',
        ),
    ]
    with pytest.raises(ConfigurationError) as caught:
        entry_of_parameters(settings_of("llamacpp"), {"General/hots": "x", MODELS_PATH: "[1]"})
    assert [(p.path, p.message.partition(" such as")[0]) for p in caught.value.problems] == [
        ("models", "must be a list of objects"),
        ("General/hots", 'there is no such parameter; did you mean "General/host"?'),
    ]
