"""A form as a file: all of its parts together, and its text. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.forms.dashboard import write_dashboard
from common.forms.outline import AnySettings, Outline
from common.forms.wizard import form_default, write_wizard
from common.options.loading import MODELS_PATH, render_value

SUFFIX = ".app.conf"
# Nobody's address: where the program is kept is for whoever packs the form to say.
UNKNOWN_REPOSITORY = "https://git.example.com/clearml-deploy.git"

_HEADER = (
    "# Written by `clearml-deploy forms build` from the options' declarations; do not edit.\n"
    "# HOCON, of which JSON is a part. docs/forms.md says what the fields mean.\n"
)


@dataclass(frozen=True)
class Deployment:
    """What a server's administrator decides; the rest of a form is the same everywhere.

    Attributes:
        repository: Git URL of the program, as the workers reach it.
        branch: Its branch.
        queue: The queue for instances whose form names none.
        image: Container image, empty for the app's own.
    """

    repository: str = UNKNOWN_REPOSITORY
    branch: str = "main"
    queue: str = "default"
    image: str = ""


def write_form(
    outline: Outline,
    settings: AnySettings,
    *,
    title: str,
    version: str,
    packages: Sequence[str],
    deployment: Deployment | None = None,
) -> dict[str, Any]:
    """Write the form of an app.

    Args:
        outline: The outline of the app.
        settings: Its settings class.
        title: The application's title.
        version: Of the program, three numbers.
        packages: What the task installs: pip requirements.
        deployment: Where it is to run.

    Returns:
        The content of the app's configuration file.
    """
    deployment = deployment or Deployment()
    return {
        "id": outline.id,
        "name": title,
        "version": version,
        "provider": "clearml-deploy",
        "description": outline.description,
        "icon": f"${{ASSET:{outline.icon}}}",
        "no_info_html": "${ASSET:placeholder.html}",
        "default_queue": deployment.queue,
        "badges": [],
        "resumable": True,
        "category": "Model Deployment",
        "details_page": "task",
        "task": {
            "script": {
                "repository": deployment.repository,
                "branch": deployment.branch,
                "entry_point": f"-m apps.{outline.app}",
                "working_dir": ".",
                "requirements": {"pip": [*packages]},
            },
            "container": {
                "image": deployment.image or outline.image,
                "arguments": outline.container_arguments,
            },
            "hyperparams": _parameters(settings),
        },
        "wizard": write_wizard(outline, settings),
        "dashboard": write_dashboard(settings),
    }


def render_form(document: dict[str, Any]) -> str:
    """Write a form's text; the same text for the same form."""
    return _HEADER + json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _parameters(settings: AnySettings) -> dict[str, dict[str, str]]:
    """Every parameter of the app with its default, as a task stores it; empty: the engine's."""
    sections: dict[str, dict[str, str]] = {}
    for option in settings.options(entry=False):
        section, _, name = option.path.partition("/")
        sections.setdefault(section, {})[name] = render_value(form_default(option))
    section, _, name = MODELS_PATH.partition("/")
    return sections | {section: {name: ""}}
