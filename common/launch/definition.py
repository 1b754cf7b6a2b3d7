"""What a task of ours carries, the same whichever way it came about. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

from common.clearml.parameters import parameter_items
from common.clearml.task import TAG
from common.launch.source import Source
from common.runtime.app import App

APP_NAMES = ("llamacpp", "vllm", "legacy_model")
# Neither SDK nor agent treats types differently; this is the one that people filter models' tasks by.
TASK_TYPE = "inference"
# A user property: a clone keeps it, as it keeps the program that it names the version of.
VERSION_PROPERTY = "clearml_deploy_version"

_ENTRY_POINT = re.compile(r"-m\s+apps\.(\w+)\s*")

# Section -> name -> {section, name, value, type, description}: hyperparameters as the server keeps them.
Hyperparameters = dict[str, dict[str, dict[str, str]]]


def task_fields(
    app: App,
    parameters: Mapping[str, Any],
    source: Source,
    *,
    container: str = "",
    container_arguments: str = "",
) -> dict[str, Any]:
    """The fields of ``tasks.create`` and ``tasks.edit`` that do not depend on who launches.

    Args:
        app: The app.
        parameters: ``Section/name`` to value; every other option is there as well, empty.
        source: Where the agent gets the program.
        container: Image for agents in Docker mode.
        container_arguments: Arguments for ``docker run``.
    """
    return {
        "type": TASK_TYPE,
        "tags": [TAG, app.name],
        "comment": (
            f"{app.title} of clearml-deploy. Name a model in Model/model, or several in Models/models; "
            "a parameter that is left empty leaves the choice to the engine."
        ),
        "script": {
            "binary": "python",
            "repository": source.repository,
            "branch": source.branch,
            "version_num": source.commit,
            "tag": "",
            "diff": source.diff,
            "working_dir": ".",
            "entry_point": f"-m apps.{app.name}",
            "requirements": {"pip": "\n".join(source.packages)},
        },
        "container": {"image": container, "arguments": container_arguments} if container else {},
        "hyperparams": by_section([*parameter_items(app.settings, parameters), version_item()]),
    }


def version_item() -> dict[str, str]:
    """The user property that says which version of this program made a task."""
    return {
        "section": "properties",
        "name": VERSION_PROPERTY,
        "value": program_version(),
        "type": "str",
    }


def by_section(items: Iterable[Mapping[str, str]]) -> Hyperparameters:
    """Arrange hyperparameters the way that a task keeps them."""
    sections: Hyperparameters = {}
    for item in items:
        sections.setdefault(item["section"], {})[item["name"]] = dict(item)
    return sections


def values_of(hyperparameters: Hyperparameters) -> dict[str, str]:
    """The values of a task's hyperparameters, by ``Section/name``."""
    return {
        f"{section}/{name}": str(item.get("value") or "")
        for section, items in hyperparameters.items()
        for name, item in items.items()
    }


def app_name_of(task: Mapping[str, Any]) -> str:
    """The app that a task runs, from its entry point; empty for a task that is none of ours."""
    script = task.get("script") or {}
    found = _ENTRY_POINT.fullmatch(str(script.get("entry_point") or ""))
    return found.group(1) if found else ""


def program_version() -> str:
    """The version of this program."""
    return metadata.version("clearml-deploy")


def version_of(hyperparameters: Hyperparameters) -> str:
    """The version of the program that a task was made by, empty when it does not say."""
    return values_of(hyperparameters).get(f"properties/{VERSION_PROPERTY}", "")
