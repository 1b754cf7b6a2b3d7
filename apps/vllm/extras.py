"""What comes with the models: tokenizers, draft models, adapters. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from apps.vllm.lora import PATH as LORA_PATH
from apps.vllm.lora import TITLE as LORA_TITLE
from apps.vllm.lora import LoraModule, parse_lora_modules
from apps.vllm.options import EngineSettings
from apps.vllm.request import EngineRequest, Given
from common.models.reference import ReferenceKind, parse_reference
from common.options.cli_field import split_cli
from common.options.settings import ModelOptions
from common.runtime.app import AnySettings, Companion, ModelExtras
from common.runtime.naming import listed

_ADAPTERS = "--lora-modules"
_NO_DRAFT = ("[ngram]", "ngram")


def model_extras(names: Sequence[str], settings: AnySettings) -> dict[str, ModelExtras]:
    """Tell what comes with each model.

    Args:
        names: The endpoint names, in the order of `settings.models`.
        settings: The instance's settings.

    Raises:
        ConfigurationError: An adapter belongs to no model, or its name is taken.
    """
    assert isinstance(settings, EngineSettings)
    adapters = settings.adapters(names)
    return {
        name: _extras(where, model, settings, adapters[name])
        for name, (where, model) in zip(names, listed(settings), strict=True)
    }


def _extras(
    where: str, model: ModelOptions, settings: AnySettings, modules: Sequence[LoraModule]
) -> ModelExtras:
    request = EngineRequest(model, settings)
    if request.cli:
        return ModelExtras(adapters=adapters_in_cli(request.cli))
    overrides = {str(key).replace("-", "_"): value for key, value in request.overrides.items()}
    companions = [*_tokenizer(where, request, overrides), *_draft_model(where, request, overrides)]
    if "lora_modules" in overrides:
        return ModelExtras(tuple(companions), adapter_names(overrides["lora_modules"]))
    for module in modules:
        key = f"lora:{module.name}"
        companions.append(Companion(key, module.reference, LORA_TITLE, LORA_PATH))
    return ModelExtras(tuple(companions), tuple(module.name for module in modules))


def _tokenizer(where: str, request: EngineRequest, overrides: Mapping[str, Any]) -> list[Companion]:
    given = next(iter(request.of("--tokenizer")), None)
    revision = next(iter(request.of("--tokenizer-revision")), None)
    if "tokenizer" in overrides or (given is None and revision is None):
        return []
    reference = given.value if given else request.model.reference
    is_hub = parse_reference(reference).kind is ReferenceKind.HUB
    at = str(revision.value) if revision and is_hub else None
    if given is None and at in (None, request.model.model_revision):
        return []  # what comes with the model
    said = given or revision
    assert said is not None
    return [
        Companion("tokenizer", reference, said.option.title, _path(where, said), at, "tokenizer")
    ]


def _draft_model(
    where: str, request: EngineRequest, overrides: Mapping[str, Any]
) -> list[Companion]:
    given = next(iter(request.of("--speculative-model")), None)
    replaced = {"speculative_model", "speculative_config"} & overrides.keys()
    if given is None or given.value in _NO_DRAFT or replaced:
        return []
    title = given.option.title
    return [Companion("draft_model", given.value, title, _path(where, given))]


def _path(where: str, given: Given) -> str:
    """The path of a field as the user knows it: in the list of models, with the model's place."""
    option = given.option
    is_listed = option.per_model and where != "Model"
    return f"{where}.{option.name}" if is_listed else option.path


def adapters_in_cli(text: str) -> tuple[str, ...]:
    """The names of the adapters that "CLI" brings."""
    try:
        tokens = split_cli(text)
    except ValueError:
        return ()  # told where the field is checked
    values: list[str] = []
    is_open = False
    for token in tokens:
        if token.startswith("-"):
            name, equals, value = token.partition("=")
            is_open = name.replace("_", "-") == _ADAPTERS
            if is_open and equals:
                values.append(value)
        elif is_open:
            values.append(token)
    return adapter_names(values)


def adapter_names(value: Any) -> tuple[str, ...]:
    """The names of adapters in any form that vLLM takes them in."""
    items = value if isinstance(value, list) else [value]
    names: list[str] = []
    for item in items:
        if isinstance(item, Mapping):
            item = json.dumps(dict(item))
        if isinstance(item, str) and item.lstrip().startswith(("{", "[")):
            names += [module.name for module in parse_lora_modules(item).modules]
        elif isinstance(item, str):
            names += [part.partition("=")[0].strip() for part in item.split() if "=" in part]
    return tuple(dict.fromkeys(filter(None, names)))
