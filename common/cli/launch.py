"""``clearml-deploy launch``: an instance through a queue and an agent."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from common.clearml.api import ClearMLApi
from common.cli.inputs import (
    app_argument,
    configuration_options,
    further_problems,
    load_app,
    read_configuration,
    source_options,
)
from common.cli.progress import show_progress
from common.cli.prompts import ask_missing, can_ask, choose_queue
from common.launch.follow import follow
from common.launch.launcher import Launch
from common.launch.launcher import launch as launch_instance
from common.launch.queues import find_queue, read_queue
from common.launch.source import SourceKind, choose_source


@click.command()
@app_argument
@click.option("--queue", default="", help="ClearML queue that an agent serves.")
@click.option(
    "--project", default="", help="ClearML project (who may read it may use the instance)."
)
@click.option("--name", default="", help="Name of the instance.")
@configuration_options
@source_options
@click.option("--wait", is_flag=True, help="Wait until the instance serves, showing its progress.")
@click.option("--no-input", is_flag=True, help="Never ask, even on a terminal.")
def launch(
    app_name: str,
    queue: str,
    project: str,
    name: str,
    config_file: Path | None,
    assignments: tuple[str, ...],
    source_kind: SourceKind | None,
    repository: str,
    branch: str,
    commit: str,
    container: str,
    container_arguments: str,
    wait: bool,
    no_input: bool,
) -> None:
    """Launch an instance of APP on a ClearML queue and print its task ID.

    The values are checked before there is a task. On a terminal you are asked for the queue and the model
    if you give none; an exported configuration may hold both.

    \b
    Examples:
      clearml-deploy launch llamacpp --queue gpu --wait \\
          --set Model/model=Qwen/Qwen2.5-3B-Instruct-GGUF/qwen2.5-3b-instruct-q4_0.gguf
      clearml-deploy launch vllm --config qwen.json --project "LLM services" --name qwen
      clearml-deploy launch vllm --queue gpu --config qwen.json --set Model/max_context_length=8192
      clearml-deploy launch llamacpp --queue gpu --config m.json --source git --branch main
      clearml-deploy launch llamacpp --queue k8s --config m.json --source installed --docker my/image:1

    `clearml-deploy options APP` lists the parameters, `validate` checks them without a server.
    """
    app = load_app(app_name)
    configuration = read_configuration(app, config_file, assignments)
    may_ask = can_ask(no_input=no_input)
    source = choose_source(
        source_kind, app.name, repository=repository, branch=branch, commit=commit
    )
    if source.left_out:
        click.echo(
            f"Not tracked by git, so not in the task: {', '.join(source.left_out)}", err=True
        )
    api = ClearMLApi()
    parameters = configuration.parameters
    queue = choose_queue(
        api,
        queue or configuration.attributes.queue,
        may_ask=may_ask,
        further=lambda: further_problems(app, parameters),
    )
    if may_ask:
        parameters = {**parameters, **ask_missing(app.settings, parameters)}
    request = Launch(
        app=app,
        parameters=parameters,
        queue=queue,
        project=project or configuration.attributes.project,
        name=name or configuration.attributes.name,
        source=source,
        container=container,
        container_arguments=container_arguments,
    )
    task_id = launch_instance(request, api, warn)
    report_launched(api, task_id, queue, wait=wait)


def warn(text: str) -> None:
    """Tell what is allowed and yet may not be meant."""
    click.echo(f"Warning: {text}", err=True)


def report_launched(api: ClearMLApi, task_id: str, queue: str, *, wait: bool) -> None:
    """Print the task's ID, what it waits for in its queue, and with `wait` its way to the first answer."""
    click.echo(task_id)
    waits_for = read_queue(api, find_queue(api, queue)).explain(task_id)
    if waits_for:
        click.echo(waits_for, err=True)
    if not wait:
        return
    last = show_progress(follow(api, task_id))
    if last.stage != "ready":
        click.echo(f"The instance ended ({last.task_status}): {last.reason}", err=True)
        sys.exit(1)
    for model in last.models:
        click.echo(f"{model['name']}  {model['url']}")
