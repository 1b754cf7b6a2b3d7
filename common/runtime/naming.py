"""The endpoint names of an instance's models: chosen, or made of what the models are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from common.errors import ConfigurationError, Problem
from common.gateway.names import check_endpoint_name
from common.models.clearml_registry import find_model
from common.models.reference import ReferenceKind, default_endpoint_name, parse_reference
from common.options.settings import ModelOptions
from common.runtime.app import AnySettings, ModelExtras
from common.runtime.background import in_background
from common.runtime.endpoint_names import endpoint_problems, preliminary_name


def listed(settings: AnySettings) -> Iterator[tuple[str, ModelOptions]]:
    """The models, each with its place in the parameters; a list of one counts as the flat form."""
    models = settings.models
    for index, model in enumerate(models):
        yield ("Model" if len(models) == 1 else f"Models/models[{index}]"), model


def preliminary_names(settings: AnySettings) -> list[str]:
    """The endpoint names as far as the settings tell them: an unnamed ClearML model has its ID.

    Raises:
        ModelError: A reference is none.
    """
    return [preliminary_name(model) for model in settings.models]


async def resolve_names(settings: AnySettings, say: Callable[[str], None]) -> list[str]:
    """The endpoint names; that of an unnamed ClearML model comes from the registry.

    Args:
        settings: The instance's settings.
        say: Gets a line for a name that had to be changed.

    Raises:
        ConfigurationError: Names that cannot be served, or that two models have.
        ModelError: A reference is none, or names no registered model.
        ControlPlaneError: The registry does not answer.
    """
    names = preliminary_names(settings)
    for index, model in enumerate(settings.models):
        reference = parse_reference(model.reference)
        if model.endpoint_name or reference.kind is not ReferenceKind.CLEARML:
            continue
        found = await in_background(find_model, reference.model_id)
        name = default_endpoint_name(reference, found.name)
        if found.name and check_endpoint_name(name):
            # A registry's names may be anything; an endpoint's is part of a URL.
            name = re.sub(r"[^A-Za-z0-9._/-]+", "-", name).strip("-/") or reference.model_id
            say(f'"{found.name}" is served as "{name}".')
        names[index] = name
    # Again what the options checked already, now that all names are known.
    problems = endpoint_problems(
        (where, model, name) for (where, model), name in zip(listed(settings), names, strict=True)
    )
    if problems:
        raise ConfigurationError(problems)
    return names


def check_adapters(names: Sequence[str], extras: Mapping[str, ModelExtras]) -> None:
    """Refuse adapters that could not be asked for by their name.

    Raises:
        ConfigurationError: A name that cannot be part of a URL, or that something else has.
    """
    problems: list[Problem] = []
    taken = set(names)
    for model in names:
        for adapter in extras.get(model, ModelExtras()).adapters:
            wrong = check_endpoint_name(adapter)
            if wrong:
                message = f'the adapter "{adapter}" of "{model}" cannot be served: {wrong}'
                problems.append(Problem(message))
            if adapter in taken:
                message = f'"{adapter}", an adapter of "{model}", is also the name of another adapter or model'
                problems.append(Problem(f"{message}; rename one of them"))
            taken.add(adapter)
    if problems:
        raise ConfigurationError(problems)
