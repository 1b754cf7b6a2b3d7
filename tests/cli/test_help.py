"""What `--help` says: every command and option, with examples that would work."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from common.cli.inputs import APP_NAMES, load_app
from common.cli.main import main

# A group's own help is the list of its commands.
Named = tuple[str, click.Command]


def commands() -> Iterator[Named]:
    """Every command that does something, by its full name."""
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        yield from below(name, command)


def below(name: str, command: click.Command) -> Iterator[Named]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    for inner, found in command.commands.items():
        yield from below(f"{name} {inner}", found)


EVERY = dict(commands())


def help_of(name: str) -> str:
    command = EVERY[name]
    return command.get_help(click.Context(command, info_name=f"clearml-deploy {name}"))


def test_the_commands_of_the_contract_are_there() -> None:
    words = (
        "demo launch run clone list status logs stop open key export validate options command"
        " register bench"
    )
    assert set(words.split()) <= set(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_a_command_says_what_it_does_with_an_example(name: str) -> None:
    text = EVERY[name].help or ""
    assert len(text.split("\n")[0]) > 15
    assert text.split("\n\n")[0].rstrip().endswith((".", ":"))
    assert re.search(rf"^ *[^\n]*clearml-deploy {name}\b", text, re.MULTILINE), "an example"


@pytest.mark.parametrize("name", EVERY)
def test_every_option_of_a_command_has_help(name: str) -> None:
    silent = [
        parameter.opts[-1]
        for parameter in EVERY[name].params
        if isinstance(parameter, click.Option) and len(parameter.help or "") < 8
    ]
    assert silent == []


@pytest.mark.parametrize("name", EVERY)
def test_the_examples_name_options_that_there_are(name: str) -> None:
    text = help_of(name)
    known = {flag for parameter in EVERY[name].params for flag in parameter.opts}
    known |= {flag for parameter in EVERY[name].params for flag in parameter.secondary_opts}
    known.add("--help")
    # A sentence may speak of another command's options; an example line calls this one.
    for line in re.findall(rf"clearml-deploy {name}\b[^\n|>]*", text):
        assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", line)) <= known, line
    for app, path in re.findall(rf"clearml-deploy {name} (\w+)[^\n]*--set (\w+/\w+)=", text):
        apps = [app] if app in APP_NAMES else APP_NAMES
        paths = {o.path for each in apps for o in load_app(each).settings.options(entry=False)}
        assert path in paths, f"{app} has no {path}"
