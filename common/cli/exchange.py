"""``clearml-deploy export``: an instance's configuration as a file."""

from __future__ import annotations

from pathlib import Path

import click

from common.clearml.api import ClearMLApi
from common.cli.inputs import APP_NAMES, load_app
from common.errors import UserError
from common.forms.entry import Attributes
from common.forms.exchange import export_configuration
from common.launch.definition import values_of
from common.launch.follow import find_task
from common.launch.instances import instance_of
from common.launch.template import is_template


@click.command()
@click.argument("task_id")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="File to write; default: standard output.",
)
def export(task_id: str, output: Path | None) -> None:
    """Write the configuration of TASK_ID, an instance, a draft or a template, as JSON.

    The file holds what was set, and the instance's name, project and queue; never a key or a token, and
    nothing of its run. `launch`, `clone`, `run`, `validate` and `command` read it with --config.

    \b
    Examples:
      clearml-deploy export TASK_ID -o qwen.json
      clearml-deploy export TASK_ID > qwen.json
      clearml-deploy launch vllm --config qwen.json --queue gpu
    """
    api = ClearMLApi()
    task = find_task(api, task_id)
    instance = instance_of(api, task)
    if instance.app not in APP_NAMES:
        raise UserError(
            f'The task {task_id} runs the app "{instance.app}", which this version does not have.'
        )
    app = load_app(instance.app)
    # An instance of that name would be taken for the template itself.
    name = "" if is_template(task, app) else instance.name
    exported = export_configuration(
        instance.app,
        app.settings,
        values_of(task.get("hyperparams") or {}),
        Attributes(name, instance.project, instance.queue),
    )
    for secret in exported.secrets:
        click.echo(f"Left out, as a secret: {secret}", err=True)
    for note in exported.notes:
        click.echo(note, err=True)
    if output is None:
        click.echo(exported.text, nl=False)
        return
    try:
        output.write_text(exported.text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}.") from error
    click.echo(f"Written: {output}", err=True)
