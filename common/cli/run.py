"""``clearml-deploy run APP`` and ``python -m apps.<app>``: one instance in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from common.cli.errors import end_with
from common.cli.inputs import app_argument, configuration_options, load_app, read_parameters
from common.errors import DeployError
from common.runtime.run import RunRequest, exit_now
from common.runtime.run import run as run_instance


@click.command()
@app_argument
@configuration_options
@click.option("--name", default="", help="Name of the instance.")
@click.option("--project", default="", help="ClearML project of the instance's task.")
@click.option("--offline", is_flag=True, help="Use no ClearML server, even if one is configured.")
def run(
    app_name: str,
    config_file: Path | None,
    assignments: tuple[str, ...],
    name: str,
    project: str,
    offline: bool,
) -> None:
    """Run an instance of APP in this process, without an agent.

    With a ClearML server configured, the instance is a task on it; without one, ClearML's offline mode
    records it to a local folder. Ctrl-C drains and stops.

    Example: clearml-deploy run llamacpp --set Model/model=./model.gguf
    """
    app = load_app(app_name)
    parameters = read_parameters(app, config_file, assignments)
    request = RunRequest(
        app=app,
        parameters=parameters,
        name=name,
        project=project,
        offline=offline,
    )
    exit_now(run_instance(request))


def main(app_name: str) -> None:
    """The entry point of an app's task script."""
    try:
        run.main(args=[app_name, *sys.argv[1:]], prog_name=f"python -m apps.{app_name}")
    except DeployError as error:
        end_with(error)
