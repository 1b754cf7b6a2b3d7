"""``clearml-deploy register``: a template task per app, for people to clone."""

from __future__ import annotations

import json

import click

from common.clearml.api import ClearMLApi
from common.cli.inputs import APP_NAMES, load_app, source_options
from common.launch.source import SourceKind, choose_source
from common.launch.template import DEFAULT_PROJECT
from common.launch.template import register as register_template


@click.command()
@click.argument("app_names", metavar="[APP]...", nargs=-1, type=click.Choice(APP_NAMES))
@click.option(
    "--project",
    default=DEFAULT_PROJECT,
    show_default=True,
    help="ClearML project of the templates; who may read it may clone them.",
)
@source_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def register(
    app_names: tuple[str, ...],
    project: str,
    source_kind: SourceKind | None,
    repository: str,
    branch: str,
    commit: str,
    container: str,
    container_arguments: str,
    as_json: bool,
) -> None:
    """Create or update one template task per APP (default: all) and print their IDs.

    A template is a draft with every parameter, its type, and what it means. Clone it in the ClearML UI,
    edit the parameters and enqueue the clone; or use `clearml-deploy clone`, or the SDK. Run this again
    after an update of clearml-deploy: the templates keep their IDs.

    \b
    Examples:
      clearml-deploy register --project "LLM services" --source git
      clearml-deploy register llamacpp --repository https://git.example.com/clearml-deploy.git --branch main
      clearml-deploy register vllm --source installed --docker my-registry/clearml-deploy-vllm:1
    """
    names = tuple(dict.fromkeys(app_names)) or APP_NAMES
    if container and len(names) > 1:
        raise click.UsageError("--docker names the image of one app: give that APP.")
    sources = {
        name: choose_source(source_kind, name, repository=repository, branch=branch, commit=commit)
        for name in names
    }
    left_out = sources[names[0]].left_out
    if left_out:
        click.echo(f"Not tracked by git, so not in the tasks: {', '.join(left_out)}", err=True)
    api = ClearMLApi()
    rows = []
    for name in names:
        done = register_template(
            api,
            load_app(name),
            sources[name],
            project=project,
            container=container,
            container_arguments=container_arguments,
        )
        rows.append({"app": done.app, "task_id": done.task_id, "outcome": done.outcome})
        if not as_json:
            was_run = " (somebody had run it; it is a draft again)" * (done.outcome == "reset")
            click.echo(f"{done.app:12}  {done.task_id}  {done.outcome}{was_run}")
    if as_json:
        click.echo(json.dumps(rows, indent=2))
