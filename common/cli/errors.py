"""How this program's errors end a command: one message, one exit code."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from common.errors import ConfigurationError, DeployError
from common.runtime.exit_codes import exit_code_of


class ErrorsEndIt(click.Group):
    """A group whose commands end with the message of an error and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except DeployError as error:
            end_with(error)


def end_with(error: DeployError) -> NoReturn:
    """Say what is wrong and end the process."""
    # The problems of a configuration have a heading of their own.
    is_headed = isinstance(error, ConfigurationError)
    click.echo(str(error) if is_headed else f"Error: {error}", err=True)
    sys.exit(exit_code_of(error))
