"""What several commands take: the app's name, a configuration, where an agent gets the program."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import click

from common.errors import ConfigurationError, EngineError, Problem
from common.forms.entry import Attributes
from common.forms.exchange import assign, read_document
from common.launch.definition import APP_NAMES as APP_NAMES
from common.launch.source import SOURCE_KINDS
from common.runtime.app import App
from common.runtime.preview import check_preview

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Configuration:
    """A configuration file and single assignments, put together.

    Attributes:
        parameters: ``Section/name`` to value.
        attributes: The instance's name, project and queue, where the file has them.
    """

    parameters: dict[str, Any]
    attributes: Attributes


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
        help="JSON file with parameters: an exported one, or one that you wrote.",
    )(command)


def source_options(command: Command) -> Command:
    """``--source`` and what belongs to it, and the container."""
    options = (
        click.option(
            "--source",
            "source_kind",
            type=click.Choice(SOURCE_KINDS),
            help="Where the agent gets the program. git: it clones a URL (default with --repository, or "
            "without a checkout here). local: it clones this checkout, with its uncommitted changes, for agents "
            "on this machine (default in a checkout). installed: its environment or image has it.",
        ),
        click.option(
            "--repository",
            default="",
            metavar="URL",
            help="Git URL that the agent clones; default for --source git: where this program came from.",
        ),
        click.option("--branch", default="", help="Branch to clone."),
        click.option("--commit", default="", help="Commit to check out."),
        click.option(
            "--docker",
            "container",
            default="",
            metavar="IMAGE",
            help="For an agent in Docker mode.",
        ),
        click.option(
            "--docker-args",
            "container_arguments",
            default="",
            metavar="ARGS",
            help="Arguments for docker run, all in one pair of quotes.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def load_app(name: str) -> App:
    """Import the app's package; only then its dependencies are needed."""
    module = importlib.import_module(f"apps.{name}.app")
    app: App = module.app()
    return app


def read_configuration(
    app: App,
    config_file: Path | None,
    assignments: tuple[str, ...],
    base: Mapping[str, Any] = MappingProxyType({}),
) -> Configuration:
    """Put a configuration file and single assignments together; what is worth knowing is told.

    Args:
        app: The app.
        config_file: A file, exported or written by hand.
        assignments: ``Section/name=value``, over the file's.
        base: What these change, where they are no whole configuration; only checked with them.

    Raises:
        ConfigurationError: The file cannot be read, holds names that no option has, or an assignment has
            no ``=``.
    """
    parameters: dict[str, Any] = {}
    attributes = Attributes()
    problems: list[Problem] = []
    is_read = config_file is None
    if config_file is not None:
        try:
            # Some editors begin a file with a byte order mark.
            document = json.loads(config_file.read_text(encoding="utf-8-sig"))
            read = read_document(app.name, app.settings, document)
        except OSError as error:
            problems.append(Problem(f"cannot be read: {error.strerror}", path=str(config_file)))
        except ValueError as error:
            problems.append(Problem(f"is not valid JSON: {error}", path=str(config_file)))
        except ConfigurationError as error:
            problems += error.problems
        else:
            is_read = True
            parameters.update(read.parameters)
            attributes = read.attributes
            problems += read.problems
            for note in read.notes:
                click.echo(f"{config_file}: {note}", err=True)
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals or "/" not in path:
            # Only the name is shown: the rest may be a secret.
            message = "must be written as Section/name=value"
            problems.append(Problem(message, path=f"--set {path}"))
            continue
        problem = assign(app.settings, parameters, path.strip(), value)
        if problem is not None:
            problems.append(problem)
    if problems:
        further = further_problems(app, {**base, **parameters}) if is_read else []
        raise ConfigurationError([*problems, *further])
    return Configuration(parameters, attributes)


def further_problems(app: App, parameters: Mapping[str, Any]) -> Sequence[Problem]:
    """What else is wrong with a configuration that cannot be used: all is told at once."""
    try:
        check_preview(app, parameters, os.environ)
    except ConfigurationError as error:
        return error.problems
    except EngineError:
        return []
    return []


def read_parameters(
    app: App, config_file: Path | None, assignments: tuple[str, ...]
) -> dict[str, Any]:
    """The parameters of `read_configuration`, for commands that launch nothing."""
    return read_configuration(app, config_file, assignments).parameters
