"""``options``, ``validate`` and ``command``: what an app can be told, and what would come of it."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import click

from common.cli.inputs import app_argument, configuration_options, load_app, read_parameters
from common.options.declaration import Option
from common.runtime.preview import check_preview, preview

_FLAGS_OPTION = click.option(
    "--flags",
    "catalogue",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Use this catalogue of engine flags instead of the engine's own.",
)


@click.command()
@app_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def options(app_name: str, as_json: bool) -> None:
    """List every option of APP: title, parameter path, type, default, choices, help, engine flag.

    \b
    Examples:
      clearml-deploy options llamacpp
      clearml-deploy options vllm --json | jq -r ".[].path"
    """
    listed = list(load_app(app_name).settings.options())
    if as_json:
        click.echo(
            json.dumps([option_record(option) for option in listed], indent=2, ensure_ascii=False)
        )
        return
    group = None
    for option in listed:
        if option.group != group:
            group = option.group
            click.echo(f"\n{group or 'Instance'}")
        kind = "|".join(option.choices) or option.type
        flag = f"  [{option.flag}]" if option.flag else ""
        click.echo(f"  {option.path or option.title}  ({kind}){flag}")
        click.echo(f"      {option.title}: {option.help}")


def option_record(option: Option) -> dict[str, Any]:
    """One option as ``options --json`` prints it."""
    return {
        "title": option.title,
        "path": option.path or None,
        "group": option.group or None,
        "type": option.type,
        "default": option.default,
        "choices": list(option.choices),
        "required": option.required,
        "secret": option.secret,
        "help": option.help,
        "per_model": option.per_model,
        "flag": option.flag,
    }


@click.command()
@app_argument
@configuration_options
@_FLAGS_OPTION
def validate(
    app_name: str,
    config_file: Path | None,
    assignments: tuple[str, ...],
    catalogue: Path | None,
) -> None:
    """Check a configuration of APP; nothing is downloaded or started, no engine has to be installed.

    Says everything that is wrong at once, with exit code 2: unknown names, values, and what an
    engine of the version asked for does not have.

    \b
    Examples:
      clearml-deploy validate vllm --config qwen.json
      clearml-deploy validate llamacpp --set Model/model=./model.gguf --set Model/top_k=40
    """
    app = load_app(app_name)
    app = app.with_catalogue(catalogue) if catalogue else app
    parameters = read_parameters(app, config_file, assignments)
    checked = check_preview(app, parameters, os.environ)
    for warning in checked.warnings:
        click.echo(f"warning: {warning}")
    count = len(checked.settings.models)
    click.echo(f"The configuration is valid: {count} model{'s' if count != 1 else ''}.")


@click.command()
@app_argument
@configuration_options
@_FLAGS_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    app_name: str,
    config_file: Path | None,
    assignments: tuple[str, ...],
    catalogue: Path | None,
    as_json: bool,
) -> None:
    """Show what would run for a configuration of APP, secrets masked; nothing is started.

    For each model: the engine's command line and environment, what was translated into other words,
    and what has no effect in the engine's version.

    \b
    Examples:
      clearml-deploy command llamacpp --set Model/model=./model.gguf --set Model/context_size=8192
      clearml-deploy command vllm --config qwen.json --json
    """
    app = load_app(app_name)
    app = app.with_catalogue(catalogue) if catalogue else app
    parameters = read_parameters(app, config_file, assignments)
    result = preview(app, parameters, os.environ)
    if as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    click.echo(f"# engine {result['engine_version']}")
    for model in result["models"]:
        click.echo(f"\n# {model['name']}")
        for name, value in model["env"].items():
            click.echo(f"{name}={shlex.quote(value)} \\")
        click.echo(shlex.join(model["argv"]))
        for item in model["translated"]:
            click.echo(f"# translated: {item['title']} ({item['path']}) -> {item['to']}")
        for item in model["unavailable"]:
            click.echo(f"# no effect: {item['title']} ({item['path']}): {item['reason']}")
