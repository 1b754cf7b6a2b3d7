"""Asking for what is missing, where a person sits at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from common.clearml.api import ClearMLApi
from common.errors import ConfigurationError, Problem
from common.launch.queues import read_queue, read_queues
from common.options.declaration import Option
from common.options.loading import MODELS_PATH
from common.runtime.app import AnySettings


def can_ask(*, no_input: bool) -> bool:
    """Whether somebody can answer: standard input and output are terminals."""
    return not no_input and sys.stdin.isatty() and sys.stdout.isatty()


def choose_queue(
    api: ClearMLApi,
    given: str,
    *,
    may_ask: bool,
    further: Callable[[], Sequence[Problem]] = tuple,
) -> str:
    """The queue that was given, or the one that the user chooses among those there are.

    Args:
        api: The server.
        given: What the user said, empty for nothing.
        may_ask: Whether somebody can answer.
        further: What else is wrong, to be told at once.

    Raises:
        ConfigurationError: None was given, and nobody can be asked.
    """
    if given:
        return given
    known = read_queues(api)
    if not may_ask or not known:
        listed = ", ".join(sorted(known)) or "none"
        message = f"is required: --queue NAME; {api.host} has these: {listed}"
        raise ConfigurationError([Problem(message, title="Queue", path="queue"), *further()])
    for name in sorted(known):
        count = len(read_queue(api, known[name]).agents)
        agents = "no agent" if count == 0 else f"{count} agent{'s' if count != 1 else ''}"
        click.echo(f"  {name}  ({agents})", err=True)
    return str(
        click.prompt("Queue", type=click.Choice(sorted(known)), show_choices=False, err=True)
    )


def ask_missing(settings: type[AnySettings], parameters: Mapping[str, Any]) -> dict[str, str]:
    """Ask for every required parameter that is not given; secrets are not echoed."""
    return {option.path: _ask(option) for option in missing(settings, parameters)}


def missing(settings: type[AnySettings], parameters: Mapping[str, Any]) -> list[Option]:
    """The required parameters that are not given (pure)."""
    given = {path for path, value in parameters.items() if str(value or "").strip()}
    required = [option for option in settings.options(entry=False) if option.required]
    return [
        option
        for option in required
        if option.path not in given and not (option.per_model and MODELS_PATH in given)
    ]


def _ask(option: Option) -> str:
    click.echo(option.help, err=True)
    kind = click.Choice(option.choices) if option.choices and not option.open_choices else str
    return str(click.prompt(option.title, type=kind, hide_input=option.secret, err=True))
