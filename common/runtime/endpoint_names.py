"""The endpoint names of models as far as their options tell them, and what is wrong with them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from common.errors import ModelError, Problem
from common.gateway.names import check_endpoint_name
from common.models.reference import ReferenceKind, default_endpoint_name, parse_reference
from common.options.settings import ModelOptions


def known_name(model: ModelOptions) -> str | None:
    """The endpoint name; None where only the registry can tell it, or the reference is none."""
    if model.endpoint_name:
        return model.endpoint_name
    try:
        reference = parse_reference(model.reference)
    except ModelError:
        return None
    return None if reference.kind is ReferenceKind.CLEARML else default_endpoint_name(reference)


def preliminary_name(model: ModelOptions) -> str:
    """The endpoint name, or for now the ID of an unnamed ClearML model.

    Raises:
        ModelError: The reference is none.
    """
    return model.endpoint_name or default_endpoint_name(model.reference)


def endpoint_problems(models: Iterable[tuple[str, ModelOptions, str]]) -> list[Problem]:
    """Endpoint names that cannot be served, or that two models have.

    Args:
        models: Each with its place in the parameters (``Model``, ``Models/models[0]``) and its name.
    """
    seen: dict[str, str] = {}
    found = []
    for where, model, name in models:
        if wrong := check_endpoint_name(name):
            has_field = "model_endpoint_name" in type(model).model_fields
            way_out = '; set "Model Endpoint Name"' if has_field else ""
            message = f'cannot be served as "{name}": {wrong}{way_out}'
            path = "Model/model" if where == "Model" else f"{where}.model"
            found.append(Problem(message, title="Model", path=path, value=model.reference))
        elif name in seen:
            message = f'"{name}" is also the endpoint name of {seen[name]}; give one another name'
            found.append(Problem(message, title="Model Endpoint Name", path=where, value=name))
        seen.setdefault(name, where)
    return found


def name_problems(field: str, name: str | None) -> list[Problem]:
    """What is wrong with an endpoint name that a model's field may have."""
    wrong = check_endpoint_name(name) if name else None
    return [Problem(f"cannot be served: {wrong}", path=field, value=name)] if wrong else []


def reference_problems(field: str, text: str | None) -> list[Problem]:
    """What is wrong with a model reference that a model's field may have."""
    if not text:
        return []
    try:
        parse_reference(text)
    except ModelError as error:
        return [Problem(str(error), path=field, value=text)]
    return []
