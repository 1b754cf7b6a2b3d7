"""What several commands take: the app's name, a configuration file, single parameters."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from common.errors import ConfigurationError, Problem
from common.options.loading import flatten_config
from common.runtime.app import App

APP_NAMES = ("llamacpp", "vllm", "legacy_model")

Command = TypeVar("Command", bound=Callable[..., Any])


def app_argument(command: Command) -> Command:
    """The positional argument APP."""
    return click.argument("app_name", metavar="APP", type=click.Choice(APP_NAMES))(command)


def configuration_options(command: Command) -> Command:
    """``--config FILE`` and ``--set Section/name=value``."""
    command = click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="SECTION/NAME=VALUE",
        help="Set one parameter; may be repeated, wins over --config.",
    )(command)
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="JSON file with parameters.",
    )(command)


def load_app(name: str) -> App:
    """Import the app's package; only then its dependencies are needed."""
    module = importlib.import_module(f"apps.{name}.app")
    app: App = module.app()
    return app


def read_parameters(config_file: Path | None, assignments: tuple[str, ...]) -> dict[str, Any]:
    """Put a configuration file and single assignments together.

    Raises:
        ConfigurationError: The file cannot be read, or an assignment has no ``=``.
    """
    parameters: dict[str, Any] = {}
    problems: list[Problem] = []
    if config_file is not None:
        try:
            parameters.update(flatten_config(json.loads(config_file.read_text(encoding="utf-8"))))
        except OSError as error:
            problems.append(Problem(f"cannot be read: {error.strerror}", path=str(config_file)))
        except ValueError as error:
            problems.append(Problem(f"is not valid JSON: {error}", path=str(config_file)))
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals or "/" not in path:
            # Only the name is shown: the rest may be a secret.
            message = "must be written as Section/name=value"
            problems.append(Problem(message, path=f"--set {path}"))
        parameters[path.strip()] = value
    if problems:
        raise ConfigurationError(problems)
    return parameters
