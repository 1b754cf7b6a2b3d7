"""What a form is beside its options: the application's description, and the order of its parts.

The options themselves are declared by the apps; here stands where the form shows them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from common.forms.names import MODELS_FIELD, field_name
from common.options.declaration import Option
from common.options.settings import AppSettings

AnySettings = type[AppSettings[Any, Any]]


@dataclass(frozen=True)
class Group:
    """A collapsible group of the form: the options of a section that do not stand alone.

    Attributes:
        name: Its wizard name.
        title: Its title.
        section: The options' section; empty: those of the model.
    """

    name: str
    title: str
    section: str


@dataclass(frozen=True)
class ModelList:
    """The list of models."""

    title: str = "Model Configuration"
    info: str = "What the instance serves: an item for each model, with the options of its engine."


@dataclass(frozen=True)
class Outline:
    """One application.

    Attributes:
        app: The package is ``apps.<app>``.
        id: Unique on a server; administrators override fields by it.
        description: One sentence.
        icon: The asset that is its icon.
        image: Container image that the task asks for.
        container_arguments: Arguments for ``docker run``.
        parts: The form from top to bottom; a text is the wizard name of a field that stands alone.
    """

    app: str
    id: str
    description: str
    icon: str
    image: str
    container_arguments: str
    parts: tuple[str | Group | ModelList, ...]


_GENERAL = Group("general", "General", "General")
_LORA = Group("lora", "LoRA Configuration", "LoRA")
# Shared memory for the processes of one model on several GPUs.
_SHARED_MEMORY = "--ipc=host"
_IMAGE = "python:3.12"

_OUTLINES = (
    Outline(
        app="llamacpp",
        id="clearml-deploy-llamacpp",
        description="Serve GGUF models with llama.cpp, on CPUs and GPUs.",
        icon="icon-llamacpp.svg",
        image=_IMAGE,
        container_arguments="",
        parts=(
            "instance_name",
            "service_project",
            "queue",
            "general_gateway_route",
            ModelList(),
            _GENERAL,
            Group("idle", "Idle Options", "Idle"),
        ),
    ),
    Outline(
        app="vllm",
        id="clearml-deploy-vllm",
        description="Serve language models and LoRA adapters with vLLM.",
        icon="icon-vllm.svg",
        image=_IMAGE,
        container_arguments=_SHARED_MEMORY,
        parts=(
            "instance_name",
            "service_project",
            "queue",
            "general_gateway_route",
            ModelList(),
            _LORA,
            _GENERAL,
            Group("advanced", "Advanced", "Advanced"),
            "general_vllm_version",
            Group("idle", "Idle options", "Idle"),
        ),
    ),
    Outline(
        app="legacy_model",
        id="clearml-deploy-legacy-model",
        description="Serve one language model with vLLM: the older form.",
        icon="icon-legacy-model.svg",
        image=_IMAGE,
        container_arguments=_SHARED_MEMORY,
        parts=(
            "project_name",
            "task_name",
            "queue",
            "model",
            Group("model_configuration", "Model Configuration", ""),
            _LORA,
            _GENERAL,
            "idle_idle_time_limit_hours",
        ),
    ),
)


def outline_of(app: str) -> Outline:
    """The outline of an app's form.

    Raises:
        KeyError: There is no such app.
    """
    return {outline.app: outline for outline in _OUTLINES}[app]


@dataclass(frozen=True)
class Part:
    """A part of a form with its options: one that stands alone, those of a group, or a model's."""

    at: Group | ModelList | None
    options: tuple[Option, ...]


def parts_of(outline: Outline, settings: AnySettings) -> Iterator[Part]:
    """The form from top to bottom.

    Args:
        outline: The outline of the app.
        settings: The app's settings class.

    Raises:
        ValueError: An option has no place in the form.
    """
    options = {field_name(option): option for option in settings.options()}
    alone = {part for part in outline.parts if isinstance(part, str)}
    placed: list[Option] = []
    for part in outline.parts:
        if isinstance(part, str):
            found: tuple[Option, ...] = (options[part],)
            yield Part(None, found)
        else:
            found = tuple(
                option
                for option in settings.options()
                if field_name(option) not in alone and _belongs(option, part)
            )
            yield Part(part, found)
        placed += found
    if missing := [o.path or o.name for o in settings.options() if o not in placed]:
        raise ValueError(f"no place in the form of {outline.app}: {', '.join(missing)}")


def form_names(outline: Outline, settings: AnySettings) -> Iterator[str]:
    """Every wizard name from top to bottom; a model's with the list's before it (``models.cli``)."""
    for part in parts_of(outline, settings):
        names = [field_name(option) for option in part.options]
        if isinstance(part.at, ModelList):
            yield MODELS_FIELD
            names = [f"{MODELS_FIELD}.{name}" for name in names]
        elif isinstance(part.at, Group):
            yield part.at.name
        yield from names


def _belongs(option: Option, part: Group | ModelList) -> bool:
    if isinstance(part, ModelList) or not part.section:
        return option.per_model
    return option.group == part.section and not option.per_model
