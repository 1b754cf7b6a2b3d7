"""``clearml-deploy clone``: a new instance from a template, or from another instance."""

from __future__ import annotations

from pathlib import Path

import click

from common.clearml.api import ClearMLApi
from common.cli.inputs import (
    configuration_options,
    further_problems,
    load_app,
    read_configuration,
)
from common.cli.launch import report_launched, warn
from common.cli.prompts import ask_missing, can_ask, choose_queue
from common.launch.clone import Clone, parameters_of, read_original
from common.launch.clone import clone as clone_task
from common.launch.source import Source, choose_source


@click.command()
@click.argument("task_id")
@configuration_options
@click.option("--queue", default="", help="ClearML queue that an agent serves.")
@click.option(
    "--name", default="", help="Name of the instance; default: the original's, if it is one."
)
@click.option("--project", default="", help="ClearML project; default: the original's.")
@click.option("--wait", is_flag=True, help="Wait until the instance serves, showing its progress.")
@click.option("--no-input", is_flag=True, help="Never ask, even on a terminal.")
def clone(
    task_id: str,
    config_file: Path | None,
    assignments: tuple[str, ...],
    queue: str,
    name: str,
    project: str,
    wait: bool,
    no_input: bool,
) -> None:
    """Clone TASK_ID, a template or an instance, and launch the clone; print its task ID.

    It runs the same program with the same parameters, except for those that you change; an empty value
    unsets one. Status, endpoint and generated key of the original stay behind. The values are checked
    before there is a task. The clone of an instance that you ran by hand gets the program as `launch`
    does.

    \b
    Examples:
      clearml-deploy clone TEMPLATE_ID --queue gpu --set Model/model=Qwen/Qwen2.5-7B-Instruct --wait
      clearml-deploy clone TASK_ID --queue gpu --set Model/temperature=0.2 --name "qwen, cooler"
      clearml-deploy clone TASK_ID --queue gpu --set General/api_key=
    """
    api = ClearMLApi()
    original = read_original(api, task_id)
    app = load_app(original.app_name)
    own = parameters_of(original)
    configuration = read_configuration(app, config_file, assignments, own)
    may_ask = can_ask(no_input=no_input)
    changes = configuration.parameters
    queue = choose_queue(
        api,
        queue or configuration.attributes.queue,
        may_ask=may_ask,
        further=lambda: further_problems(app, {**own, **changes}),
    )
    if may_ask:
        changes = {
            **changes,
            **ask_missing(app.settings, {**own, **changes}),
        }
    source = Source()
    if original.is_by_hand:
        source = choose_source(None, app.name)
        where = source.repository or "the agent's own environment"
        click.echo(
            f"The original was run by hand; its clone gets the program from {where}.", err=True
        )
    request = Clone(
        app=app,
        original=original,
        queue=queue,
        changes=changes,
        name=name or configuration.attributes.name,
        project=project or configuration.attributes.project,
        source=source,
    )
    report_launched(api, clone_task(request, api, warn), queue, wait=wait)
