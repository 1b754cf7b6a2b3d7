"""``clearml-deploy launch``: an instance through a queue and an agent."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from common.clearml.api import ClearMLApi
from common.cli.inputs import app_argument, configuration_options, load_app, read_parameters
from common.cli.progress import show_progress
from common.launch.follow import follow
from common.launch.launcher import Launch, agents_of
from common.launch.launcher import launch as launch_instance
from common.launch.source import git_url, local_checkout


@click.command()
@app_argument
@click.option("--queue", required=True, help="ClearML queue that an agent serves.")
@click.option(
    "--project", default="", help="ClearML project (who may read it may use the instance)."
)
@click.option("--name", default="", help="Name of the instance.")
@configuration_options
@click.option("--repository", default="", help="Git URL the agent clones; default: this checkout.")
@click.option("--branch", default="", help="Branch of --repository.")
@click.option("--commit", default="", help="Commit of --repository.")
@click.option("--docker", "container", default="", help="Image for an agent in Docker mode.")
@click.option("--docker-args", "container_arguments", default="", help="Arguments for docker run.")
@click.option("--wait", is_flag=True, help="Wait until the instance serves, showing its progress.")
def launch(
    app_name: str,
    queue: str,
    project: str,
    name: str,
    config_file: Path | None,
    assignments: tuple[str, ...],
    repository: str,
    branch: str,
    commit: str,
    container: str,
    container_arguments: str,
    wait: bool,
) -> None:
    """Launch an instance of APP on a ClearML queue and print its task ID.

    Example: clearml-deploy launch llamacpp --queue gpu --set Model/model=provider/repo/file.gguf --wait
    """
    app = load_app(app_name)
    api = ClearMLApi()
    if repository:
        source = git_url(repository, branch, commit, app.name)
    else:
        source = local_checkout(app.name)
    if source.left_out:
        click.echo(
            f"Not tracked by git, so not in the task: {', '.join(source.left_out)}", err=True
        )
    request = Launch(
        app=app,
        parameters=read_parameters(config_file, assignments),
        queue=queue,
        project=project,
        name=name,
        source=source,
        container=container,
        container_arguments=container_arguments,
    )
    task_id = launch_instance(request, api)
    click.echo(task_id)
    if not agents_of(api, queue):
        click.echo(
            f'No agent serves the queue "{queue}" now: the task waits for one '
            f"(clearml-agent daemon --queue {queue}).",
            err=True,
        )
    if wait:
        last = show_progress(follow(api, task_id))
        if last.stage != "ready":
            click.echo(f"The instance ended ({last.task_status}): {last.reason}", err=True)
            sys.exit(1)
        for model in last.models:
            click.echo(f"{model['name']}  {model['url']}")
