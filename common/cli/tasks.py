"""``clearml-deploy key``: how to get into an instance."""

from __future__ import annotations

import click

from common.clearml.api import ClearMLApi
from common.errors import UserError
from common.launch.instances import read_instance
from common.runtime.offline_keys import read_key


@click.command()
@click.argument("task_id")
def key(task_id: str) -> None:
    """Print the API key that the instance TASK_ID generated or was given at its start.

    Whoever may read the task can do this. It also works for an instance without a server, on the machine
    and for the user that runs it.

    \b
    Example:
      curl -H "Authorization: Bearer $(clearml-deploy key TASK_ID)" http://worker:8800/v1/models
    """
    found = read_key(task_id)
    if task_id.startswith("offline-") and found is None:
        raise UserError(f"No instance {task_id} runs on this machine for this user.")
    if found is None:
        state = read_instance(ClearMLApi(), task_id).state
        found = state.given_key or state.status.get("api_key")
        if not found and state.stage in ("queued", "picked up"):
            stage = "a draft" if state.task_status == "created" else state.stage
            raise UserError(
                f"The task {task_id} is {stage}: its key is made when it starts to serve."
            )
        if not found:
            raise UserError(
                f"The task {task_id} has no key: it ended before it served, or its General/auth asks for none. "
                "With General/auth = clearml, `clearml-deploy token` prints what it asks for."
            )
    click.echo(found)
